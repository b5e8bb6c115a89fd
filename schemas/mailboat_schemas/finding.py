"""What one check of `mailboat doctor` or `mailboat-agent doctor` found."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"  # it works, and could work better or will not for ever
    FAIL = "fail"  # it does not work
    SKIP = "skip"  # it could not be looked at, because of something above


@dataclass(frozen=True, slots=True)
class Finding:
    """``check`` is a stable word, ``fix`` empty when there is nothing to do."""

    check: str
    level: Level
    what: str
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"check": self.check, "level": self.level, "what": self.what, "fix": self.fix}


Findings = Iterator[Finding]


def ok(check: str, what: str) -> Finding:
    return Finding(check, Level.OK, what)


def warn(check: str, what: str, fix: str) -> Finding:
    return Finding(check, Level.WARN, what, fix)


def fail(check: str, what: str, fix: str) -> Finding:
    return Finding(check, Level.FAIL, what, fix)


def skip(check: str, what: str) -> Finding:
    return Finding(check, Level.SKIP, what)
