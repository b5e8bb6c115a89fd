"""The device's trial of a built release, on this machine, as often as asked."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailboat_controller.bundles.device_process import DeviceProcess
from mailboat_controller.releases.build import DOCUMENT_NAME, Build
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.documents.release import ReleaseDocument, Variant
from mailboat_schemas.documents.trial_gates import BatchGate
from mailboat_schemas.errors import ConfigurationInvalid

Say = Callable[[str], None]

# Gates that a measurement closes. Opened, they say how far off it is.
MEASURED_GATES = (
    "cold_start_exceeded",
    "latency_exceeded",
    "throughput_too_low",
    "memory_exceeded",
)
_OPEN_MS, _OPEN_MEMORY_BYTES = 600_000.0, 8 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one trial. ``report`` holds what was measured, in an agent's own words for it; of a trial
    that a measurement failed, it comes from a second one with those gates open."""

    passed: bool
    reason: str = ""
    what: str = ""
    evidence: Mapping[str, Any]
    report: Mapping[str, Any]
    seconds: float

    @property
    def told(self) -> dict[str, Any]:
        content: dict[str, Any] = {"passed": self.passed, "seconds": round(self.seconds, 3)}
        if not self.passed:
            content |= {"reason": self.reason, "what": self.what, "evidence": dict(self.evidence)}
        return content | {"report": dict(self.report)}


def variant_of(document: ReleaseDocument, hardware_class: str | None) -> tuple[str, Variant]:
    """The class to try for, and its variant; without a name, the only class there is.

    Raises:
        ConfigurationInvalid: no such class, or several and none named.
    """
    classes = [name for variant in document.variants for name in variant.hardware_classes]
    if hardware_class is None and len(classes) == 1:
        hardware_class = classes[0]
    variant = None if hardware_class is None else document.variant_for(hardware_class)
    if variant is None or hardware_class is None:
        wanted = "several classes" if hardware_class is None else f"no class {hardware_class}"
        raise ConfigurationInvalid(
            f"{document.model} {document.version} has {wanted}: {', '.join(sorted(classes))}.",
            next_step="name one of them with --class.",
        )
    if any(file.sealed is not None for file in variant.files):
        raise ConfigurationInvalid(
            "The build is encrypted, and this machine has no device's key.",
            next_step="try it as a build without --encrypt: the trial sees the same files.",
        )
    return hardware_class, variant


def memory_budget_bytes(variant: Variant, described: HardwareClass | None) -> int:
    """What the class allows; without its description, what the release declares."""
    return variant.peak_memory if described is None else described.spec.memory_budget


def run_trials(
    build: Build, hardware_class: str, budget_bytes: int, runs: int, say: Say
) -> list[Outcome]:
    """
    Raises:
        AgentMissing, DeviceProcessEnded, ModelRefused: no verdict.
    """
    outcomes = []
    with DeviceProcess.start() as device:
        for number in range(1, runs + 1):
            say(f"Trial {number} of {runs}: cold start, golden samples, latency, clean restart.")
            outcome = run_trial(device, build, hardware_class, budget_bytes)
            if not outcome.passed and outcome.reason in MEASURED_GATES and not outcome.report:
                say(f"{outcome.what} Measuring on with that gate open.")
                outcome = _with_measurements(device, build, hardware_class, outcome)
            outcomes.append(outcome)
    return outcomes


def run_trial(
    device: DeviceProcess, build: Build, hardware_class: str, budget_bytes: int
) -> Outcome:
    return _try(device, build, build.directory / DOCUMENT_NAME, hardware_class, budget_bytes)


def _with_measurements(
    device: DeviceProcess, build: Build, hardware_class: str, failed: Outcome
) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="mailboat-open-gates-") as scratch:
        path = Path(scratch) / DOCUMENT_NAME
        path.write_bytes(with_open_gates(build.document).canonical_bytes())
        measured = _try(device, build, path, hardware_class, _OPEN_MEMORY_BYTES)
    return Outcome(
        passed=False,
        reason=failed.reason,
        what=failed.what,
        evidence=failed.evidence,
        report=measured.report,
        seconds=failed.seconds,
    )


def with_open_gates(document: ReleaseDocument) -> ReleaseDocument:
    """The same release with room for any measurement; its golden samples stay what they are."""
    variants = tuple(
        variant.model_copy(
            update={
                "peak_memory": _OPEN_MEMORY_BYTES,
                "health": variant.health.model_copy(
                    update={
                        "cold_start_ms_max": _OPEN_MS,
                        "latency_p95_ms_max": None,
                        "batches": tuple(
                            BatchGate(size=gate.size) for gate in variant.health.batches
                        ),
                    }
                ),
            }
        )
        for variant in document.variants
    )
    return document.model_copy(update={"variants": variants})


def _try(
    device: DeviceProcess, build: Build, document: Path, hardware_class: str, budget_bytes: int
) -> Outcome:
    variant = build.document.variant_for(hardware_class)
    files = variant.files if variant is not None else ()
    started = time.monotonic()
    answer = device.ask(
        {
            "op": "try",
            "document": str(document.resolve()),
            "files": {file.sha256: str(build.blob(file).resolve()) for file in files},
            "hardware_class": hardware_class,
            "memory_budget_bytes": budget_bytes,
        }
    )
    return Outcome(
        passed=answer["passed"],
        reason=answer.get("reason", ""),
        what=answer.get("what", ""),
        evidence=answer.get("evidence", {}),
        report=answer.get("report", {}),
        seconds=time.monotonic() - started,
    )
