"""Devices' events from a real mosquitto to committed rows with their watermarks.

    .venv/bin/python -m bench.ingest [--json] [--minutes 1] [--write docs]

In turn with `mosquitto_sub`, which takes the very same messages from the very same broker and does
nothing with them. Exit status 1 means that the bar was missed; 2 that it could not be measured.
"""

import argparse
import multiprocessing
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from bench.ingest import checking, publishing, report  # noqa: E402
from bench.ingest.messages import Load, make  # noqa: E402
from bench.process_figures import ResidentMemory, cpu_seconds  # noqa: E402
from bench.serving import bar  # noqa: E402

import taking_controller  # noqa: E402 - found by the line above
from enrolled_fleet import EnrolledFleet  # noqa: E402 - found by the line above
from mailboat_schemas.events import EVENTS_PER_BATCH_MAX  # noqa: E402
from plain_broker import PlainBroker, plain_broker  # noqa: E402

EVENTS_FILTER = "mb/1/demo/site/+/dev/+/up/events"
DEVICES = 300
LIVE_MESSAGES = 40  # of each device, one event each
ROUNDS = 3  # of mosquitto_sub and ours in turn
RATIO_MIN = 0.5
EVENTS_PER_SECOND_MIN = 20_000.0
GROWN_MIB_MAX = 24.0
PLANNED_EVENTS_PER_SECOND = 25_000  # for how many messages `--minutes` makes
QUEUED_MAX = 2_000_000  # nothing may be dropped: nobody sends it again here
WAIT_SECONDS_MAX = 900.0
LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Run:
    """``seconds``: from the first publish until the last was taken."""

    who: str
    load: str
    messages: int
    events: int
    seconds: float
    cpu_us_per_message: float
    broker_cpu_us_per_message: float
    payload_bytes: int

    @property
    def per_second(self) -> float:
        return self.events / self.seconds


class Bench:
    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        (scratch / "fleet").mkdir()
        fleet = EnrolledFleet(scratch / "fleet")
        self.devices = [fleet.enrol(f"dev-{n}") for n in range(DEVICES)]
        fleet.store.close()
        self._database = scratch / "fleet" / "mailboat.db"
        self._runs = 0
        self.memory: ResidentMemory | None = None  # of our last run

    def peer(self, load: Load, name: str) -> Run:
        """mosquitto_sub, whose session is made before the first message is published."""
        with self._broker() as broker:
            common = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(broker.port), "-V", "mqttv5"]
            common += ["-c", "-x", "3600", "-i", "peer", "-q", "1", "-t", EVENTS_FILTER]
            subprocess.run([*common, "-E"], check=True, timeout=30)
            peer = subprocess.Popen(
                [*common, "-C", str(len(load.messages))], stdout=subprocess.DEVNULL
            )
            time.sleep(0.3)  # it connects; what is published before is kept for it
            with self._publishing(broker, load) as began:
                _, status, usage = os.wait4(peer.pid, 0)
            peer.returncode = os.waitstatus_to_exitcode(status)
            if peer.returncode:
                raise RuntimeError(f"mosquitto_sub ended with {peer.returncode}")
            seconds = time.monotonic() - began
            spent = usage.ru_utime + usage.ru_stime
            return self._run("mosquitto_sub", name, load, seconds, spent, broker)

    def ours(self, load: Load, name: str) -> Run:
        self._runs += 1
        database = self._scratch / f"run-{self._runs}.db"
        shutil.copyfile(self._database, database)
        with self._broker() as broker, self._taking(broker, database) as taking:
            spent = cpu_seconds(taking.pid)
            with ResidentMemory(taking.pid) as memory, self._publishing(broker, load) as began:
                self._until_committed(database, load.events, taking)
                seconds = time.monotonic() - began
            spent = cpu_seconds(taking.pid) - spent
            self.memory = memory
            found = self._run("mailboat", name, load, seconds, spent, broker)
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            query = "SELECT count(*), (SELECT count(*) FROM quarantine) FROM events"
            stored, quarantined = connection.execute(query).fetchone()
        if (stored, quarantined) != (load.events, 0):
            raise RuntimeError(f"{stored} of {load.events} rows, {quarantined} set aside")
        for path in database.parent.glob(f"{database.name}*"):
            path.unlink()
        return found

    def checks(self, load: Load, name: str) -> Run:
        """The signatures alone, on all cores, behind the same broker."""
        context, parts = multiprocessing.get_context("fork"), os.cpu_count() or 1
        keys = {device.name: device.key.public_key() for device in self.devices}
        with self._broker() as broker:
            spent = [context.Value("d", 0.0) for _ in range(parts)]
            ready = [context.Event() for _ in range(parts)]
            address = (broker.port, EVENTS_FILTER)
            processes = [
                context.Process(
                    target=checking.main,
                    args=(address, (n, parts), keys, len(load.messages), ready[n], spent[n]),
                )
                for n in range(parts)
            ]
            try:
                for process, event in zip(processes, ready, strict=True):
                    process.start()
                    if not event.wait(WAIT_SECONDS_MAX):
                        raise RuntimeError("a checking process is not subscribed")
                with self._publishing(broker, load) as began:
                    for process in processes:
                        process.join(WAIT_SECONDS_MAX)
                    seconds = time.monotonic() - began
            finally:
                for process in processes:
                    process.kill()
            if any(process.exitcode for process in processes):
                raise RuntimeError("checking signatures failed")
            total = sum(each.value for each in spent)
            return self._run("signatures alone", name, load, seconds, total, broker)

    def _run(
        self, who: str, name: str, load: Load, seconds: float, spent: float, broker: PlainBroker
    ) -> Run:
        assert broker.process is not None
        count = len(load.messages)
        print(f"{name}, {who}: {load.events / seconds:.0f} events/s", file=sys.stderr)
        return Run(
            who=who,
            load=name,
            messages=count,
            events=load.events,
            seconds=seconds,
            cpu_us_per_message=spent / count * 1e6,
            broker_cpu_us_per_message=cpu_seconds(broker.process.pid) / count * 1e6,
            payload_bytes=sum(len(each.payload) for each in load.messages) // count,
        )

    @contextmanager
    def _broker(self) -> Iterator[PlainBroker]:
        directory = Path(tempfile.mkdtemp(dir=self._scratch))
        with plain_broker(directory, queued_messages_max=QUEUED_MAX) as broker:
            yield broker

    @contextmanager
    def _publishing(self, broker: PlainBroker, load: Load) -> Iterator[float]:
        """A process that publishes while the block runs; when it began (monotonic)."""
        arguments = (broker.port, load.messages)
        process = multiprocessing.get_context("fork").Process(
            target=publishing.main, args=arguments
        )
        began = time.monotonic()
        process.start()
        try:
            yield began
        except BaseException:
            process.kill()
            raise
        finally:
            process.join(WAIT_SECONDS_MAX)
        if process.exitcode:
            raise RuntimeError(f"publishing ended with {process.exitcode}")

    @contextmanager
    def _taking(self, broker: PlainBroker, database: Path) -> Iterator["subprocess.Popen[str]"]:
        with database.with_suffix(".log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, taking_controller.__file__, str(broker.port), str(database)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
            )
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                while line and line != "connected\n":  # its log comes there as well
                    line = process.stdout.readline()
                if not line:
                    raise RuntimeError(database.with_suffix(".log").read_text())
                yield process
            finally:
                process.terminate()
                process.wait()

    def _until_committed(
        self, database: Path, events: int, taking: "subprocess.Popen[str]"
    ) -> None:
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            while True:
                found = connection.execute("SELECT sum(events) FROM watermarks").fetchone()[0]
                if found == events:
                    return
                if taking.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{found} of {events} events were committed")
                time.sleep(LOOK_SECONDS)
        finally:
            connection.close()


