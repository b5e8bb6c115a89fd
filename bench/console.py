"""How fast the console is with a large fleet, as ratios to a bare page and a bare query.

    .venv/bin/python -m bench.console [--devices 100000] [--events 5000000] [--write docs]

A real controller's API on SQLite, over TLS, while devices are heard of all the time. Pages are
asked for in turns, so that whatever else the machine does is in all of them: the login page (no
database), `/healthz` (one bare query), the overview. The grid is opened in Debian's chromium, where
there is one; `paint` is one frame, `ready` from the columns in hand to the pixels on the canvas,
`shown` from the click to the pixels. 5 million events take 2 GB of disk.
"""

import argparse
import http.client
import logging
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import structlog
from sqlalchemy import text, update

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from console_fleet import enrol_fleet  # noqa: E402 - found by the line above
from console_keys import CHROMIUM, open_console, running_chromium  # noqa: E402
from console_visitor import Browser  # noqa: E402
from mailboat_controller.store import tables  # noqa: E402
from running_api import RunningApi, running_api  # noqa: E402

SITES = 200
EVENTS_AT_ONCE = 250_000
HEARD_OF_AT_ONCE = 500  # devices, four times a second: each is heard of every minute or so
ROUNDS_UNCOUNTED = 3
RESULTS = "console-results.md"
GOALS_MS = {"overview": 150.0, "grid ready": 250.0}

_EVENTS = text(
    """WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :last)
    INSERT INTO events (device, epoch, sequence, event_id, kind, model, version, digest,
                        retry_epoch, content, observed_at, received_at)
    SELECT printf('dev-%06d', i % :devices), '0123456789abcdef', i / :devices + 1,
           printf('%d-%d', i % :devices, i / :devices + 1), 'committed', 'vad', '1.3.0', NULL, 0,
           '{"because": "as it should be", "trial_ms": 412}', :at + i / 100, :at + i / 100
    FROM n"""
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--openings", type=int, default=15, help="of the grid")
    parser.add_argument("--scratch", type=Path, default=None, help="on a real disk")
    parser.add_argument("--write", type=Path, default=None, help=f"a folder for {RESULTS}")
    options = parser.parse_args()
    quiet = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=quiet)
    with (
        tempfile.TemporaryDirectory(dir=options.scratch) as scratch,
        running_api(Path(scratch), rate_known_per_second=10_000.0) as api,
    ):
        _fill(api, options.devices, options.events)
        with _heard_of(api, options.devices):
            found = _pages(api, options.rounds)
            if CHROMIUM.exists():
                found |= _grid(api, options.openings)
    report = _report(found, options.devices, options.events)
    print(report)
    if options.write is not None:
        (options.write / RESULTS).write_text(report)
    return 0


def _fill(api: RunningApi, devices: int, events: int) -> None:
    enrol_fleet(api.store, devices, api.now(), sites=SITES)
    at = int((api.now() - timedelta(days=1)).timestamp() * 1000)
    for first in range(0, events, EVENTS_AT_ONCE):
        last = min(first + EVENTS_AT_ONCE, events)
        with api.store.transaction() as tx:
            tx.execute(_EVENTS, {"first": first, "last": last, "devices": devices, "at": at})


