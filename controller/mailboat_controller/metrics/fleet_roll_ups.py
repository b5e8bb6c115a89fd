"""Roll-ups of models, releases and sites for live panels, with what devices told lately.

Rates and latencies are of the last minutes: sums as they are now, less what they were. Where that
is not known yet, the field is absent: never null, never a 0 that nobody measured.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from mailboat_controller.metrics import latency_buckets
from mailboat_controller.metrics.fleet_state import FleetReader, FleetState
from mailboat_controller.store.fleet_counts import NO_SITE, UNSEEN
from mailboat_controller.store.fleet_sums import SumRow
from mailboat_controller.store.transaction import Transaction

LATELY = timedelta(minutes=5)
APART_MIN = timedelta(seconds=10)  # of two states that are kept
MODELS_SHOWN_MAX = 50
RELEASES_SHOWN_MAX = 100  # the most deployed
SITES_SHOWN_MAX = 500  # those with most devices
DIGEST_CHARS = 8  # enough to tell releases of one model apart in a topic
MODEL_CHARS = 54  # so that a topic level holds both

RollUp = Mapping[str, float | int | str]
_Sums = dict[str, dict[tuple[str, str], float]]  # by roll-up; then by figure and part


class Lately:
    """The newest states of the last `LATELY`, to take differences from."""

    def __init__(self) -> None:
        self._kept: deque[tuple[datetime, _Sums]] = deque()

    def figures(self, state: FleetState) -> dict[str, dict[str, float]]:
        """Requests per second and latency quantiles of each roll-up that there is a past of."""
        now, sums = state.read_at, _by_roll_up(state.sums)
        while len(self._kept) > 1 and self._kept[1][0] <= now - LATELY:
            self._kept.popleft()
        before = next(iter(self._kept), None)
        if before is None or now - self._kept[-1][0] >= APART_MIN:
            self._kept.append((now, sums))
        if before is None or now <= before[0]:
            return {}
        seconds = (now - before[0]).total_seconds()
        return {
            name: _figures(found, before[1].get(name, {}), seconds) for name, found in sums.items()
        }


class FleetPanels:
    """How the fleet stands, for live panels; `state` is what they were made from."""

    def __init__(
        self,
        fleet: str,
        canaries: Sequence[str] = (),
        *,
        elapsed_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._reader = FleetReader(canaries, elapsed_seconds=elapsed_seconds)
        self._lately = Lately()

    def state(self) -> FleetState | None:
        return self._reader.latest

    def roll_ups(self, tx: Transaction, now: datetime) -> dict[str, RollUp]:
        state = self._reader.read(tx, now)
        return roll_ups(state, self._fleet, self._lately.figures(state))


def roll_ups(
    state: FleetState, fleet: str, lately: Mapping[str, Mapping[str, float]]
) -> dict[str, RollUp]:
    """By ``scope/name``, without the time key."""
    found: dict[str, RollUp] = {}
    for name, counts in _models(state):
        found[f"model/{name}"] = {**counts, **lately.get(f"model/{name}", {})}
    for name, release in _releases(state):
        key = f"{release['model']} {release['version']}"
        found[f"release/{name}"] = {**release, **lately.get(key, {})}
    for site in state.sites[:SITES_SHOWN_MAX]:
        unseen = {
            f"unseen_{span.total_seconds() / 3600:.0f}h": number
            for span, number in zip(UNSEEN, site.unseen, strict=True)
        }
        # No site has this name, and no topic level may be one.
        name = f"direct/{fleet}" if site.site == NO_SITE else f"site/{site.site}"
        found[name] = {
            "site": site.site,
            "devices": site.online + site.offline + site.unknown,
            "online": site.online,
            "offline": site.offline,
            "unknown": site.unknown,
            "revoked": site.revoked,
            "disk_low": site.disk_low,
            **unseen,
            **lately.get(f"site/{site.site}", {}),
        }
    return found


def _models(state: FleetState) -> Iterable[tuple[str, dict[str, float | int | str]]]:
    models = sorted({a.model for a in state.assigned} | {d.model for d in state.serving})
    for model in models[:MODELS_SHOWN_MAX]:
        assigned = [each for each in state.assigned if each.model == model]
        serving = [each for each in state.serving if each.model == model]
        devices = sum(each.devices for each in assigned)
        current = sum(each.current for each in assigned)
        yield (
            model,
            {
                "model": model,
                "devices": devices,
                "serving": sum(each.devices for each in serving),
                "current": current,
                "current_percent": round(100 * current / devices, 2) if devices else 0.0,
                "releases": len({each.digest for each in serving}),
            },
        )


def _releases(state: FleetState) -> Iterable[tuple[str, dict[str, float | int | str]]]:
    devices: dict[tuple[str, str, str], int] = {}
    for each in state.serving:
        key = (each.digest, each.model, each.version)
        devices[key] = devices.get(key, 0) + each.devices
    most = sorted(devices.items(), key=lambda item: (-item[1], item[0]))
    for (digest, model, version), number in most[:RELEASES_SHOWN_MAX]:
        counts = {"ok": 0, "failed": 0}
        for outcome in state.outcomes:
            if (outcome.model, outcome.version) == (model, version) and outcome.outcome in counts:
                counts[outcome.outcome] += outcome.devices
        name = f"{model[:MODEL_CHARS].rstrip('-')}-{digest[:DIGEST_CHARS]}"
        yield name, {"model": model, "version": version, "serving": number, **counts}


def _by_roll_up(rows: Iterable[SumRow]) -> _Sums:
    found: _Sums = {}
    for row in rows:
        if row.figure not in ("requests", "latency"):
            continue
        names = [f"site/{row.site}", f"model/{row.model}", f"{row.model} {row.version}"]
        for name in names:
            here = found.setdefault(name, {})
            key = (row.figure, row.part)
            here[key] = here.get(key, 0.0) + row.amount
    return found


def _figures(
    now: Mapping[tuple[str, str], float],
    before: Mapping[tuple[str, str], float],
    seconds: float,
) -> dict[str, float]:
    grown = {key: max(0.0, amount - before.get(key, 0.0)) for key, amount in now.items()}
    asked = {part: grown.get(("requests", part), 0.0) for part in ("ok", "error", "refused")}
    latency = {part: count for (figure, part), count in grown.items() if figure == "latency"}
    found = {
        "requests_per_second": round(sum(asked.values()) / seconds, 3),
        "errors_per_second": round(asked["error"] / seconds, 3),
    }
    for quantile in (0.5, 0.95, 0.99):
        value = latency_buckets.quantile_seconds(latency, quantile)
        if value is not None:
            found[f"latency_p{100 * quantile:.0f}_ms"] = round(1000 * value, 2)
    return found
