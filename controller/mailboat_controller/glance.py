"""The fleet at one look, as `mailboat top` shows it: counts, rollouts, links, whom to look at.

Two paces: what a person watches change, and what would cost a large fleet something each time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mailboat_controller.client import ApiClient

ROLLOUTS_MAX = 20
DEVICES_MAX = 20  # of each reason
PAGE_ROWS = 100
READ_ROWS_MAX = 1000  # rows of one reason, for the first that are not cut off
SITES_MAX = 50
# They go on by themselves, or wait for somebody: the others are history.
UNDER_WAY = frozenset({"planned", "running", "paused", "halted"})
_CUT = "cut"
_RATES = {
    "events": "mailboat_events_ingested_total",
    "windows": "mailboat_telemetry_windows_ingested_total",
}
_REASONS = {"stale": "stale", "offline": "presence=offline"}

Rates = Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """``rates`` are per second since the look before; None at the first one."""

    fleet: str
    counts: Mapping[str, int] = field(default_factory=dict)
    rollouts: tuple[Mapping[str, Any], ...] = ()
    ended: int = 0  # rollouts that are over
    sites: tuple[Mapping[str, Any], ...] = ()
    sites_cut: tuple[Mapping[str, Any], ...] = ()
    devices: tuple[Mapping[str, Any], ...] = ()  # to look at, with `reason`
    health: Mapping[str, str] = field(default_factory=dict)
    rates: Rates = field(default_factory=lambda: dict.fromkeys(_RATES))

    def told(self) -> dict[str, Any]:
        """For programs."""
        return {
            "fleet": self.fleet,
            "devices": dict(self.counts),
            "rollouts": [dict(each) for each in self.rollouts],
            "rollouts_ended": self.ended,
            "sites": len(self.sites),
            "sites_cut": [dict(each) for each in self.sites_cut],
            "attention": [dict(each) for each in self.devices],
            "health": dict(self.health),
            "per_second": dict(self.rates),
        }


class Looking:
    """Asks one controller again and again. For one thread."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._counted: tuple[float, Mapping[str, float]] | None = None
        self._slow: dict[str, Any] = {}

    def look(self, seconds: float, *, everything: bool) -> Glance:
        """
        Args:
            seconds: of a monotonic clock, for rates.
            everything: also sites, devices, health and rates; else those of the look before.

        Raises:
            MailboatError: as the client's.
        """
        stats: Mapping[str, Mapping[str, Any]] = self._client.get("/v1/stats")
        if everything or not self._slow:
            self._slow = self._look_around(seconds)
        rows = [row for row in self._client.get("/v1/rollouts") if row["phase"] in UNDER_WAY]
        every = [name for name in stats if name.startswith("rollout/")]
        fleet = self._client.connection.fleet
        return Glance(
            fleet=fleet,
            counts={name: int(count) for name, count in stats.get(f"fleet/{fleet}", {}).items()},
            rollouts=tuple(
                {**row, **stats.get(f"rollout/{row['name']}", {})} for row in rows[-ROLLOUTS_MAX:]
            ),
            ended=max(0, len(every) - len(rows)),
            **self._slow,
        )

    def _look_around(self, seconds: float) -> dict[str, Any]:
        sites = self._client.get("/v1/sites")
        return {
            "sites": tuple(sites),
            "sites_cut": tuple(each for each in sites if each["link"] == _CUT)[:SITES_MAX],
            "devices": tuple(self._to_look_at()),
            "health": self._client.get("/v1/health"),
            "rates": self._rates(seconds),
        }

    def _to_look_at(self) -> Iterable[Mapping[str, Any]]:
        """Each once, under the first reason that fits."""
        named: set[str] = set()
        for reason, selector in _REASONS.items():
            rows = self._client.pages(
                "/v1/devices", "enrolment_number", selector=selector, limit=PAGE_ROWS
            )
            # Those that were cut off stay silent for ever, and may be many: looked past, so far.
            there = (row for row in islice(rows, READ_ROWS_MAX) if not row["revoked"])
            for row in islice(there, DEVICES_MAX):
                if row["device"] in named:
                    continue
                named.add(row["device"])
                shown = ("device", "hardware_class", "site", "presence_because", "last_seen_at")
                yield {"reason": reason, **{key: row[key] for key in shown}}

    def _rates(self, seconds: float) -> Rates:
        counted = count(self._client.content("/metrics").decode())
        before, self._counted = self._counted, (seconds, counted)
        if before is None or seconds <= before[0]:
            return dict.fromkeys(_RATES)
        # A controller that began anew counts from nothing: then it is what it has since.
        return {
            name: round(
                (now if now < before[1][name] else now - before[1][name]) / (seconds - before[0]), 1
            )
            for name, now in counted.items()
        }


def count(exposition: str) -> Mapping[str, float]:
    """What the counters of Prometheus' text add up to, over their labels."""
    found = dict.fromkeys(_RATES, 0.0)
    for line in exposition.splitlines():
        name = line.partition(" ")[0].partition("{")[0]
        for word, metric in _RATES.items():
            if name == metric:
                found[word] += float(line.rpartition(" ")[2])
    return found
