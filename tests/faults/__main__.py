"""``make test-faults``: every crash, every refusal, every power cut, and the defects they must see.

``--json`` prints one line for scripts instead, ``--write docs`` writes the counts and the table of
planted defects into docs/reliability.md, ``--only AC`` runs some of A, B, C and M (the planted
defects), ``--thorough`` every point. Exits with 1 on any violation and any defect that nobody saw.
"""

import argparse
import gc
import multiprocessing
import os
import sys
import time
import traceback

from tests.faults import world
from tests.faults.jobs import Job, Result, jobs
from tests.faults.kill_harness import device_directory
from tests.faults.scenes import SCENES
from tests.faults.summary import Summary
from tests.faults.traced_run import why_not_traceable

CORES = os.cpu_count() or 1
_jobs: list[Job] = []  # forked along with the workers; they are asked by number


def run_job(number: int) -> tuple[int, Result | str, float]:
    """What came of it, or what went wrong with it; and the seconds it took."""
    began = time.monotonic()
    try:
        return number, _jobs[number].work(), time.monotonic() - began
    except Exception:  # noqa: BLE001 - told as a fault of the run
        return number, traceback.format_exc(), time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", choices=["docs"])
    parser.add_argument("--only", default="")
    parser.add_argument("--thorough", action="store_true")
    told = parser.parse_args()
    began = time.monotonic()
    world.current()
    for scene in SCENES:
        with device_directory(scene):
            pass  # made here once, and forked along
    untraceable = why_not_traceable()
    _jobs[:] = jobs(only=told.only, thorough=told.thorough, untraceable=untraceable)
    _jobs.sort(key=lambda job: -job.weight)
    summary = Summary(complete=not told.only and not untraceable)
    if untraceable and not told.json:
        print(f"Harnesses B and C are left out: {untraceable}.")
    gc.freeze()
    with multiprocessing.get_context("fork").Pool(CORES) as pool:
        for done, (number, result, seconds) in enumerate(
            pool.imap_unordered(run_job, range(len(_jobs))), start=1
        ):
            name = _jobs[number].name
            if isinstance(result, str):
                summary.problems.append(f"{name}: {result}")
                said = "did not run to its end"
            else:
                summary.add(result)
                said = _said(result)
            if not told.json:
                print(f"{done:4d}/{len(_jobs)} {seconds:6.1f} s  {name}: {said}", flush=True)
    summary.seconds = time.monotonic() - began
    _tell(summary, as_json=told.json)
    if told.write and not summary.faults:
        summary.write_docs()
    return 1 if summary.faults else 0


def _said(result: Result) -> str:
    for (_, harness), found in result.caught.items():
        return f"seen by {harness}: {found[:120]}" if found else f"not seen by {harness}"
    return f"{len(result.violations)} violations"


def _tell(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print(summary.as_json())
        return
    print(*summary.table(), sep="\n")
    print(*summary.lines(), sep="\n")
    for fault in summary.faults[:50]:
        print(f"FAULT {fault}")


if __name__ == "__main__":
    sys.exit(main())
