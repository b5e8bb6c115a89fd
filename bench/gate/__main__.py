"""How often the gate is right: promoted and halted shares on synthetic waves, with 99 % bounds.

    .venv/bin/python -m bench.gate [--runs 10000] [--proofs 20] [--jobs 2] [--json] [--write docs]

Beside our gate with its default figures the rules of hawkBit and AWS IoT Jobs, on the same traces.
The first runs of every cell are decided a second time by the controller's own `decide`, event by
event; a single difference is an error. Exit status 1: a promise is not kept; 2: the quick form and
`decide` differ.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]

from bench.gate import report, traces  # noqa: E402 - found by the line above
from bench.gate.rules import RULES, WITH_CONTROL, Verdict, by_decide, ours, with_control  # noqa: E402
from bench.gate.traces import TRACES, Trace  # noqa: E402

BROKEN = (0.005, 0.01, 0.03, 0.1, 0.2, 0.4)
DEVICES = (100, 200)
RESULTS = "gate-results.md"


class Differs(Exception):
    """The quick form is not what the controller decides."""


def cells_of(task: tuple[str, int, float, int, int, int]) -> list[report.Cell]:
    """Every rule on one trace, size and share, on the very same devices."""
    name, devices, broken, runs, proofs, seed = task
    trace = next(trace for trace in TRACES if trace.name == name)
    came: dict[str, list[tuple[Verdict, float]]] = {rule: [] for rule in ("mailboat", WITH_CONTROL)}
    came |= {rule: [] for rule in RULES if rule not in came}
    for number in range(runs):
        wave = traces.run(trace, devices, broken, _rng(trace, devices, broken, seed, number))
        for rule, decide in RULES.items():
            found = decide(wave)
            came[rule].append((found.verdict, found.hours))
        found = with_control(wave, trace)
        came[WITH_CONTROL].append((found.verdict, found.hours))
        if number < proofs and by_decide(wave) != ours(wave):
            raise Differs(f"{name}, {devices} devices, {broken:.1%} broken, run {number}")
    return [
        _cell(rule, trace, devices, broken, ends, proofs if rule == "mailboat" else 0)
        for rule, ends in came.items()
    ]


def _rng(trace: Trace, devices: int, broken: float, seed: int, number: int) -> Random:
    return Random(f"{seed}/{trace.name}/{devices}/{broken}/{number}")


def _cell(
    rule: str,
    trace: Trace,
    devices: int,
    broken: float,
    ends: Iterable[tuple[Verdict, float]],
    proofs: int,
) -> report.Cell:
    ends = list(ends)
    promoted = [hours for verdict, hours in ends if verdict is Verdict.PROMOTED]
    halted = [hours for verdict, hours in ends if verdict is Verdict.HALTED]
    return report.Cell(
        rule=rule,
        trace=trace.name,
        devices=devices,
        broken=broken,
        runs=len(ends),
        promoted=len(promoted),
        promoted_in_a_day=sum(hours <= report.HOURS_OF_A_DAY for hours in promoted),
        halted=len(halted),
        halted_hours=statistics.median(halted) if halted else None,
        proofs=min(proofs, len(ends)),
    )


def main() -> int:
    arguments = _arguments()
    started = time.monotonic()
    tasks = [
        (name, devices, broken, arguments.runs, arguments.proofs, arguments.seed)
        for name in arguments.trace or [trace.name for trace in TRACES]
        for devices in DEVICES
        for broken in BROKEN
    ]
    try:
        if arguments.jobs == 1:
            cells = [cell for task in tasks for cell in cells_of(task)]
        else:
            with ProcessPoolExecutor(arguments.jobs) as pool:
                cells = [cell for found in pool.map(cells_of, tasks) for cell in found]
    except Differs as difference:
        print(f"The quick form and decide() differ: {difference}", file=sys.stderr)
        return 2
    missed = report.missed(cells)
    text = _page(cells, arguments.runs, arguments.seed, missed)
    if arguments.json:
        print(json.dumps({"cells": [asdict(cell) for cell in cells], "missed": missed}, indent=1))
    else:
        print(text)
        print(f"{time.monotonic() - started:.0f} s")
    if arguments.write is not None:
        (arguments.write / RESULTS).write_text(text)
    for each in missed:
        print(f"MISSED {each}", file=sys.stderr)
    return 1 if missed else 0


def _page(cells: list[report.Cell], runs: int, seed: int, missed: list[str]) -> str:
    story = (traces.__doc__ or "").split("``")
    stories = {
        name: " ".join(words.split()) for name, words in zip(story[1::2], story[2::2], strict=True)
    }
    last = stories["flaky"].partition(" In all of them ")
    stories["flaky"] = last[0]
    proofs = sum(cell.proofs for cell in cells)
    return (
        "# How often the gate is right\n\n"
        f"`python -m bench.gate --runs {runs} --seed {seed}`: {runs:,} waves a cell, in brackets "
        "99 % bounds (Clopper and Pearson). Our gate has its default figures; what they mean is in "
        f"[gate.md](gate.md). {proofs} of its waves were decided a second time by the "
        "controller's own `decide`, event by event, with the same end at the same instant. A wave "
        "is watched for 96 hours; what is neither promoted nor halted by then is held. "
        f"In all traces {last[2]}\n\n"
        "hawkBit's shares are of all devices of a group; AWS IoT Jobs has no gate between groups, "
        "so its rate going up stands for promotion.\n\n"
        + (report.table(cells, stories))
        + (
            "\nNot kept: " + "; ".join(missed) + "\n"
            if missed
            else "\nThe bounds keep every promise.\n"
        )
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.gate", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="of each cell")
    parser.add_argument("--proofs", type=int, default=20, help="of each cell, by decide() itself")
    parser.add_argument("--trace", action="append", choices=[trace.name for trace in TRACES])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, help="directory for " + RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
