"""``python -m tests.simulation``: many stories, none may violate anything; and the planted bugs.

``--device-days 1000000`` plays stories until so many device-days have passed, ``--mutants`` looks
for each planted bug in the seeds from 0. Every violation is printed with its seed, which tells the
same story again: ``--seed N``. Exits with 1 if anything was violated, or a bug was not found.
"""

import argparse
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation.mutants import MUTANTS, can_show, planted
from tests.simulation.story import Story, Told

SEEDS_A_MUTANT_MAX = 200
SEEDS_AT_ONCE = 20
STEPS_A_DEVICE_DAY_MIN = 20


def played(seed: int, mutant: str = "") -> Told | str:
    """What came of it, or what was violated."""
    with planted(mutant):
        try:
            return Story(seed).play()
        except Exception as error:  # a planted bug may end in any of them  # noqa: BLE001
            return f"{type(error).__name__}: {error}"


def prepare_worker() -> None:
    """Garbage is collected between two stories: a fleet is full of cycles, and lives to the end.
    What was imported stays, and is a hundred times what a story leaves."""
    gc.disable()
    gc.freeze()


def played_all(seeds: range) -> list[tuple[int, Told | str]]:
    found = []
    for seed in seeds:
        found.append((seed, played(seed)))
        gc.collect()
    return found


def found_by(mutant: str, seeds_max: int = SEEDS_A_MUTANT_MAX) -> tuple[int, str] | None:
    """The first seed that finds it, and what was violated."""
    for seed in range(seeds_max):
        if not can_show(mutant, Story(seed)):
            continue
        told = played(seed, mutant)
        if isinstance(told, str):
            return seed, told
        if not gc.isenabled():
            gc.collect()
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device-days", type=float, default=20_000)
    parser.add_argument("--mutants", action="store_true", help="look for the planted bugs")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this story alone")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    if args.seed is not None:
        told = played(args.seed)
        print(told)
        return isinstance(told, str)
    with ProcessPoolExecutor(args.processes, initializer=prepare_worker) as pool:
        if args.mutants:
            return _look_for_mutants(pool)
        return _play(pool, args.device_days, args.first_seed)


def _play(pool: ProcessPoolExecutor, device_days: float, first_seed: int) -> int:
    began = time.monotonic()
    lived, steps, checks, seeds, violations = 0.0, 0, 0, 0, 0
    happened: Counter[str] = Counter()
    parts = _parts(first_seed)
    waiting = {pool.submit(played_all, next(parts)) for _ in range(2 * (os.cpu_count() or 1))}
    while waiting:
        done = next(as_completed(waiting))
        waiting.discard(done)
        for seed, told in done.result():
            seeds += 1
            if isinstance(told, str):
                violations += 1
                print(f"seed {seed}: {told}", flush=True)
                continue
            lived, steps, checks = (
                lived + told.device_days,
                steps + told.steps,
                checks + told.checks,
            )
            happened.update(told.happened)
        if lived < device_days and violations < SEEDS_AT_ONCE:
            waiting.add(pool.submit(played_all, next(parts)))
    seconds = time.monotonic() - began
    a_day = steps / max(1.0, lived)
    print(f"{seeds} stories, {lived:,.0f} device-days, {steps:,} steps, {checks:,} looks")
    print(f"{a_day:.1f} steps a device-day, {seconds:.0f} s, {steps / seconds:,.0f} steps/s")
    print(", ".join(f"{name}: {count:,}" for name, count in sorted(happened.items())))
    print(f"{violations} violations")
    return violations > 0 or a_day < STEPS_A_DEVICE_DAY_MIN


def _parts(first: int) -> Iterator[range]:
    while True:
        yield range(first, first + SEEDS_AT_ONCE)
        first += SEEDS_AT_ONCE


def _look_for_mutants(pool: ProcessPoolExecutor) -> int:
    asked = {pool.submit(found_by, name): name for name in MUTANTS}
    alive = []
    for done in as_completed(asked):
        name, found = asked[done], done.result()
        if found is None:
            alive.append(name)
            print(f"NOT FOUND  {name}", flush=True)
        else:
            print(f"seed {found[0]:3}  {name}: {found[1][:100]}", flush=True)
    print(f"{len(MUTANTS) - len(alive)} of {len(MUTANTS)} planted bugs were found")
    return bool(alive)


if __name__ == "__main__":
    sys.exit(main())
