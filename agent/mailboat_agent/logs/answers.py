"""Answers to what a person asked for: lines of the ring, in signed parts, after everything else.

The order is retained at the broker and signed by the director (`open_order`). While it stands and
has not expired, a device that connects again says everything again: the broker may have forgotten
what it took, and the controller keeps each line once. Nothing of it is written down here.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from mailboat_agent.logs.ring import LogRing
from mailboat_schemas.codec import encode
from mailboat_schemas.device_orders import (
    LOG_LINES_PER_EXCERPT_MAX,
    DeviceDesired,
    LogExcerpt,
    LogLine,
    LogRequest,
)
from mailboat_schemas.envelope import PayloadType

PART_CHARS_MAX = 96 * 1024  # of lines in one message: below 112 KiB even uncompressed
PART_SECONDS = 1.0  # from one part to the next; a log is in no hurry
FOLLOW_PART_SECONDS = 2.0
LINE_CHARS_BESIDE = 220  # of a line beside its message: names, numbers, logger
UTF8_BYTES_MAX = 4  # of one character on the wire

Seal = Callable[[str, bytes], bytes]
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Answer:
    """How far one request is answered on this connection."""

    request: LogRequest
    after: int  # the number of the newest line that was sent, or is not wanted
    upto: int  # of the newest line when it began; beyond are those that are followed
    follows_until: float  # monotonic
    due_at: float  # monotonic
    done: bool = False


class LogAnswers:
    """`take` an order, `due` gives what to publish. Times: ``now`` aware UTC, ``monotonic``."""

    def __init__(
        self, device: str, ring: LogRing, seal: Seal, withheld: Callable[[], int] = lambda: 0
    ) -> None:
        self._device = device
        self._ring = ring
        self._seal = seal
        self._withheld = withheld
        self._counter = 0
        self._answer: _Answer | None = None

    def take(self, order: DeviceDesired, now: datetime, monotonic: float) -> None:
        """One whose signature held. An older one than the newest changes nothing."""
        if order.counter <= self._counter:
            return
        self._counter = order.counter
        request = order.logs
        if request is None or request.expires <= now.timestamp():
            self._answer = None
            return
        _log.info("The log was asked for (request %s).", request.request)
        self._begin(request, monotonic, follows_until=monotonic + request.follow_seconds)

    def on_connected(self, monotonic: float) -> None:
        """What the old connection took may be lost: begin the answer that stands anew."""
        answer = self._answer
        if answer is not None:
            self._begin(answer.request, monotonic, follows_until=answer.follows_until)

    def due(self, now: datetime, monotonic: float) -> bytes | None:
        """The next part, sealed; None: nothing, or not yet. Give it back with `not_sent`."""
        answer = self._answer
        if answer is None or answer.done or monotonic < answer.due_at:
            return None
        if answer.request.expires <= now.timestamp():
            self._answer = None
            return None
        lines = self._next_lines(answer)
        follows = monotonic < answer.follows_until
        ends = not follows and not self._more(answer, lines)
        if not lines and not ends:
            answer.due_at = monotonic + FOLLOW_PART_SECONDS
            return None
        self._undo = answer.after
        if lines:
            answer.after = lines[-1].number
        answer.done = ends
        answer.due_at = monotonic + PART_SECONDS
        excerpt = LogExcerpt(
            device=self._device,
            request=answer.request.request,
            lines=tuple(lines),
            last=ends,
            withheld=self._withheld(),
        )
        return self._seal(PayloadType.LOG_EXCERPT, encode(excerpt))

    def not_sent(self) -> None:
        """What `due` gave last was not taken by the link."""
        if self._answer is not None:
            self._answer.after = self._undo
            self._answer.done = False

    def _begin(self, request: LogRequest, monotonic: float, *, follows_until: float) -> None:
        upto = self._ring.newest
        wanted: deque[tuple[int, int]] = deque()  # number and size
        used = 0
        for line in self._ring.lines():
            if line.at < request.since:
                wanted.clear()
                used = 0
                continue
            wanted.append((line.number, _size(line)))
            used += _size(line)
            while used > request.bytes_max:
                used -= wanted.popleft()[1]
        after = wanted[0][0] - 1 if wanted else upto
        self._undo = after
        self._answer = _Answer(
            request=request,
            after=after,
            upto=upto,
            follows_until=follows_until,
            due_at=monotonic,
        )

    def _next_lines(self, answer: _Answer) -> list[LogLine]:
        part: list[LogLine] = []
        used = 0
        for line in self._ring.lines(after=answer.after):
            used += _size(line)
            if len(part) >= LOG_LINES_PER_EXCERPT_MAX or (part and used > PART_CHARS_MAX):
                break
            part.append(line)
        return part

    def _more(self, answer: _Answer, lines: list[LogLine]) -> bool:
        """Whether lines that were there when it began, or came while it was followed, remain."""
        reached = lines[-1].number if lines else answer.after
        wanted = answer.upto if not answer.request.follow_seconds else self._ring.newest
        return reached < wanted


def _size(line: LogLine) -> int:
    """Bytes on the wire, at most."""
    return UTF8_BYTES_MAX * len(line.message) + LINE_CHARS_BESIDE
