"""What brokers say of sites' bridges, into the registry.

mosquitto publishes ``$SYS/broker/connection/<bridge>/state`` in a bridge's name, 1 or 0, retained;
a bridge's name is its site's (`broker-config/mosquitto/site.conf`).
"""

import re
from collections.abc import Iterable
from datetime import datetime

import structlog

from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.sites.flapping import Flapping, Telling
from mailboat_controller.store import sites
from mailboat_controller.store.engine import Store
from mailboat_schemas.names import LABEL_PATTERN

SUBSCRIPTION = "$SYS/broker/connection/+/state"
_TOPIC = re.compile(rf"\$SYS/broker/connection/({LABEL_PATTERN.strip('^$')})/state")
_CONNECTED = {b"1": True, b"0": False}

_log = structlog.get_logger(__name__)


def is_about_a_bridge(topic: str) -> bool:
    """Whether it is ours to take: no other part of the controller knows these topics."""
    return topic.startswith("$SYS/broker/connection/")


def doubt(store: Store, now: datetime) -> None:
    """We have just connected to our broker. It may have been killed meanwhile, and have forgotten
    what bridges said: whoever it does not show us as gone must be heard of anew.

    Raises:
        Transient: nothing was noted.
    """
    with store.transaction() as tx:
        sites.doubt(tx, now)


def take(store: Store, messages: Iterable[Incoming], now: datetime, flapping: Flapping) -> int:
    """Keep what was told last of each site; returns how many sites it changed.

    Raises:
        Transient: nothing was kept; take all of it again.
    """
    told = {
        found[1]: (_CONNECTED[message.payload], message.retain)
        for message in messages
        if (found := _TOPIC.fullmatch(message.topic)) and message.payload in _CONNECTED
    }
    if not told:
        return 0
    changed, again = [], []
    with store.transaction() as tx:
        for site, (connected, retained) in told.items():
            was = sites.note_link(tx, site, connected=connected, retained=retained, at=now)
            if was is not None and was.connected != connected:
                changed.append((site, connected))
            elif was is not None and connected and not retained:
                again.append(site)
    for site, connected in changed:
        _tell(site, connected=connected, telling=flapping.changed(site, now))
    for site in again:
        # It took its own connection over, of which the broker says nothing: once is a quick
        # reconnect. Two machines with one kit do so every few seconds (measured: 14 times in 40 s).
        if flapping.changed(site, now) is Telling.TOO_MANY:
            _tell(site, connected=True, telling=Telling.TOO_MANY)
    return len(changed)


def _tell(site: str, *, connected: bool, telling: Telling) -> None:
    if telling is Telling.TOO_MANY:
        _log.warning(
            "a site comes and goes; for now it is not told each time",
            site=site,
            next_step="look whether its kit runs on two machines, which end each other's "
            "connections; else at its uplink.",
        )
    elif telling is Telling.EACH:
        say = _log.info if connected else _log.warning
        say("site connected" if connected else "site cut off", site=site)