@contextmanager
def _heard_of(api: RunningApi, devices: int) -> Iterator[None]:
    """Devices go on being heard of while somebody looks."""
    stopped, c = threading.Event(), tables.devices.c

    def hear() -> None:
        turn = 0
        while not stopped.wait(0.25):
            first = 1 + turn * HEARD_OF_AT_ONCE % devices
            those = c.enrolment_number.between(first, first + HEARD_OF_AT_ONCE - 1)
            seen = update(tables.devices).where(those, c.last_seen_at.is_not(None))
            with api.store.transaction() as tx:
                tx.execute(seen.values(last_seen_at=int(api.now().timestamp() * 1000)))
            turn += 1

    thread = threading.Thread(target=hear)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _pages(api: RunningApi, rounds: int) -> dict[str, list[float]]:
    browser = Browser(api).log_in("vera")
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    connection = http.client.HTTPSConnection("127.0.0.1", api.port, context=api.tls(None))
    console = api.app.state.console.state

    def page(path: str, sent: dict[str, str]) -> Callable[[], float]:
        def ask() -> float:
            began = time.perf_counter()
            connection.request("GET", path, headers=sent)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, (path, answer.status)
            return (time.perf_counter() - began) * 1000

        return ask

    overview = page("/console/", {"Cookie": cookie})

    def counted_anew() -> float:
        began = time.perf_counter()
        console.counter._count()
        return (time.perf_counter() - began) * 1000

    asked = {
        "bare page": page("/console/login", {}),
        "bare query": page("/healthz", {}),
        "overview": overview,
    }
    times: dict[str, list[float]] = {name: [] for name in asked}
    for turn in range(rounds + ROUNDS_UNCOUNTED):
        for name, ask in asked.items():
            took = ask()
            if turn >= ROUNDS_UNCOUNTED:
                times[name].append(took)
    times["counting the fleet, behind it"] = [counted_anew() for _ in range(5)]
    connection.close()
    return times


def _grid(api: RunningApi, openings: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {
        name: [] for name in ("bare page in chromium", "grid shown", "grid ready", "grid paint")
    }
    times["a change on the grid"] = []
    with running_chromium() as chromium:
        page = open_console(chromium, api.url, api.tokens["vera"])
        page.goto(f"{api.url}/console/fleet")
        page.wait_for_selector("#grid[data-devices]")
        for _ in range(openings):
            page.goto(f"{api.url}/console/errors/E-CONFIG")
            page.wait_for_timeout(50)
            times["bare page in chromium"].append(_first_paint(page))
            page.goto(f"{api.url}/console/fleet")
            page.wait_for_selector("#grid[data-devices]")
            grid = page.eval_on_selector("#grid", "grid => ({...grid.dataset})")
            times["grid paint"].append(float(grid["paintMs"]))
            times["grid ready"].append(float(grid["readyMs"]))
            times["grid shown"].append(float(grid["shownMs"]))
        times["a change on the grid"] = [_change(api, page, turn) for turn in range(5)]
    return times


def _first_paint(page: object) -> float:
    script = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
    return float(page.evaluate(script))  # type: ignore[attr-defined]


def _change(api: RunningApi, page: object, turn: int) -> float:
    """From the database to the number in the legend."""
    counted = page.locator('[data-count="offline"]')  # type: ignore[attr-defined]
    before, c = counted.inner_text(), tables.devices.c
    began = time.perf_counter()
    with api.store.transaction() as tx:
        those = c.device.in_([f"dev-{20 * turn + n:06d}" for n in range(20)])
        gone = update(tables.devices).where(those, c.online.is_(True))
        tx.execute(gone.values(online=False, presence_at=int(api.now().timestamp() * 1000)))
    while counted.inner_text() == before:
        time.sleep(0.02)
    return (time.perf_counter() - began) * 1000


def _report(found: dict[str, list[float]], devices: int, events: int) -> str:
    bare, query = (_p95(found[name]) for name in ("bare page", "bare query"))
    lines = [
        "# The console with a large fleet",
        "",
        f"`python -m bench.console`: {devices:,} devices in {SITES} sites, {events:,} events, on",
        "SQLite. Milliseconds; ratios are of the 95th percentiles of the same run. How it is",
        "measured: [console.md](console.md#how-fast-it-is).",
        "",
        "| what | times | median | p95 | to a bare page | to a bare query | goal |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, times in found.items():
        p95 = _p95(times)
        goal = f"{GOALS_MS[name]:.0f}" if name in GOALS_MS else ""
        lines.append(
            f"| {name} | {len(times)} | {statistics.median(times):.1f} | {p95:.1f} | "
            f"{p95 / bare:.1f} | {p95 / query:.1f} | {goal} |"
        )
    return "\n".join(lines) + "\n"


def _p95(times: list[float]) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


if __name__ == "__main__":
    sys.exit(main())