def measure(bench: Bench, minutes: float, rounds: int) -> tuple[list[Run], list[bar.Held]]:
    live = make(bench.devices, batches=LIVE_MESSAGES, events_per_batch=1)
    full = EVENTS_PER_BATCH_MAX
    some = make(bench.devices, batches=10, events_per_batch=full)
    runs = []
    for _ in range(rounds):
        runs += [bench.peer(live, "live"), bench.checks(live, "live"), bench.ours(live, "live")]
    for _ in range(rounds):
        runs += [bench.peer(some, "back from offline"), bench.ours(some, "back from offline")]
    batches = max(10, round(minutes * 60 * PLANNED_EVENTS_PER_SECOND / full / DEVICES))
    long = bench.ours(make(bench.devices, batches=batches, events_per_batch=full), "long")
    memory = bench.memory
    assert memory is not None
    lived = runs[: 3 * rounds]
    of_peer, of_limit = (
        statistics.median(
            ours.per_second / other.per_second
            for other, ours in zip(lived[first::3], lived[2::3], strict=True)
        )
        for first in (0, 1)
    )
    committed = statistics.median(
        run.per_second for run in runs if (run.who, run.load) == ("mailboat", "back from offline")
    )
    held = [
        bar.at_least("live, events/s of mosquitto_sub's", of_peer, RATIO_MIN),
        bar.at_least("live, events/s of the signatures' alone", of_limit, RATIO_MIN),
        bar.at_least("batches, events/s committed", committed, EVENTS_PER_SECOND_MIN),
        bar.at_least("long, events/s committed", long.per_second, EVENTS_PER_SECOND_MIN),
        bar.at_most("memory grown during the long one, MiB", memory.grown_mib(), GROWN_MIB_MAX),
    ]
    return [*runs, long], held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--minutes", type=float, default=1.0, help="of the long run, about")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each, in turn")
    parser.add_argument("--write", metavar="DIRECTORY", help=f"write {report.PAGE} there")
    options = parser.parse_args()
    if shutil.which("mosquitto_sub") is None:
        print("There is no mosquitto_sub here (Debian: mosquitto-clients).", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        runs, held = measure(bench, options.minutes, options.rounds)
    assert bench.memory is not None
    by_minute = bench.memory.by_minute()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    if options.write:
        report.write(Path(options.write), runs, held, by_minute, machine)
    if options.json:
        found = [asdict(run) | {"events_per_second": run.per_second} for run in runs]
        print(bar.as_json(held, machine=machine, runs=found, resident_mib_by_minute=by_minute))
    else:
        print(report.table(runs))
        print("resident by minute, MiB: " + ", ".join(f"{mib:.0f}" for mib in by_minute))
        print("\n".join(each.told for each in held))
    return bar.status(held)


if __name__ == "__main__":
    sys.exit(main())
