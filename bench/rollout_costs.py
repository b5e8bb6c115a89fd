"""What a rollout costs the controller by size of the fleet: rows, messages, and how long it takes.

    .venv/bin/python -m bench.rollout_costs [--devices 10 100000]

All devices are of one class and run a release; the next one is published, its second wave opens on
five good verdicts, and it halts on four failures. On the one writer of a SQLite file, signatures
included. `halt` takes in four events one by one, with a decision after each; `look_again` is the
decision that changes nothing.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import structlog

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from large_fleet import MESSAGES, STEPS, LargeFleet  # noqa: E402 - found by the line above

HEAD = "| devices | step | rows written | messages | statements | seconds |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[10, 100_000])
    options = parser.parse_args()
    quiet = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=quiet)
    print(HEAD)
    print("|--:|---|--:|--:|--:|--:|")
    for count in options.devices:
        with tempfile.TemporaryDirectory() as scratch:
            fleet = LargeFleet(Path(scratch), count)
            for step in STEPS:
                asked = step(fleet)
                rows = asked.rows_written()
                print(
                    f"| {count} | {step.__name__} | {sum(rows.values())} | "
                    f"{rows.get(MESSAGES, 0)} | {asked.statements.total()} | {asked.seconds:.2f} |",
                    flush=True,
                )
            fleet.core.store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
