"""Switches under load: what 32 callers notice of 50 new releases and 20 ways back.

    .venv/bin/python -m bench.serving.swaps [--json]

Each caller asks at a constant rate, whatever the answers do. What is compared is the p99 of the
requests that ran while a switch was under way with that of the time before the first.
"""

import argparse
import http.client
import itertools
import json
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.serving import load, models
from bench.serving.server import ours

CLIENTS = 32
RATE_PER_CLIENT = 4.0  # requests a second
SWAPS, ROLLBACKS = 50, 20
BEFORE_SECONDS = 8.0
PAUSE_SECONDS = 0.3  # between two switches
P99_RATIO_MAX = 3.0
ROLLBACK_SECONDS_MAX = 5.0
CACHE = Path(__file__).parents[2] / ".cache" / "delta"


@dataclass(slots=True)
class Answers:
    """``(begun, ended)`` of each on the monotonic clock."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Result:
    requests: int
    failed: int
    failures: tuple[str, ...]
    p99_before_ms: float
    p99_during_ms: float
    requests_during: int
    swaps: int
    rollbacks: int
    swap_seconds_max: float
    rollback_seconds_max: float

    @property
    def ratio(self) -> float:
        return self.p99_during_ms / self.p99_before_ms

    @property
    def holds(self) -> bool:
        return (
            self.failed == 0
            and self.ratio <= P99_RATIO_MAX
            and self.rollback_seconds_max <= ROLLBACK_SECONDS_MAX
        )


def ask_at_a_rate(
    port: int, asked: load.Request, number: int, stop: threading.Event, answers: Answers
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    began = time.monotonic() + number / CLIENTS / RATE_PER_CLIENT  # spread over the interval
    for turn in itertools.count():
        if stop.wait(max(0.0, began + turn / RATE_PER_CLIENT - time.monotonic())):
            break
        at = time.monotonic()
        try:
            connection.request("POST", asked.path, asked.body, asked.headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                answers.failed.append(f"{answer.status} {content[:200]!r}")
        except (OSError, http.client.HTTPException) as error:
            answers.failed.append(repr(error))
            connection.close()
        answers.spans.append((at, time.monotonic()))
    connection.close()


def p99_ms(spans: list[tuple[float, float]]) -> float:
    took = sorted((end - begin) * 1000 for begin, end in spans)
    return took[min(len(took) - 1, int(len(took) * 0.99))]


def measure(
    model: models.Model,
    *,
    swaps: int = SWAPS,
    rollbacks: int = ROLLBACKS,
    before_seconds: float = BEFORE_SECONDS,
) -> Result:
    asked = load.request(model, 1, binary=True)
    answers, stop = Answers(), threading.Event()
    switched: list[tuple[float, float]] = []
    found: dict[str, list[float]] = {"swap": [], "rollback": []}
    with (
        tempfile.TemporaryDirectory() as scratch,
        ours(model, Path(scratch), batch_size_max=8, spare_seconds=60) as server,
    ):
        clients = [
            threading.Thread(target=ask_at_a_rate, args=(server.port, asked, n, stop, answers))
            for n in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        time.sleep(2.0)
        measured_from = time.monotonic()
        time.sleep(before_seconds)
        back_every = max(1, swaps // max(1, rollbacks))
        last = "1.0.0"
        for number in range(1, swaps + 1):
            version = f"1.{number}.0"
            turns = [("swap", version)]
            if number % back_every == 0 and len(found["rollback"]) < rollbacks:
                turns += [("rollback", last), ("again", version)]
            for kind, wanted in turns:
                began = time.monotonic()
                seconds = server.switch_to(wanted)
                switched.append((began, time.monotonic()))
                found.setdefault(kind, []).append(seconds)
                time.sleep(PAUSE_SECONDS)
            last = version
        stop.set()
        for client in clients:
            client.join()
    first = switched[0][0]
    before = [span for span in answers.spans if measured_from <= span[0] and span[1] < first]
    during = [
        span
        for span in answers.spans
        if any(span[0] < end and span[1] > begin for begin, end in switched)
    ]
    return Result(
        requests=len(answers.spans),
        failed=len(answers.failed),
        failures=tuple(answers.failed[:5]),
        p99_before_ms=p99_ms(before),
        p99_during_ms=p99_ms(during),
        requests_during=len(during),
        swaps=len(found["swap"]),
        rollbacks=len(found["rollback"]),
        swap_seconds_max=max(found["swap"]),
        rollback_seconds_max=max(found["rollback"], default=0.0),
    )


def told(result: Result) -> str:
    return (
        f"{result.requests} requests of {CLIENTS} clients, {result.swaps} swaps and "
        f"{result.rollbacks} rollbacks: {result.failed} failed\n"
        f"p99 before {result.p99_before_ms:.1f} ms, during a swap {result.p99_during_ms:.1f} ms "
        f"({result.requests_during} requests), ratio {result.ratio:.2f} of {P99_RATIO_MAX:g}\n"
        f"longest swap {result.swap_seconds_max:.2f} s, longest rollback "
        f"{result.rollback_seconds_max:.2f} s of {ROLLBACK_SECONDS_MAX:g}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    options = parser.parse_args()
    result = measure(models.vision(CACHE))
    if options.json:
        print(json.dumps(asdict(result) | {"ratio": result.ratio, "ok": result.holds}))
    else:
        print(told(result))
    return 0 if result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
