"""Asking devices for inferences, and comparing with a direct onnxruntime run."""

import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mailboat_controller.demo.application import infer_as_application
from mailboat_controller.demo.fleet import Fleet
from mailboat_controller.demo.models import (
    MODEL_NAME,
    VERSIONS,
    Series,
    live_request,
    reference_outputs,
)
from mailboat_controller.demo.narrator import Narrator
from mailboat_controller.demo.traffic import InferenceFailed, infer

OUTPUT_TOLERANCE = 1e-5
MIB = 1 << 20
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

    def introduce(self, name: str) -> None:
        """Say how a device tried what it serves, and let an application ask it."""
        device = self._fleet.devices[name]
        url = f"http://127.0.0.1:{device.serving_port}"
        if (figures := self._trial_of(name)) is not None:
            self._narrator.say(
                f"{name} tried it in a process of its own: p95 {figures['latency_p95_ms']:.1f} ms, "
                f"{figures['peak_memory_bytes'] / MIB:.0f} MiB at most"
            )
        try:
            answer = infer_as_application(url, MODEL_NAME, live_request(self._rng, loud=False))
        except (OSError, ValueError) as error:
            self._problems.append(f"{name}, asked with mailboat_agent.client: {error}")
            return
        self._narrator.say(
            f"an application asks {url}/v2/models/{MODEL_NAME} with mailboat_agent.client: "
            f"version {answer['version']} answers"
        )

    def _trial_of(self, name: str) -> dict[str, Any] | None:
        """As the device has told of the release that serves, if it has by now."""
        told = [e for e in self._fleet.events(name) if e["kind"] == "soak_started"]
        return told[-1]["content"].get("evidence", {}).get("trial") if told else None

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
