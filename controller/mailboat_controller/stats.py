"""Roll-ups for live panels: flat JSON, one small object a topic under ``stats/``.

Grafana's MQTT source reads top-level numbers and strings only, stumbles over a key called ``Time``
and drops a field whose type changes; so numbers stay numbers and are never null (MQTT.md section
10). ``t`` is seconds since 1970 UTC.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from mailboat_controller import rollout_facts
from mailboat_controller.rollout.state import OFFERED, Phase
from mailboat_controller.rollout_facts import Classes
from mailboat_controller.store import devices, manifests, rollouts
from mailboat_controller.store.rollouts import RolloutRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.topics import Channel, build

SHOWN_AFTER_END = timedelta(days=7)
ROLLOUTS_SHOWN_MAX = 50  # the newest; older ones are in the API and in the database
UNDER_WAY = OFFERED | {Phase.PLANNED}
TIME_KEY = "t"

RollUp = Mapping[str, float | int | str]
_PLACES = (
    "devices",
    "eligible",
    "not_open",
    "waiting",
    "in_progress",
    "ok",
    "failed",
)


def roll_ups(tx: Transaction, fleet: str, now: datetime) -> dict[str, RollUp]:
    """By ``scope/name``, without the time key."""
    found: dict[str, RollUp] = {}
    counters = {row.hardware_class: row.counter for row in manifests.every(tx)}
    totals = {"devices": 0, "online": 0, "offline": 0, "unknown": 0, "revoked": 0}
    for count in devices.count_by_class(tx):
        here = {
            "devices": count.enrolled,
            "online": count.online,
            "offline": count.offline,
            "unknown": count.unknown,
            "revoked": count.revoked,
        }
        totals = {name: totals[name] + here[name] for name in totals}
        found[f"class/{count.hardware_class}"] = {
            **here,
            "manifest_counter": counters.get(count.hardware_class, 0),
        }
    found[f"fleet/{fleet}"] = totals
    classes = Classes(tx)
    for row in _shown(tx, now):
        found[f"rollout/{row.rollout.name}"] = _rollout(rollout_facts.status(tx, row, classes))
    return found


class Publisher:
    """Knows what was published last, so that only news is sent."""

    def __init__(self, fleet: str) -> None:
        self._fleet = fleet
        self._sent: dict[str, RollUp] = {}

    @property
    def latest(self) -> Mapping[str, RollUp]:
        return dict(self._sent)

    def news(self, found: Mapping[str, RollUp], now: datetime) -> list[tuple[str, bytes]]:
        """Topics and payloads of what changed since the last call."""
        changed = {name: each for name, each in found.items() if self._sent.get(name) != each}
        self._sent = dict(found)
        return [(self._topic(name), _payload(each, now)) for name, each in changed.items()]

    def forget(self) -> None:
        """Everything is news again: the broker may have lost what it retained."""
        self._sent = {}

    def _topic(self, name: str) -> str:
        scope, _, what = name.partition("/")
        return build(Channel.STATS, fleet=self._fleet, scope=scope, name=what)


def _shown(tx: Transaction, now: datetime) -> list[RolloutRow]:
    """Counting one reads its whole fleet, so those that nobody waits for any more are left out."""
    current = {
        (row.model, row.current.digest)
        for row in rollouts.assignments(tx)
        if row.current is not None
    }
    shown = [
        row
        for row in rollouts.every(tx)
        if now - row.updated_at < SHOWN_AFTER_END
        or row.rollout.phase in UNDER_WAY
        or (row.rollout.model, row.rollout.digest) in current
    ]
    return shown[-ROLLOUTS_SHOWN_MAX:]


def _rollout(status: Mapping[str, Any]) -> RollUp:
    counted = status["classes"].values()
    return {
        "model": status["model"],
        "version": status["version"],
        "phase": status["phase"],
        "wave": status["waves_open"],
        "waves": status["waves"],
        "excluded": sum(sum(each["excluded"].values()) for each in counted),
        **{place: sum(each[place] for each in counted) for place in _PLACES},
    }


def _payload(roll_up: RollUp, now: datetime) -> bytes:
    content = {TIME_KEY: round(now.timestamp(), 3), **roll_up}
    return json.dumps(content, separators=(",", ":")).encode()
