"""Ten thousand simulated devices, one controller, one mosquitto, on this machine.

    .venv/bin/python -m bench.fleet [--json] [--devices 10000] [--write docs]

They connect, a release is submitted, every one is told of it and answers; then the broker is killed
with -9 and all of them come back at once. Exit status 1 means that the bar was missed.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from bench.fleet import report, simulating, site  # noqa: E402
from bench.fleet.devices import EVENTS, Release, Story  # noqa: E402
from bench.process_figures import ResidentMemory, cpu_seconds  # noqa: E402
from bench.serving import bar  # noqa: E402

from enrolled_fleet import EnrolledDevice  # noqa: E402 - found by the line above

DEVICES = 10_000
PROCESSES = 2
CONNECTS_PER_SECOND = 500.0  # at first; afterwards their own back-off decides
NOTIFIED_P99_SECONDS_MAX = 5.0
ABSORBED_SECONDS_MAX = 120.0  # twice the longest back-off
WAIT_SECONDS_MAX = 600.0
BROKER_AWAY_SECONDS = 2.0
FILES_BESIDE_DEVICES = 500
LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Phase:
    """What the controller and the broker spent while something happened."""

    name: str
    seconds: float
    controller_cpu_seconds: float
    broker_cpu_seconds: float
    controller_mib: float


class Fleet:
    """The simulated devices, in some processes."""

    def __init__(self, port: int, devices: Sequence[EnrolledDevice], release: Release) -> None:
        self._orders: list[Connection] = []
        self._processes = []
        size = -(-len(devices) // PROCESSES)
        spread_seconds = len(devices) / CONNECTS_PER_SECOND
        context = multiprocessing.get_context("fork")
        for first in range(0, len(devices), size):
            ours, theirs = context.Pipe()
            share = devices[first : first + size]
            process = context.Process(
                target=simulating.main,
                args=(port, share, release, spread_seconds, theirs),
                daemon=True,
            )
            process.start()
            self._orders.append(ours)
            self._processes.append(process)
        for order in self._orders:
            assert order.recv() == "sealed"

    def connect(self) -> None:
        for order in self._orders:
            order.send("connect")

    def until(self, what: str, count: int) -> None:
        """
        Raises:
            RuntimeError: fewer devices got there in time.
        """
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while (counts := self._counts())[what] < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not {count} {what} within {WAIT_SECONDS_MAX:.0f} s: {counts}")
            time.sleep(LOOK_SECONDS)

    def _counts(self) -> dict[str, int]:
        for order in self._orders:
            order.send("counts")
        found = [order.recv() for order in self._orders]
        return {name: sum(each[name] for each in found) for name in found[0]}

    def end(self) -> list[Story]:
        for order in self._orders:
            order.send("end")
        stories = [story for order in self._orders for story in order.recv()]
        for process in self._processes:
            process.join(10)
        return stories


class Bench:
    def __init__(self, scratch: Path, count: int) -> None:
        self.count = count
        self.site = site.Site(scratch, *_free_ports())
        self.devices = self.site.enrol(count)
        self.release = self.site.release()
        self.phases: list[Phase] = []
        self.memory: ResidentMemory | None = None
        self.submitted_at = self.killed_at = 0.0
        self.told: dict[str, int] = {}  # what is in the database at the end

    def run(self) -> list[Story]:
        self.site.start_broker()
        try:
            self.site.start_controller()
            fleet = Fleet(self.site.port, self.devices, self.release)
            with ResidentMemory(self.site.controller_pid) as self.memory:
                self._phase("connect", lambda: self._connect(fleet))
                self._phase("notify and answer", lambda: self._notify(fleet))
                self._phase("come back after kill -9 of the broker", lambda: self._kill(fleet))
                self._settle()
            return fleet.end()
        finally:
            self.site.stop()

    def _connect(self, fleet: Fleet) -> None:
        fleet.connect()
        fleet.until("known_once", self.count)

    def _notify(self, fleet: Fleet) -> None:
        self.submitted_at = self.site.submit()
        fleet.until("notified", self.count)
        fleet.until("confirmed", self.count)

    def _kill(self, fleet: Fleet) -> None:
        self.site.kill_broker()
        self.killed_at = time.monotonic()
        time.sleep(BROKER_AWAY_SECONDS)
        self.site.start_broker()
        fleet.until("known_twice", self.count)

    def _settle(self) -> None:
        """Reports and births that came after the last answer are not waited for by devices."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while time.monotonic() < deadline:
            self.told = site.told(self.site.settings)
            if self.told["online"] >= self.count:
                return
            time.sleep(1)

    def _phase(self, name: str, happens: Callable[[], None]) -> None:
        assert self.memory is not None
        began, spent = time.monotonic(), cpu_seconds(self.site.controller_pid)
        broker, broker_pid = cpu_seconds(self.site.broker_pid), self.site.broker_pid
        happens()
        broker = 0.0 if self.site.broker_pid != broker_pid else broker
        self.phases.append(
            Phase(
                name,
                time.monotonic() - began,
                cpu_seconds(self.site.controller_pid) - spent,
                cpu_seconds(self.site.broker_pid) - broker,
                self.memory.max_mib,
            )
        )
        print(f"{name}: {self.phases[-1].seconds:.1f} s", file=sys.stderr)


