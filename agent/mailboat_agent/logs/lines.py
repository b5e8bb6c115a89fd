"""How the agent logs: lines for a terminal, JSON for a collector, to stderr.

Both, and what is kept on the device, pass `redaction`. A line about one release carries the trace
id of that release (`about_release`), by which the controller's log, events and audit find it.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from mailboat_agent.logs.redaction import redact, redact_end
from mailboat_schemas.tracing import trace_id

MESSAGE_CHARS_MAX = 4000

LogFormat = Literal["auto", "json", "text"]

_trace: ContextVar[str] = ContextVar("trace", default="")


@contextlib.contextmanager
def about_release(digest: str | None) -> Iterator[None]:
    """Whatever is logged inside, in this task and threads begun from it, is about that release."""
    token = _trace.set(trace_id(digest) if digest else "")
    try:
        yield
    finally:
        _trace.reset(token)


def trace_of(record: logging.LogRecord) -> str:
    """As 32 hex digits; empty for a line about no release."""
    return getattr(record, "trace", "") or _trace.get()


def message_of(record: logging.LogRecord) -> str:
    """What a record says, without secrets. A wrong format string is no reason to lose the line."""
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):
        text = f"{record.msg} {record.args!r}"
    return redact(text)


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message and, if there was one, the exception."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record)[:MESSAGE_CHARS_MAX],
        }
        trace = trace_of(record)
        if trace:
            content["trace_id"] = trace
        if record.exc_info:
            content["exception"] = redact_end(
                self.formatException(record.exc_info), MESSAGE_CHARS_MAX
            )
        return json.dumps(content)


class TextLines(logging.Formatter):
    """For a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """What goes on in a further line is set in, so that nobody's text looks like ours."""
        return redact(super().format(record)).replace("\n", "\n    ")


def configure_logging(log_format: LogFormat) -> None:
    """``auto`` is text on a terminal and JSON elsewhere."""
    text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(TextLines() if text else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("httpx2", "httpx", "httpcore", "httpcore2", "tuf"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
