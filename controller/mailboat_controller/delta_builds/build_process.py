"""The process that makes one delta: ``python -m mailboat_controller.delta_builds.build_process``.

It reads one line of JSON from stdin, answers with one on stdout, and ends with its caller: when
stdin ends, nobody waits any more. It is nicer than the controller, and may take so much address
space and no more; it writes into the directory it is given.
"""

import dataclasses
import json
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Any

NICENESS = 15
# Of the interpreter with numpy, and of what reading files maps.
ADDRESS_SPACE_BYTES_MIN = 1 << 30
EXIT_MEMORY = 3


def main() -> None:
    os.nice(NICENESS)
    # One thread: many would count their stacks against the limit, and others want to work, too.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    order = json.loads(sys.stdin.readline())
    _limit(order["memory_bytes_max"] + 2 * (order["base_length"] + order["target_length"]))
    threading.Thread(target=_end_with_caller, daemon=True).start()
    try:
        answer = _make(order)
    except MemoryError:
        os._exit(EXIT_MEMORY)  # no room to end in any other way
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # a thread waits for stdin


def _limit(address_space_bytes: int) -> None:
    allowed = ADDRESS_SPACE_BYTES_MIN + address_space_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        allowed = min(allowed, hard)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_caller() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _make(order: dict[str, Any]) -> dict[str, Any]:
    from mailboat_controller.delta_builds import making  # numpy, after the limits

    made = making.make(
        Path(order["base"]) if order["base"] is not None else None,
        Path(order["target"]),
        memory_bytes_max=order["decoder_bytes_max"],
        scratch=Path(order["scratch"]),
        whole=order["whole"],
    )
    return {
        "delta": None if made.delta is None else made.delta.model_dump(mode="json"),
        "patch": None if made.patch is None else str(made.patch),
        "rows": [dataclasses.asdict(row) for row in made.rows],
    }


if __name__ == "__main__":
    main()
