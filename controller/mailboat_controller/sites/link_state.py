"""How the link to a site stands, from what its bridge told and from what came over it.

The bridge tells "1" when it connects; "0" is its will, which the centre's broker publishes when it
has not heard of the bridge for one and a half times its keepalive. Both are retained. A broker that
was killed keeps a "1" of a bridge that may be gone: no will is left to contradict it. So a "1" that
we were only shown because we subscribed counts once anything was heard from the site since.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

# Devices send a window of telemetry each minute; some of a site's are heard in this time.
CONFIRM_WITHIN = timedelta(minutes=5)


class Link(StrEnum):
    CONNECTED = "connected"
    CUT = "cut"
    UNCONFIRMED = "unconfirmed"  # connected as far as the broker remembers
    NEVER = "never"  # its bridge has not been here yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was told of a bridge. The first two are None before it was here for the first time.

    unconfirmed_since: when we were shown an old "1"; None: we heard it as it was said.
    """

    connected: bool | None = None
    changed_at: datetime | None = None
    unconfirmed_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """``since`` is when it was cut or connected, as far as we know; None: never."""

    link: Link
    since: datetime | None
    because: str = ""


def heard(told: Told, *, connected: bool, retained: bool, at: datetime) -> Told:
    """What is known after one more message of the bridge, or of the broker in its name."""
    changed_at = told.changed_at if told.connected == connected else at
    if not connected or not retained:
        return Told(connected=connected, changed_at=changed_at)
    since = at if told.connected is not True else told.unconfirmed_since or at
    return Told(connected=True, changed_at=changed_at, unconfirmed_since=since)


def link_state(
    told: Told, *, devices: int, last_heard_at: datetime | None, now: datetime
) -> LinkState:
    """
    Args:
        devices: enrolled at the site and not revoked. Of a site without any, nothing can be heard.
        last_heard_at: when any of them was last heard of.
    """
    if told.connected is None:
        return LinkState(link=Link.NEVER, since=None, because="its bridge has not connected yet")
    if not told.connected:
        return LinkState(link=Link.CUT, since=told.changed_at, because="its bridge is gone")
    asked = told.unconfirmed_since
    if asked is None or (last_heard_at is not None and last_heard_at > asked):
        return LinkState(link=Link.CONNECTED, since=told.changed_at)
    if devices and now - asked >= CONFIRM_WITHIN:
        because = "nothing has come from it since we asked the broker"
        return LinkState(link=Link.CUT, since=asked, because=because)
    because = "the broker remembers it so; nothing has come from it since"
    return LinkState(link=Link.UNCONFIRMED, since=asked, because=because)
