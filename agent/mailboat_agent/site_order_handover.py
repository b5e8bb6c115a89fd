"""An order of the site that somebody brings to the device itself: a file that the agent takes up.

It is renamed before it is read, so that one which is handed over meanwhile is not lost, and is gone
only when it was dealt with: a crash in between makes the next start deal with it again.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mailboat_agent.atomic_file import replace_durably
from mailboat_agent.carrier.spool import ImportSpool
from mailboat_agent.trust.kept_manifests import read_bounded
from mailboat_schemas.topics import TOPICS, Channel

HANDED_NAME = "site-order-handed"
TAKEN_NAME = "site-order-taken"
_BYTES_MAX = TOPICS[Channel.SITE_ORDER].payload_bytes_max
_log = logging.getLogger(__name__)


def hand_over(data_dir: Path, payload: bytes) -> None:
    """
    Raises:
        DiskFull, DiskFailing
    """
    # Root may do it, for an agent that runs as somebody else.
    replace_durably(data_dir / HANDED_NAME, payload, owner=ImportSpool(data_dir).owner)


class Handover:
    """The agent's side."""

    def __init__(self, data_dir: Path) -> None:
        self._handed, self._taken = data_dir / HANDED_NAME, data_dir / TAKEN_NAME

    def waiting(self) -> Iterator[bytes]:
        """One, or none; call `is_done` after it. What is too long to be an order goes away."""
        with suppress(OSError):
            if not self._taken.exists():
                self._handed.replace(self._taken)
        try:
            content = read_bounded(self._taken, _BYTES_MAX)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            _log.warning("What was handed over as an order of the site is none: %s", error)
            self.is_done()
            return
        yield content

    def is_done(self) -> None:
        with suppress(OSError):
            self._taken.unlink()
