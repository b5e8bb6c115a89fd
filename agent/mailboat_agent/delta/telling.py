"""What the controller hears of a delta that came to nothing, whatever became of the download."""

from datetime import datetime

from mailboat_agent.delta.delivery import FailedDelta, Tally
from mailboat_agent.delta.failure import EVERYDAY, Reason
from mailboat_agent.ledger import Ledger
from mailboat_agent.update.events import BECAUSE_CHARS_MAX, milliseconds
from mailboat_schemas.eligibility import Candidate
from mailboat_schemas.events import Event, EventKind


def tell_failed_deltas(
    ledger: Ledger, model: str, candidate: Candidate, tally: Tally, now: datetime
) -> None:
    """Once for each patch and start. `EVERYDAY` ones are told with the delivery alone."""
    for failed in tally.failed:
        reason = failed.error.reason
        if reason in EVERYDAY:
            continue
        if reason is Reason.BASE_DAMAGED:
            ledger.tell_damage(model, failed.error.what, now)
        ledger.tell(_event(ledger, model, candidate, failed, now), _evidence(failed))


def _event(
    ledger: Ledger, model: str, candidate: Candidate, failed: FailedDelta, now: datetime
) -> Event:
    session, error = ledger.state.session, failed.error
    return Event(
        event_id=f"delta:{session}:{failed.patch[:16]}:{error.reason}",
        sequence=1,
        kind=EventKind.SECURITY,
        observed_at=milliseconds(now),
        model=model,
        version=candidate.version,
        digest=candidate.digest,
        code=error.code,
        because=error.what[:BECAUSE_CHARS_MAX],
    )


def _evidence(failed: FailedDelta) -> dict[str, str]:
    return {
        "reason": str(failed.error.reason),
        "patch": failed.patch,
        "base": failed.base or "",
        "target": failed.target,
    }
