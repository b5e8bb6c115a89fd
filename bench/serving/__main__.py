"""What serving costs beside a bare onnxruntime loop, and beside MLServer.

    .venv/bin/python -m bench.serving [--json] [--write docs] [--seconds 5]

Exit status 1 means that the bar was missed; 2 that it could not be measured whole: the vision
model or the peer could not be had.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.delta.wheels import Unavailable
from bench.serving import bar, load, models, peer, report
from bench.serving.bar import Held
from bench.serving.models import Model
from bench.serving.report import Line
from bench.serving.server import ROOT, ours

WHEELS, CACHE = ROOT / ".cache" / "delta", ROOT / ".cache" / "serving"
BATCH = 16
BATCH_DELAY_MS = 5
ROUNDS = 3  # of bare and ours in turn: a machine is not the same all the time
RATIO_MIN = 0.8  # of the bare loop's throughput, on the vision model in batches
BARE_MS_MIN = 10.0  # of one such batch
ADDED_MS_MAX = 1.0  # to the p50 of a single request
OURS = report.OURS


def bare_ms(model: Model, rows: int, scratch: Path, seconds: float) -> list[float]:
    path = scratch / f"{model.name}-bare.onnx"
    path.write_bytes(model.content)
    shape = json.dumps([rows, *model.row_shape])
    done = subprocess.run(
        [sys.executable, "-m", "bench.serving.bare", str(path), shape, "1", str(seconds)],
        input=model.rows(rows),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=True,
    )
    found: list[float] = json.loads(done.stdout)
    return found


class Bench:
    def __init__(self, scratch: Path, seconds: float, place: Path | None) -> None:
        self._scratch = scratch
        self._seconds = seconds
        self._place = place
        self.lines: list[Line] = []
        self.added_ms: dict[str, float] = {}
        self.batch_ms: dict[str, float] = {}

    def throughput(self, what: str, model: Model, *, clients: int, rows: int, binary: bool) -> None:
        """Rows a second, the median of some rounds; the bare loop runs before and after each."""
        asked = load.request(model, rows, binary=binary)
        delay = BATCH_DELAY_MS if rows < BATCH else 0
        bare_each: list[float] = []
        rounds: list[load.Found] = []
        with ours(model, self._scratch, batch_size_max=BATCH, batch_delay_ms_max=delay) as server:
            for _ in range(ROUNDS):
                bare_each += bare_ms(model, BATCH, self._scratch, self._seconds / ROUNDS)
                rounds.append(load.run(server.port, asked, clients=clients, seconds=self._seconds))
        bare_each += bare_ms(model, BATCH, self._scratch, self._seconds / ROUNDS)
        self.batch_ms[model.name] = statistics.median(bare_each)
        bare = BATCH * 1000 / statistics.mean(bare_each)
        found = sorted(rounds, key=lambda each: each.per_second)[ROUNDS // 2]
        self._note(what, OURS, found, clients, rows, BATCH, bare)
        if not binary and self._place is not None:
            found = self._of_peer(model, asked, clients, BATCH, BATCH_DELAY_MS)
            self._note(what, self._peer, found, clients, rows, BATCH, bare)

    def single(self, what: str, model: Model, *, binary: bool) -> None:
        """One caller, one row: what the way there and back adds to a direct call."""
        asked = load.request(model, 1, binary=binary)
        before = bare_ms(model, 1, self._scratch, self._seconds / 2)
        with ours(model, self._scratch) as server:
            found = load.run(server.port, asked, clients=1, seconds=self._seconds)
        after = bare_ms(model, 1, self._scratch, self._seconds / 2)
        both = [*before, *after]
        bare = 1000 / statistics.mean(both)
        self._note(what, OURS, found, 1, 1, 1, bare)
        self.added_ms[what] = statistics.median(found.latencies_ms) - statistics.median(both)
        if not binary and self._place is not None:
            found = self._of_peer(model, asked, 1, 1, 0)
            self._note(what, self._peer, found, 1, 1, 1, bare)

    def _of_peer(
        self, model: Model, asked: load.Request, clients: int, batch: int, delay_ms: float
    ) -> load.Found:
        assert self._place is not None
        with peer.mlserver(
            self._place, model, self._scratch, batch_size_max=batch, batch_delay_ms_max=delay_ms
        ) as port:
            return load.run(port, asked, clients=clients, seconds=self._seconds)

    @property
    def _peer(self) -> str:
        return f"{peer.NAME} {peer.version(self._place)}" if self._place else peer.NAME

    def _note(
        self,
        what: str,
        server: str,
        found: load.Found,
        clients: int,
        rows: int,
        batch: int,
        bare: float,
    ) -> None:
        latencies = sorted(found.latencies_ms) or [float("nan")]
        line = Line(
            what=what,
            clients=clients,
            rows=rows,
            batch=batch,
            server=server,
            per_second=found.per_second * rows,
            p50_ms=statistics.median(latencies),
            p99_ms=latencies[int(len(latencies) * 0.99)],
            bare_per_second=bare,
            failed=found.failed,
        )
        self.lines.append(line)
        print(report.table([line]).splitlines()[-1], file=sys.stderr)


WHOLE = "vision, whole batches, binary"
JOINED = "vision, single images, binary"
JOINED_JSON = "vision, single images, JSON"
ONE, TINY, TINY_JSON = "vision, one caller, binary", "tiny, one caller, binary", "tiny, one caller"
TINY_MANY = "tiny, many callers"
SINGLE = (TINY, TINY_JSON)


def judge(bench: Bench) -> list[Held]:
    by_name = {(line.what, line.ours): line for line in bench.lines}
    batch_ms = bench.batch_ms["direction"]
    ratio = by_name[WHOLE, True].ratio
    added = bench.added_ms
    held = [
        bar.at_most("failed requests", sum(each.failed for each in bench.lines if each.ours), 0),
        bar.at_least("bare milliseconds of a batch", batch_ms, BARE_MS_MIN),
        bar.at_least("throughput of bare, vision in batches", ratio, RATIO_MIN),
        *(bar.at_most(f"added p50, ms: {each}", added[each], ADDED_MS_MAX) for each in SINGLE),
    ]
    for what in (JOINED_JSON, TINY_JSON, TINY_MANY):
        theirs = by_name.get((what, False))
        times = by_name[what, True].per_second / theirs.per_second if theirs else math.nan
        held.append(bar.above(f"times {peer.NAME}: {what}", times, 1.0))
    return held


def page(bench: Bench, held: Sequence[Held], model: Model) -> str:
    told = "\n".join(
        f"| {each.name} | {each.value:.2f} | {each.bound:g} | {'yes' if each.ok else 'NO'} |"
        for each in held
        if not math.isnan(each.value)
    )
    return (
        "# What serving costs\n\n"
        "Written by `python -m bench.serving --write docs`; how it is measured stands in\n"
        "`bench/serving`. One machine for server, worker and client together: "
        f"{os.cpu_count()} cores, {platform.machine()}, and whatever else it did: look at the "
        "ratios.\n\n"
        f"The vision model is {model.title} (as rapidocr-onnxruntime 1.4.4 ships it, "
        f"Apache-2.0, {len(model.content) >> 10} KiB), one thread. The tiny model is "
        "`y = 2 x + 1` over four numbers:\nnothing to compute, so what is measured is the way "
        "there and back. *Bare* is a loop around\nonnxruntime in a process of its own at the same "
        "batch size, before and after, and its mean counts.\n"
        "MLServer brings no runtime for ONNX: it runs the ten lines of "
        "`bench/serving/mlserver_model.py`, and it takes\ntensors over HTTP as JSON alone.\n\n"
        f"{report.table(bench.lines)}\n"
        f"![Rows per second of what a bare onnxruntime loop does, by server]({report.PLOT})\n\n"
        f"| | measured | bar | held |\n|---|--:|--:|---|\n{told}\n"
    )


def run(seconds: float, say: Callable[[str], None]) -> tuple[Bench, list[Held], Model]:
    place: Path | None = None
    try:
        place = peer.installed(CACHE)
    except Unavailable as error:
        say(str(error))
    vision, tiny = models.vision(WHEELS), models.tiny()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), seconds, place)
        bench.throughput(WHOLE, vision, clients=3, rows=BATCH, binary=True)
        bench.throughput(JOINED, vision, clients=3 * BATCH, rows=1, binary=True)
        bench.throughput(JOINED_JSON, vision, clients=3 * BATCH, rows=1, binary=False)
        bench.single(ONE, vision, binary=True)
        bench.single(TINY, tiny, binary=True)
        bench.single(TINY_JSON, tiny, binary=False)
        bench.throughput(TINY_MANY, tiny, clients=32, rows=1, binary=False)
    return bench, judge(bench), vision


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--write", type=Path, metavar="DOCS", help="also the page of results")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    options = parser.parse_args()
    try:
        bench, held, vision = run(options.seconds, lambda text: print(text, file=sys.stderr))
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 2
    if options.write:
        (options.write / report.PAGE).write_text(page(bench, held, vision), encoding="utf-8")
        (options.write / report.PLOT).write_text(report.plot(bench.lines), encoding="utf-8")
    if options.json:
        lines = [asdict(line) | {"ratio": line.ratio} for line in bench.lines]
        print(bar.as_json(held, lines=lines))
    else:
        print(report.table(bench.lines))
        for each in held:
            print(each.told)
    return bar.status(held)


if __name__ == "__main__":
    sys.exit(main())
