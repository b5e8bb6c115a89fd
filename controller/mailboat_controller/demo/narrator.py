"""How the demo tells its story: short lines for a newcomer, one JSON object for a program."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

_BOLD, _GREEN, _RED, _DIM, _OFF = "\033[1m", "\033[32m", "\033[31m", "\033[2m", "\033[0m"

# In the order in which the story meets them; the result always names every one.
STEPS = (
    "release_a_everywhere",
    "release_b_staged",
    "offline_device_caught_up",
    "release_b_as_delta",
    "events_complete_and_ordered",
    "bad_release_halted",
    "bad_release_exposure",
    "soak_failure_rolled_back",
    "rollback_without_network",
    "unapproved_release_refused",
    "rollback_drilled",
    "fleet_compared_with_documents",
    "withdrawal_reaches_everybody",
    "stolen_device_cut_off",
    "device_serves",
)


class StepFailed(Exception):
    """Something the story promises did not happen. The message says what was seen instead."""


@dataclass
class Step:
    name: str
    ok: bool
    detail: dict[str, Any] = field(default_factory=dict)


class Narrator:
    """Tells chapters and steps on a text stream, and keeps what the result is made of."""

    def __init__(self, stream: TextIO, *, started: float, plain: bool = False) -> None:
        colour = not plain and stream.isatty() and not os.environ.get("NO_COLOR")
        self._stream = stream
        self._paint: Callable[[str, str], str] = (
            (lambda code, text: f"{code}{text}{_OFF}") if colour else (lambda _code, text: text)
        )
        self._started = started
        self.steps: dict[str, Step] = {}

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def chapter(self, title: str) -> None:
        self._line(f"\n{self._paint(_BOLD, title)}")

    def say(self, text: str) -> None:
        self._line(f"  {text}")

    def command(self, words: str) -> None:
        self._line(self._paint(_DIM, f"  $ {words}"))

    def passed(self, name: str, text: str, **detail: Any) -> None:
        """A step held. A step that failed before stays failed."""
        if name not in self.steps or self.steps[name].ok:
            self.steps[name] = Step(name, True, detail)
            self._line(f"  {self._paint(_GREEN, 'ok')}  {text}")

    def failed(self, name: str, text: str, **detail: Any) -> None:
        self.steps[name] = Step(name, False, {"problem": text, **detail})
        self._line(f"  {self._paint(_RED, 'FAILED')}  {name}: {text}")

    @contextmanager
    def promising(self, *names: str) -> Iterator[None]:
        """What goes wrong inside is told as the failure of these steps; the story goes on."""
        try:
            yield
        except StepFailed as error:
            for name in names:
                if name not in self.steps:
                    self.failed(name, str(error))

    def result(self) -> dict[str, Any]:
        steps = [
            self.steps.get(name, Step(name, False, {"problem": "was not reached"}))
            for name in STEPS
        ]
        return {
            "ok": all(step.ok for step in steps),
            "steps": [{"name": s.name, "ok": s.ok, "detail": s.detail} for s in steps],
            "seconds": round(self.seconds(), 1),
        }

    def _line(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()


def write_result(result: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
