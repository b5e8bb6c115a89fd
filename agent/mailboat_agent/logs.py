"""How the agent logs: lines for a terminal, JSON for a collector. To stderr, never to a file."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

MESSAGE_CHARS_MAX = 4000

LogFormat = Literal["auto", "json", "text"]


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message and, if there was one, the exception."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MESSAGE_CHARS_MAX],
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)[-MESSAGE_CHARS_MAX:]
        return json.dumps(content)


def configure_logging(log_format: LogFormat) -> None:
    """``auto`` is text on a terminal and JSON elsewhere."""
    text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)-7s %(message)s") if text else JsonLines()
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("httpx2", "httpx", "httpcore", "httpcore2", "tuf"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
