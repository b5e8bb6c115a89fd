"""Whether now is the time to let another release take over on a device: windows and cadence. Pure.

They protect what serves: a device on which nothing of a model serves takes one at once. They bind
what is new: going back, a withdrawal and an install that is under way wait for nothing. An
emergency plan, which an approver signed as one with a reason, waits for neither.
"""

from datetime import UTC, datetime, timedelta

from mailboat_schemas.maintenance import first_opening, opening
from mailboat_schemas.plan import Plan
from mailboat_schemas.policy_rules import Rules

WINDOW, CADENCE = "window", "cadence"
OF_TIME = frozenset({WINDOW, CADENCE})  # a no means: not yet
DAY = timedelta(days=1)

Answer = tuple[bool, str]  # whether it may, and the evidence


def in_window(
    rules: Rules, plan: Plan | None, switched_at: int | None, now: datetime, *, clock_trusted: bool
) -> Answer:
    """
    Args:
        switched_at: of the model's last switch, seconds since 1970 UTC, 0 if that is not known;
            None: nothing serves.
    """
    if not (rules.windows or rules.lacking):
        return True, "no maintenance window is set for this device"
    if switched_at is None:
        return True, "nothing serves here, so no window is waited for"
    if plan is not None and plan.is_emergency:
        return True, f"windows are passed over, {plan.emergency}"
    if rules.lacking:
        return False, rules.lacking
    if not clock_trusted:
        return False, "whether a maintenance window is open cannot be told: the clock is wrong"
    found = opening(rules.windows, rules.own_zone, now)
    return found.open, found.because


def in_cadence(rules: Rules, plan: Plan | None, switched_at: int | None, now: datetime) -> Answer:
    """Args: switched_at: as of `in_window`."""
    if not rules.days_between:
        return True, "no days between two switches are asked for"
    every = f"one switch in {rules.days_between} days"
    if not switched_at:
        return True, f"{every}, and none is known"
    if plan is not None and plan.is_emergency:
        return True, f"{every} is passed over, {plan.emergency}"
    # Said by a clock that was wrong, or by a device that lies: no number is too large to be told.
    if switched_at > now.timestamp():
        return True, f"{every}, and none is known before now"
    last = datetime.fromtimestamp(switched_at, UTC)
    opens = cadence_opens(rules, switched_at)
    if now < opens:
        return False, f"{every}; the last was {_said(last)}, the next may be {_said(opens)}"
    return True, f"{every}; the last was {_said(last)}"


def earliest(
    rules: Rules, plan: Plan | None, switched_at: int | None, at: datetime
) -> datetime | None:
    """``at``, or the first instant after it at which a device may switch; None: never, as far as
    is known."""
    if switched_at is None or (plan is not None and plan.is_emergency):
        return at
    if rules.lacking:
        return None
    if switched_at and not in_cadence(rules, plan, switched_at, at)[0]:
        at = cadence_opens(rules, switched_at)
    return first_opening(rules.windows, rules.own_zone, at) if rules.windows else at


def cadence_opens(rules: Rules, switched_at: int) -> datetime:
    """From when on the next switch may be."""
    return datetime.fromtimestamp(switched_at, UTC) + rules.days_between * DAY


def _said(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
