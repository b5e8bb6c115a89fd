"""What release B costs on the wire: looked at before it is approved, and counted afterwards."""

from collections import Counter
from pathlib import Path
from typing import Any

from mailboat_controller.demo.fleet import Fleet
from mailboat_controller.demo.models import CLASSES, MODEL_NAME, VERSIONS
from mailboat_controller.demo.narrator import Narrator, StepFailed
from mailboat_controller.demo.observer import EXPOSED, Observer
from mailboat_controller.demo.publisher import Publisher
from mailboat_controller.releases.build import Build
from mailboat_schemas.deltas import Delivery, DeliveryOutcome, delivery_of

STEP = "release_b_as_delta"


class Arrival:
    def __init__(
        self, fleet: Fleet, narrator: Narrator, observer: Observer, publisher: Publisher
    ) -> None:
        self._fleet = fleet
        self._narrator = narrator
        self._observer = observer
        self._publisher = publisher
        self._release_bytes: dict[str, int] = {}  # of B, by class

    def prepare(self, source: Path) -> Build:
        """CI hands B in; patches are built from what devices run, and said to be worth it."""
        narrator = self._narrator
        narrator.chapter("Release B is handed in; what will it cost on the wire?")
        built = self._publisher.hand_in("b", source)
        self._release_bytes = {
            name: variant.size_bytes
            for name in CLASSES
            if (variant := built.document.variant_for(name)) is not None
        }
        with narrator.promising(STEP):
            files = self._fleet.command(
                *("release", "delta", MODEL_NAME, "--from", VERSIONS["A"], "--to", VERSIONS["B"]),
                *("--explain", "--connection", str(self._fleet.operator)),
            )["rows"]
            for file in files:
                narrator.say(_sentence(file))
        return built

    def conclude(self) -> None:
        """How B came, from the events of the devices that tried it."""
        narrator = self._narrator
        with narrator.promising(STEP):
            came = self._deliveries()
            outcomes = Counter(each.outcome for each in came.values())
            if outcomes.keys() != {DeliveryOutcome.DELTA}:
                raise StepFailed(f"B came to the devices as {dict(outcomes)}")
            fetched = sum(each.fetched_bytes for each in came.values())
            whole = sum(
                self._release_bytes[self._fleet.devices[name].hardware_class] for name in came
            )
            told = f"{_size(fetched / len(came))} instead of {_size(whole / len(came))}"
            narrator.passed(
                STEP,
                f"{len(came)} of {len(self._fleet.devices)} devices took {told} "
                f"(patches from {VERSIONS['A']}): {1 - fetched / whole:.2%} saved",
                devices=len(came),
                fetched_bytes=fetched,
                whole_bytes=whole,
                base=VERSIONS["A"],
            )

    def _deliveries(self) -> dict[str, Delivery]:
        told = {
            name: delivery_of(event["content"].get("evidence", {}))
            for name, event in self._observer.events("B")
            if event["kind"] == EXPOSED
        }
        silent = sorted(self._fleet.devices.keys() - {name for name, each in told.items() if each})
        if silent:
            raise StepFailed(f"{silent} did not say how B came")
        return {name: each for name, each in told.items() if each is not None}


def _sentence(file: dict[str, Any]) -> str:
    name = f"{file['path']} for {file['hardware_class']}"
    if file["note"]:
        return f"{name}: {file['note']}"
    delta = file["delta"] or {}
    if not delta.get("patch_length"):
        return f"{name}: no patch is worth it"
    return (
        f"{name}: {_size(delta['patch_length'])} as {delta['format']} "
        f"instead of {_size(file['length'])}"
    )


def _size(size_bytes: float) -> str:
    """As people say it."""
    for unit, factor in (("MB", 1e6), ("KB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes:.0f} bytes"
