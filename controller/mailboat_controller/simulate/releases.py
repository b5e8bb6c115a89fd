"""Releases as the simulator knows them, and what they do on a device."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from mailboat_schemas import cohort
from mailboat_schemas.desired import ReleaseRef
from mailboat_schemas.documents.release import ReleaseDocument, document_digest

MODEL = "model"
NO_SITE = "-"  # as the controller calls it
LATENCY_P95_MS = 5.0
RUNTIME_VERSION = "1.20.0"
PROVIDERS = frozenset({"CPUExecutionProvider"})


class Fault(StrEnum):
    """How a release is bad on the devices that it does not suit."""

    NONE = "none"
    TRIAL = "trial"  # its own gates refuse it
    SOAK = "soak"  # it fails on live traffic
    REBOOT = "reboot"  # each attempt at it takes the device down
    SILENT = "silent"  # it takes the device off the air while it serves


# How the bad devices of a release are shared out, where nobody says otherwise.
MANNERS: Sequence[tuple[Fault, float]] = (
    (Fault.TRIAL, 0.5),
    (Fault.SOAK, 0.3),
    (Fault.REBOOT, 0.1),
    (Fault.SILENT, 0.1),
)


@dataclass(frozen=True, kw_only=True)
class SimulatedRelease:
    """``broken`` is the share of devices that it does not suit, 0 to 1."""

    document: ReleaseDocument
    digest: str
    size_bytes: int
    broken: float = 0.0
    manners: Sequence[tuple[Fault, float]] = MANNERS
    latency_p95_ms: float = LATENCY_P95_MS  # of single requests, in the trial on any device
    # A device is as bad for a release each time: what was found out about it once is kept.
    _found: dict[str, Fault] = field(default_factory=dict, repr=False, compare=False)

    @property
    def version(self) -> str:
        return self.document.version

    @cached_property
    def ref(self) -> ReleaseRef:
        return ReleaseRef(version=self.document.version, digest=self.digest)

    @property
    def throughput_per_second(self) -> float:
        """Of single requests, one after the other."""
        return 1000 / self.latency_p95_ms

    @cached_property
    def files(self) -> frozenset[str]:
        """What a device must hold to run it: the document, and the artifacts of all variants."""
        needed = (variant.needed for variant in self.document.variants)
        return frozenset({self.digest}).union(*needed)

    def fault_on(self, device: str) -> Fault:
        if self.broken <= 0:
            return Fault.NONE
        if device not in self._found:
            self._found[device] = self._drawn(device)
        return self._found[device]

    def _drawn(self, device: str) -> Fault:
        drawn = cohort.start_fraction(f"fault:{self.digest}", device)
        if drawn >= self.broken:
            return Fault.NONE
        share = drawn / self.broken
        for fault, weight in self.manners:
            share -= weight
            if share < 0:
                return fault
        return self.manners[-1][0]


def make_release(
    version: str,
    *,
    classes: Sequence[str],
    size_bytes: int = 4 << 20,
    broken: float = 0.0,
    manners: Sequence[tuple[Fault, float]] = MANNERS,
    soak_seconds: float = 300.0,
    security_version: int = 0,
    fallback: str | None = None,
    peak_memory_bytes: int = 1 << 20,
    latency_p95_ms: float = LATENCY_P95_MS,
) -> SimulatedRelease:
    """One variant for all ``classes``, one model file."""
    content = hashlib.sha256(f"model:{version}".encode()).hexdigest()
    document = ReleaseDocument.model_validate(
        {
            "model": MODEL,
            "version": version,
            "security_version": security_version,
            "interface": {
                "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 4]}],
                "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 1]}],
            },
            "variants": [
                {
                    "hardware_classes": list(classes),
                    "files": [
                        {"path": "m.onnx", "role": "model", "sha256": content, "length": size_bytes}
                    ],
                    "runtime": {"version": ">=1.18"},
                    "peak_memory": peak_memory_bytes,
                    "health": {"soak": {"seconds": soak_seconds}},
                }
            ],
            "compatibility": {},
            "provenance": {},
            "fallback": fallback,
        }
    )
    return SimulatedRelease(
        document=document,
        digest=document_digest(document.canonical_bytes()),
        size_bytes=size_bytes,
        broken=broken,
        manners=manners,
        latency_p95_ms=latency_p95_ms,
    )
