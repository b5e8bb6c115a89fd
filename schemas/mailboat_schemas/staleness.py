"""How far behind the approved releases a device is, and whether that is further than it may be.

Pure, and the same on the device and in the controller: both read the approval role, whose entries
say when each release was approved and which security version it has. A release counts from then
on for every class that its plan covers, whether a wave has reached the device or not; one that
shall not count is withdrawn. A device can judge by what it has heard, and says when that is old.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from weakref import WeakKeyDictionary

from mailboat_schemas.errors import TrustRefused
from mailboat_schemas.plan import INSTANT_MAX, Plan
from mailboat_schemas.policy_rules import Staleness
from mailboat_schemas.trust import TrustView, approval_role

MARK_KEY = "mailboat_approved"
NOTE = "stale:"  # in a device's report, before the model's name
STOPPED_NOTE = "stale_stopped:"


class Action(StrEnum):
    """What a device does about a model that is further behind than it may be."""

    NONE = "none"  # it is not, or the device cannot know
    REPORT = "report"
    WARN = "warn"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approved:
    """``at`` is when its approval was signed, seconds since 1970 UTC; 0: it does not say."""

    version: str
    security_version: int
    at: int
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """``minor_versions`` counts the approved minor versions above what serves, of any major one.

    ``security_since``: since when a release of a higher security version has been approved; None:
    there is none. ``broken`` says in words which bounds are; empty: none.
    """

    model: str
    serving: str
    minor_versions: int
    security_since: datetime | None
    broken: tuple[str, ...]


def approval_mark(security_version: int, at: datetime) -> dict[str, Any]:
    """What stands beside the plan in ``custom`` of an approval."""
    return {MARK_KEY: {"at": int(at.timestamp()), "security_version": security_version}}


def how_far_behind(
    model: str,
    serving: str,
    approved: Iterable[Approved],
    bound: Staleness,
    *,
    hardware_class: str,
    now: datetime,
) -> Behind:
    """
    Args:
        serving: the version that serves.
    """
    fleet = [each for each in approved if each.plan.covers(hardware_class)]
    own = version_order(serving)
    newer = [each for each in fleet if version_order(each.version) > own]
    minors = {version_order(each.version)[:2] for each in newer} - {own[:2]}
    secured = max((each.security_version for each in fleet if each.version == serving), default=0)
    better = [each.at for each in newer if each.security_version > secured]
    since = datetime.fromtimestamp(min(*better, INSTANT_MAX), UTC) if better else None
    return Behind(
        model=model,
        serving=serving,
        minor_versions=len(minors),
        security_since=since,
        broken=tuple(_broken(bound, len(minors), since, now)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforcement:
    """What policy makes of a model that is further behind than it may be.

    ``stops_at`` is when it is served no more; None: never for this.
    """

    action: Action
    because: str = ""
    stops_at: datetime | None = None


NOT_STALE = Enforcement(action=Action.NONE)


def enforcement(behind: Behind, bound: Staleness, stale_since: int, now: datetime) -> Enforcement:
    """
    Args:
        stale_since: when the device found it so, seconds since 1970 UTC; 0: now. One from the
            future was said by a clock that was wrong, and counts from now on.
    """
    if not behind.broken:
        return NOT_STALE
    because = "; ".join(behind.broken)
    if bound.enforce != "stop":
        action = Action.WARN if bound.enforce == "warn" else Action.REPORT
        return Enforcement(action=action, because=because)
    since = now.timestamp() if not 0 < stale_since <= now.timestamp() else stale_since
    stops_at = datetime.fromtimestamp(since, UTC) + timedelta(hours=bound.grace_hours)
    action = Action.STOP if now >= stops_at else Action.WARN
    return Enforcement(action=action, because=because, stops_at=stops_at)


def done_about_it(found: Enforcement) -> str:
    """For `explain`; empty where nothing is done about it but telling."""
    match found.action:
        case Action.NONE | Action.REPORT:
            return ""
        case Action.WARN if found.stops_at is not None:
            return (
                f"answers are marked; it is served no more from {found.stops_at:%Y-%m-%d %H:%M} UTC"
            )
        case Action.WARN:
            return "answers are marked"
        case Action.STOP:
            return "not served until something newer can be: policy"


def _broken(bound: Staleness, minors: int, since: datetime | None, now: datetime) -> Iterable[str]:
    most, hours = bound.minor_versions_behind_max, bound.security_within_hours
    if most is not None and minors > most:
        yield f"{minors} minor versions behind, {most} are allowed"
    if hours is not None and since is not None and now - since > timedelta(hours=hours):
        yield (
            f"a higher security version was approved {since:%Y-%m-%d %H:%M} UTC, "
            f"{hours} h are allowed"
        )


def version_order(version: str) -> tuple[int, int, int, int]:
    """Of plain versions; a pre-release comes before what it leads to, whatever it is called."""
    plain, _, before = version.partition("-")
    major, minor, patch = (int(part) for part in plain.split("."))
    return major, minor, patch, 0 if before else 1


def approved_releases(view: TrustView | None, model: str) -> tuple[Approved, ...]:
    """What the newest verified metadata lists as approved; nothing where the role is not held, or
    does not verify."""
    if view is None:
        return ()
    found = _read.setdefault(view, {})
    if model not in found:
        try:
            role = view.delegated(approval_role(model))
        except TrustRefused:
            role = None
        found[model] = () if role is None else tuple(_approved(model, role.targets))
    return found[model]


# By view, whose bytes do not change: reports ask every second, rosters for every device.
_read: WeakKeyDictionary[TrustView, dict[str, tuple[Approved, ...]]] = WeakKeyDictionary()


def _approved(model: str, targets: Mapping[str, Any]) -> Iterable[Approved]:
    before = f"approval/{model}/"
    for path, target in targets.items():
        version = path.removeprefix(before).removesuffix(".json")
        custom = target.custom if isinstance(target.custom, dict) else {}
        mark = custom.get(MARK_KEY)
        mark = mark if isinstance(mark, dict) else {}
        try:
            version_order(version)
            yield Approved(
                version=version,
                security_version=max(0, int(mark.get("security_version", 0))),
                at=max(0, int(mark.get("at", 0))),
                plan=Plan.from_custom(custom),
            )
        except (TrustRefused, ValueError, TypeError, OverflowError):
            continue  # nothing may run on it, so nobody is behind it