def _free_ports() -> tuple[int, int]:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        return int(one.getsockname()[1]), int(two.getsockname()[1])


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def judge(bench: Bench, stories: Sequence[Story]) -> tuple[list[bar.Held], dict[str, object]]:
    notified = [s.notified_at - bench.submitted_at for s in stories if s.notified_at is not None]
    confirmed = [s.confirmed_at - bench.submitted_at for s in stories if s.confirmed_at is not None]
    back = [s.known_at[1] - bench.killed_at for s in stories if len(s.known_at) > 1]
    told = bench.told
    events = EVENTS * bench.count
    held = [
        bar.at_most("notified p99, s", _quantile(notified, 0.99), NOTIFIED_P99_SECONDS_MAX),
        bar.at_least("devices notified", len(notified), bench.count),
        bar.at_least("events on disk, of those told, %", 100 * told["events"] / events, 100),
        bar.at_most("events on disk twice", told["events"] - told["different_events"], 0),
        bar.at_least("devices whose outcome is known", told["outcomes_ok"], bench.count),
        bar.at_most("messages set aside", told["set_aside"], 0),
        bar.at_least("devices back after the herd", len(back), bench.count),
        bar.at_most("the last one back, s", max(back), ABSORBED_SECONDS_MAX),
        bar.at_least("devices online at the end", told["online"], bench.count),
    ]
    figures: dict[str, object] = {
        "notified_p50_s": statistics.median(notified),
        "notified_max_s": max(notified),
        "answers_on_disk_p99_s": _quantile(confirmed, 0.99),
        "answers_on_disk_max_s": max(confirmed),
        "back_p50_s": statistics.median(back),
        "back_p99_s": _quantile(back, 0.99),
        "connections": sum(len(story.connected_at) for story in stories),
    }
    return held, figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--write", metavar="DIRECTORY", help=f"write {report.PAGE} there")
    options = parser.parse_args()
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    if options.devices + FILES_BESIDE_DEVICES > files_max:
        print(f"Only {files_max} files can be open here (ulimit -Hn).", file=sys.stderr)
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), options.devices)
        stories = bench.run()
        held, figures = judge(bench, stories)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    if options.write:
        report.write(Path(options.write), bench.phases, held, figures, machine, bench.count)
    if options.json:
        phases = [asdict(phase) for phase in bench.phases]
        print(bar.as_json(held, machine=machine, phases=phases, **figures))
    else:
        print(report.table(bench.phases))
        print("\n".join(f"{name:44}{value:10.2f}" for name, value in figures.items()))
        print("\n".join(each.told for each in held))
    return bar.status(held)


if __name__ == "__main__":
    sys.exit(main())
