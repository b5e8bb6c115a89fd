"""Asking devices for inferences, and comparing with a direct onnxruntime run."""

import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mailboat_controller.demo.fleet import Fleet
from mailboat_controller.demo.models import VERSIONS, Series, live_request, reference_outputs
from mailboat_controller.demo.narrator import Narrator
from mailboat_controller.demo.traffic import InferenceFailed, infer

OUTPUT_TOLERANCE = 1e-5
BEFORE, DURING, AFTER = "before the outage", "during the outage", "after the rollback"


class Caller:
    """An application beside the devices: asks, compares, and remembers what it got."""

    def __init__(self, fleet: Fleet, series: Series, narrator: Narrator, *, seed: int) -> None:
        self._fleet = fleet
        self._series = series
        self._narrator = narrator
        self._rng = random.Random(seed)  # noqa: S311 - repeatable requests, no secret
        self._served: list[str] = []
        self._problems: list[str] = []
        self._reached: set[str] = set()

    def ask(self, devices: Iterable[str], letter: str, when: str) -> None:
        for name in devices:
            device = self._fleet.devices[name]
            inputs = live_request(self._rng, loud=False)
            model = self._series.models[letter][device.hardware_class]
            expected = reference_outputs(model, inputs)
            self._reached.add(when)
            try:
                version, outputs = infer(device.serving_port or 0, inputs)
            except (InferenceFailed, OSError) as error:
                self._problems.append(f"{name} {when}: {error}")
                continue
            if version != VERSIONS[letter] or not _close(outputs, expected):
                self._problems.append(f"{name} {when}: {version}, or other outputs")
                continue
            self._served.append(f"{name} {when}: {version}")
            self._narrator.say(f"{name} answers {when}: version {version}, equal to onnxruntime")

    def conclude(self) -> None:
        """Tell the step ``device_serves``."""
        missing = {BEFORE, DURING, AFTER} - self._reached
        if self._problems or missing:
            problem = "; ".join(self._problems) or f"never asked {sorted(missing)}"
            self._narrator.failed("device_serves", problem)
            return
        self._narrator.chapter("And all the time, the models were served")
        self._narrator.passed(
            "device_serves",
            "answers before, during and after were equal to a direct onnxruntime run",
            asked=self._served,
            tolerance=OUTPUT_TOLERANCE,
        )


def _close(outputs: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return outputs.keys() == expected.keys() and all(
        outputs[name].shape == expected[name].shape
        and np.allclose(outputs[name], expected[name], atol=OUTPUT_TOLERANCE)
        for name in expected
    )
