"""The last lines before a failure, told with the event that tells of it.

They travel as evidence, in the outbox like the event itself, so they arrive even if the device is
never asked, and even if its disk dies tomorrow. More of them can be asked for afterwards.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mailboat_schemas.device_orders import LogLine
from mailboat_schemas.events import EventKind

LINES_MAX = 30
CHARS_MAX = 4000  # before compression; the event's bound on evidence cuts further
LINE_CHARS_MAX = 400

# What ended badly here. A worker that crashes ends a trial, a soak, or what is served.
INCIDENTS = frozenset({EventKind.TRIAL_FAILED, EventKind.ROLLED_BACK, EventKind.NOTHING_TO_SERVE})

Tail = Callable[[int], Sequence[LogLine]]


def with_log(
    kind: EventKind,
    evidence: Mapping[str, Any],
    tail: Tail,
    fits: Callable[[Mapping[str, Any]], bool],
) -> dict[str, Any]:
    """The evidence with as many of the newest lines as fit beside it, under ``log``."""
    if kind not in INCIDENTS:
        return dict(evidence)
    lines = _texts(tail(LINES_MAX))
    while lines:
        candidate = {**evidence, "log": lines}
        if fits(candidate):
            return candidate
        lines = lines[(len(lines) + 1) // 2 :]
    return dict(evidence)


def _texts(lines: Sequence[LogLine]) -> list[str]:
    """The newest that stay under `CHARS_MAX`, oldest first: number, time, level, message."""
    kept: list[str] = []
    used = 0
    for line in reversed(lines):
        text = f"{line.number} {line.at} {line.level} {line.message}"[:LINE_CHARS_MAX]
        used += len(text)
        if used > CHARS_MAX:
            break
        kept.append(text)
    return kept[::-1]
