"""From the program's log into the ring: rate-limited and without secrets.

A loop that logs an error a thousand times a second must not push out the line that says why. Each
place in the code that logs has an allowance of its own; what it says beyond that is counted, and
the count stands in the next line it may write.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mailboat_agent.logs.lines import message_of, trace_of
from mailboat_agent.logs.redaction import redact_end
from mailboat_agent.logs.ring import LogRing
from mailboat_schemas.device_orders import LOG_MESSAGE_CHARS_MAX

BURST_LINES = 50  # of one place
LINES_PER_SECOND = 2.0  # of one place, once its burst is spent
PLACES_MAX = 500  # that are remembered; the one not heard of for longest is forgotten
LOGGER_CHARS_MAX = 128
EXCEPTION_CHARS_MAX = 1200  # its end, where the error stands


@dataclass(slots=True)
class _Allowance:
    lines: float
    at: float  # monotonic
    withheld: int = 0


class RingHandler(logging.Handler):
    """Attach it to the root logger. ``withheld`` counts the lines that were not kept."""

    def __init__(self, ring: LogRing, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.INFO)
        self._ring = ring
        self._monotonic = monotonic
        self._places: OrderedDict[tuple[str, int], _Allowance] = OrderedDict()
        self._exceptions = logging.Formatter()
        self.withheld = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Called under the handler's lock. Whatever goes wrong here harms nobody who logs."""
        try:
            withheld = self._take((record.pathname, record.lineno))
            if withheld is None:
                return
            message = message_of(record)
            if record.exc_info:
                trace = self._exceptions.formatException(record.exc_info)
                message = f"{message[:400]}\n{redact_end(trace, EXCEPTION_CHARS_MAX)}"
            if withheld:
                message = f"{message[: LOG_MESSAGE_CHARS_MAX - 60]} ({withheld} more like it)"
            self._ring.append(
                at=int(record.created * 1000),
                level=record.levelname.lower()[:16],
                logger=record.name[:LOGGER_CHARS_MAX],
                message=message[:LOG_MESSAGE_CHARS_MAX],
                trace=trace_of(record),
            )
        except Exception:  # noqa: BLE001  a log line is no reason to stop
            self.withheld += 1

    def _take(self, place: tuple[str, int]) -> int | None:
        """None: not now; else how many were withheld since the last."""
        now = self._monotonic()
        held = self._places.pop(place, None) or _Allowance(BURST_LINES, now)
        held.lines = min(BURST_LINES, held.lines + (now - held.at) * LINES_PER_SECOND)
        held.at = now
        self._places[place] = held
        while len(self._places) > PLACES_MAX:
            self._places.popitem(last=False)
        if held.lines < 1:
            held.withheld += 1
            self.withheld += 1
            return None
        held.lines -= 1
        withheld, held.withheld = held.withheld, 0
        return withheld


class LogRecorder:
    """The ring and its place in the program's log, until `close`."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self.ring = LogRing(directory, bytes_max)
        self._handler = RingHandler(self.ring)
        logging.getLogger().addHandler(self._handler)

    @property
    def withheld(self) -> int:
        """Lines that were too many to keep."""
        return self._handler.withheld

    def close(self) -> None:
        logging.getLogger().removeHandler(self._handler)
        self.ring.close()
