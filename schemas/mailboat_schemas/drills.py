"""Rollback drills: a device proves that it could go back to the release before, and goes nowhere.

Nobody is answered by a release that is drilled. How a drill ended is a state event; its evidence
names the order, and how long a return would take.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from mailboat_schemas.codec import WireModel
from mailboat_schemas.names import Digest, Version

# In the evidence of the three events.
ORDER = "order"  # of whom it was, see `DrillId`
RETURN_MS = "return_ms"  # from bytes on the disk to a worker that is warm
ANSWERED = "answered_meanwhile"  # requests that what serves answered while it went on

EVERY_DAYS_MAX = 366

# An order's sixteen hex digits, ``due-`` and the number of a period, or of the device's own people.
DrillId = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{16}|(?:due|local)-[0-9]{1,15})$")]


class DrillOutcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"  # a rollback would not work now
    SKIPPED = "skipped"  # nothing was learnt


class ReportedDrill(WireModel):
    """The newest drill of one model on one device, and when one last passed."""

    order: DrillId
    outcome: DrillOutcome
    code: str = Field(default="", max_length=64)
    version: Version | None = Field(default=None, description="the release that was drilled")
    digest: Digest | None = None
    at: int = Field(ge=0, description="milliseconds since 1970 UTC by the device's clock")
    return_ms: float | None = Field(default=None, ge=0)
    passed_at: int | None = Field(default=None, ge=0, description="the last that passed, likewise")
