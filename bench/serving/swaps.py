"""Switches under load: what 32 callers notice of 50 new releases and 20 ways back.

    .venv/bin/python -m bench.serving.swaps [--json]

Each caller asks at a constant rate, whatever the answers do. What is compared is the p99 of the
requests that ran while a switch was under way with that of the time before the first.

Exit status 1 means that a request failed or a bound was missed, 2 that the model could not be had.
"""

import argparse
import http.client
import itertools
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.delta.wheels import Unavailable
from bench.serving import bar, load, models
from bench.serving.bar import Held
from bench.serving.server import Ours, ours

CLIENTS = 32
RATE_PER_CLIENT = 4.0  # requests a second
SWAPS, ROLLBACKS = 50, 20
BEFORE_SECONDS = 8.0
SETTLE_SECONDS = 2.0
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


@dataclass(slots=True)
class Switches:
    """``spans`` on the monotonic clock; ``seconds`` as the server measured them, by kind."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"swap": [], "rollback": []})

    def make(self, server: Ours, swaps: int, rollbacks: int) -> None:
        back_every = max(1, swaps // max(1, rollbacks))
        last = "1.0.0"
        for number in range(1, swaps + 1):
            version = f"1.{number}.0"
            self._to("swap", version, server)
            if number % back_every == 0 and len(self.seconds["rollback"]) < rollbacks:
                self._to("rollback", last, server)
                self._to("again", version, server)
            last = version

    def _to(self, kind: str, version: str, server: Ours) -> None:
        began = time.monotonic()
        seconds = server.switch_to(version)
        self.spans.append((began, time.monotonic()))
        self.seconds.setdefault(kind, []).append(seconds)
        time.sleep(PAUSE_SECONDS)


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
    switches = Switches()
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
        try:
            time.sleep(SETTLE_SECONDS)
            measured_from = time.monotonic()
            time.sleep(before_seconds)
            switches.make(server, swaps, rollbacks)
        finally:
            stop.set()
            for client in clients:
                client.join()
    first = switches.spans[0][0]
    before = [span for span in answers.spans if measured_from <= span[0] and span[1] < first]
    during = [
        span
        for span in answers.spans
        if any(span[0] < end and span[1] > begin for begin, end in switches.spans)
    ]
    return Result(
        requests=len(answers.spans),
        failed=len(answers.failed),
        failures=tuple(answers.failed[:5]),
        p99_before_ms=p99_ms(before),
        p99_during_ms=p99_ms(during),
        requests_during=len(during),
        swaps=len(switches.seconds["swap"]),
        rollbacks=len(switches.seconds["rollback"]),
        swap_seconds_max=max(switches.seconds["swap"]),
        rollback_seconds_max=max(switches.seconds["rollback"], default=0.0),
    )


def judge(result: Result) -> list[Held]:
    return [
        bar.at_most("failed requests", result.failed, 0),
        bar.at_most("p99 during a swap, times that before", result.ratio, P99_RATIO_MAX),
        bar.at_most("longest rollback, s", result.rollback_seconds_max, ROLLBACK_SECONDS_MAX),
    ]


def told(result: Result) -> list[str]:
    figures: dict[str, float] = {
        "clients": CLIENTS,
        "requests": result.requests,
        "swaps": result.swaps,
        "rollbacks": result.rollbacks,
        "requests during a switch": result.requests_during,
        "p99 before, ms": result.p99_before_ms,
        "p99 during a switch, ms": result.p99_during_ms,
        "longest swap, s": result.swap_seconds_max,
    }
    lines = [f"{name:44}{value:10.2f}" for name, value in figures.items()]
    return [*lines, *(each.told for each in judge(result)), *result.failures]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--swaps", type=int, default=SWAPS, help="default: %(default)s")
    parser.add_argument("--rollbacks", type=int, default=ROLLBACKS, help="default: %(default)s")
    options = parser.parse_args()
    try:
        model = models.vision(CACHE)
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 2
    result = measure(model, swaps=options.swaps, rollbacks=options.rollbacks)
    held = judge(result)
    if options.json:
        print(bar.as_json(held, **asdict(result), ratio=result.ratio))
    else:
        print("\n".join(told(result)))
    return bar.status(held)


if __name__ == "__main__":
    sys.exit(main())
