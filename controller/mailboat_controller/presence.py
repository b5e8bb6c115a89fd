"""Is a device there? What we hold, and whether we could know: unknown is never told as offline.

A birth or a will reaches us through brokers. While our own is away, or the link to a site's, what
was told before says nothing of now; so it is "unknown since".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from mailboat_schemas.documents.hardware_class import WhenDisconnected


class HeardOf(Protocol):
    """When and how a device was heard of: its row, or the part of it that a list holds."""

    @property
    def online(self) -> bool | None: ...
    @property
    def presence_at(self) -> datetime | None: ...
    @property
    def last_seen_at(self) -> datetime | None: ...


class Presence(StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    presence: Presence
    since: datetime | None
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Whether news of devices can come to us, along one way.

    away_since: when it was cut; None while it holds.
    forgot_at: when a broker came back without what it had retained: who has not been heard of
        since then may have gone without a word.
    """

    away_since: datetime | None = None
    forgot_at: datetime | None = None
    name: str = "the broker"


# What a class says of a device of it that is offline; of one nobody can know of, it says nothing.
_CLASS_SAYS = {
    WhenDisconnected.NORMAL: "",
    WhenDisconnected.EXPECTED: "as is expected of its class",
    WhenDisconnected.ERROR: "which is an error for its class",
}


def in_words(stands: Standing, means: WhenDisconnected) -> str:
    """Why it stands so, with what that means for a device of its class."""
    if stands.presence is not Presence.OFFLINE:
        return stands.because
    return ", ".join(filter(None, (stands.because, _CLASS_SAYS[means])))


def standing(row: HeardOf, *ways: Reach) -> Standing:
    """
    Args:
        ways: from the device to us, such as our own broker and the link to the device's site.
    """
    if row.online is None:
        return Standing(presence=Presence.UNKNOWN, since=None, because="never heard of")
    cut = [(way.away_since, way.name) for way in ways if way.away_since is not None]
    if cut:
        since, name = min(cut)
        return Standing(presence=Presence.UNKNOWN, since=since, because=f"{name} is away")
    forgot = _forgot(row, ways) if row.online else []
    if forgot:
        heard = _heard_of(row)
        because = f"{forgot[0].name} has lost its state, and the device was not heard of since"
        return Standing(presence=Presence.UNKNOWN, since=heard, because=because)
    presence = Presence.ONLINE if row.online else Presence.OFFLINE
    because = "" if row.online else "its connection to the broker has ended"
    return Standing(presence=presence, since=row.presence_at, because=because)


def _forgot(row: HeardOf, ways: Sequence[Reach]) -> list[Reach]:
    """Ways that lost what they knew after the device was last heard of."""
    lost = [way for way in ways if way.forgot_at is not None]
    if not lost:
        return lost  # as good as always, and this is asked for every device of a fleet
    heard = _heard_of(row)
    return [way for way in lost if way.forgot_at and (heard is None or heard < way.forgot_at)]


def _heard_of(row: HeardOf) -> datetime | None:
    return max(filter(None, (row.presence_at, row.last_seen_at)), default=None)


class BrokerReach:
    """Our own connection to the broker, as it was when somebody last looked."""

    def __init__(self, started_at: datetime) -> None:
        self._reach = Reach(away_since=started_at)

    @property
    def now(self) -> Reach:
        return self._reach

    def look(self, *, connected: bool, at: datetime) -> None:
        held = self._reach
        if connected == (held.away_since is None):
            return
        self._reach = Reach(away_since=None if connected else at, forgot_at=held.forgot_at)

    def forgot(self, at: datetime) -> None:
        """The broker said that it has no session of ours: it may have lost all it retained."""
        self._reach = Reach(away_since=self._reach.away_since, forgot_at=at)
