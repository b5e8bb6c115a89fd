"""The chain of the audit log, without a database: how an entry is sealed, and whether one holds.

An entry is a JSON object with exactly `FIELDS`; its ``hash`` is the sha256 of the others as
canonical JSON, and one of the others is the hash of the entry before it. So the same check does for
the database and for a file that was exported from it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIRST_PREVIOUS_HASH = "0" * 64
FIELDS = frozenset(
    {
        "sequence",
        "at",
        "actor",
        "action",
        "subject",
        "reason",
        "details",
        "previous_hash",
        "hash",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The first entry that does not hold, and why."""

    sequence: int
    problem: str


def canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def seal(content: Mapping[str, Any]) -> str:
    """The hash of an entry; ``content`` is without it, ``at`` in milliseconds since 1970 UTC."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


class Chain:
    """Entries taken one after the other; holds no more than the last hash."""

    def __init__(self, sequence: int = 0, previous_hash: str = FIRST_PREVIOUS_HASH) -> None:
        """
        Args:
            sequence: of the entry before the first that is taken; 0: from the beginning.
            previous_hash: of that entry.
        """
        self.sequence = sequence
        self.hash = previous_hash

    def take(self, entry: Mapping[str, Any]) -> Broken | None:
        """Whether this is the entry that follows. After one that is not, take no more."""
        wanted = self.sequence + 1
        if entry.keys() != FIELDS:
            return Broken(sequence=wanted, problem="its fields are not those of an entry")
        sequence = entry["sequence"]
        if type(sequence) is not int or sequence != wanted:
            return Broken(sequence=wanted, problem=f"entry {sequence} stands in its place")
        if entry["previous_hash"] != self.hash:
            return Broken(sequence=wanted, problem="it does not follow on the entry before it")
        content = {name: value for name, value in entry.items() if name != "hash"}
        if entry["hash"] != seal(content):
            return Broken(sequence=wanted, problem="it was changed after it was sealed")
        self.sequence, self.hash = wanted, entry["hash"]
        return None
