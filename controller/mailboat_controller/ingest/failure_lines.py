"""Log lines of releases that fail: one for a release and kind, with the trace to look it up by.

A fleet that fails tells of it by the thousand, so the lines are bounded in time, and written once
the events are committed: a log that stands still must not keep the database waiting.
"""

from collections import Counter
from collections.abc import Mapping

import structlog

from mailboat_schemas.events import EventKind
from mailboat_schemas.tracing import trace_id

LINES_MAX = 10  # within:
WITHIN_SECONDS = 10.0
NAMES_HELD_MAX = 1000  # releases and kinds that wait for their line

Failing = tuple[str | None, EventKind]  # the digest of a release, and what a device told of it

_log = structlog.get_logger(__name__)


class FailureLines:
    """For one thread at a time. What finds no line now is counted in its next one."""

    def __init__(self) -> None:
        self._waiting: Counter[Failing] = Counter()
        self._begun: float | None = None
        self._lines = 0

    def tell(self, failures: Mapping[Failing, int], clock: float) -> None:
        """
        Args:
            failures: events that were committed, by digest of the release and kind.
            clock: monotonic, in seconds.
        """
        self._waiting.update(failures)
        if not self._waiting:
            return
        if self._begun is None or clock - self._begun >= WITHIN_SECONDS:
            self._begun, self._lines = clock, 0
        for (digest, kind), count in self._waiting.most_common(LINES_MAX - self._lines):
            del self._waiting[digest, kind]
            self._lines += 1
            trace = trace_id(digest) if digest else None
            _log.info("devices failed a release", kind=kind.value, events=count, trace_id=trace)
        if len(self._waiting) > NAMES_HELD_MAX:
            self._waiting = Counter(dict(self._waiting.most_common(NAMES_HELD_MAX)))
