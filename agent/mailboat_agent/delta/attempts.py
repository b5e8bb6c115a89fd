"""How often a delta was tried, on disk before each attempt: one that takes the device down with it
is not tried for ever.

``deltas.json`` counts by target, for one desired state; a newer one may bring a better delta.
"""

import json
from contextlib import suppress
from pathlib import Path

from mailboat_agent.atomic_file import replace_durably
from mailboat_schemas.errors import MailboatError

ATTEMPTS_MAX = 2  # power may fail in the middle once without meaning anything
GIVEN_UP = ATTEMPTS_MAX + 1  # and said so
TARGETS_MAX = 256  # of one desired state; the oldest count is forgotten
FILE_BYTES_MAX = 64 * 1024


class Attempts:
    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "deltas.json"
        self._desired = ""
        self._counts: dict[str, int] = {}
        # Whatever is wrong with the file costs an attempt more, and nothing else.
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            if self._path.stat().st_size <= FILE_BYTES_MAX:
                found = json.loads(self._path.read_bytes())
                counts = {str(target): int(count) for target, count in found["targets"].items()}
                self._desired, self._counts = str(found["desired"]), counts

    def of(self, desired: str, target: str) -> int:
        """``desired`` is whatever tells one desired state from another."""
        return self._counts.get(target, 0) if desired == self._desired else 0

    def count(self, desired: str, target: str) -> None:
        """One more, durable.

        Raises:
            DiskFull, DiskFailing: nothing was counted.
        """
        self._record(desired, target, self.of(desired, target) + 1)

    def give_up(self, desired: str, target: str) -> None:
        """No more for this desired state. A disk that refuses costs the device one more try."""
        with suppress(MailboatError):
            self._record(desired, target, GIVEN_UP)

    def _record(self, desired: str, target: str, count: int) -> None:
        counts = dict(self._counts) if desired == self._desired else {}
        counts.pop(target, None)
        counts = dict([*counts.items(), (target, count)][-TARGETS_MAX:])
        content = json.dumps({"desired": desired, "targets": counts})
        replace_durably(self._path, content.encode())
        self._desired, self._counts = desired, counts
