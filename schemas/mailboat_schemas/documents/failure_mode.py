"""What a device does when nothing it holds is approved any more."""

from enum import StrEnum


class FailureMode(StrEnum):
    """Declared by hardware class, release, or the device itself; the strictest of them counts."""

    FAIL_SAFE = "fail_safe"  # keep the declared fallback ready, and serve it if it is approved
    FAIL_CLOSED = "fail_closed"  # stop serving


def strictest(*modes: FailureMode | None) -> FailureMode:
    """``fail_closed`` as soon as one of them says so; None says nothing."""
    return FailureMode.FAIL_CLOSED if FailureMode.FAIL_CLOSED in modes else FailureMode.FAIL_SAFE
