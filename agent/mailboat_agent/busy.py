"""A file that the application lays down while its model must not be exchanged.

It postpones a switch to another release, and for so long at most: an application that has died
leaves the file behind. It postpones no withdrawal, and no way back from a release that fails.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mailboat_agent.atomic_file import disk_error
from mailboat_schemas.errors import MailboatError, NotFound, NotPermitted

LOOK_SECONDS = 0.25
IN_DATA_DIR = "busy"  # where the settings name no other file
_log = logging.getLogger(__name__)


class Busy:
    def __init__(self, path: Path | None, seconds_max: float) -> None:
        """No ``path``: never busy."""
        self._path = path
        self._seconds_max = seconds_max
        self._waiting: set[str] = set()  # models that could switch, but for the file

    @property
    def now(self) -> bool:
        try:
            return self._path is not None and self._path.exists()
        except OSError:  # a sign that cannot be read is none
            return False

    async def passes(self, model: str, still_serves: Callable[[], bool]) -> None:
        """Wait until the file is gone, the time is over, or nothing is left to be disturbed."""
        if not self.now:
            return
        began = time.monotonic()
        _log.info("%s is busy (%s): the next release waits", model, self._path)
        self._waiting.add(model)
        try:
            while self.now and still_serves():
                if time.monotonic() - began >= self._seconds_max:
                    _log.warning(
                        "%s was busy for %g s; the next release serves now",
                        model,
                        self._seconds_max,
                    )
                    return
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._waiting.discard(model)

    def because(self, model: str) -> str:
        """Why a switch of this model does not go on; empty unless it waits."""
        if model not in self._waiting:
            return ""
        return f"the application is busy ({self._path}); it is waited for {self._seconds_max:g} s"


NEVER_BUSY = Busy(None, 0)


# --- for an application that does not know the file: `mailboat-agent busy` -----------------------


def path_of(busy_file: Path | None, data_dir: Path) -> Path:
    return busy_file or data_dir / IN_DATA_DIR


def begin(path: Path) -> None:
    """Lay the file down; one that is there stays, and with it since when.

    Raises:
        NotPermitted, NotFound, DiskFull, DiskFailing
    """
    try:
        if not path.exists():
            path.touch()
    except OSError as error:
        raise _cannot(path, error) from error


def end(path: Path) -> None:
    """Take the file away, if it is there. Raises as `begin`."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot(path, error) from error


def told(path: Path, seconds_max: float) -> dict[str, Any]:
    """Whether the application says that it is busy, and since when. Raises as `begin`."""
    since: str | None = None
    try:
        since = datetime.fromtimestamp(int(path.stat().st_mtime), UTC).isoformat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _cannot(path, error) from error
    return {
        "busy": since is not None,
        "since": since,
        "file": str(path),
        "seconds_max": seconds_max,
    }


def in_words(found: dict[str, Any]) -> str:
    if not found["busy"]:
        return f"Not busy: another release takes over as soon as it may ({found['file']})."
    return (
        f"Busy since {found['since']} ({found['file']}): another release waits, "
        f"for {found['seconds_max']:g} s at most."
    )


def _cannot(path: Path, error: OSError) -> MailboatError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(
            f"{path} may not be changed by this user.",
            next_step="run this as the agent's user, or set busy_file in agent.toml to a place "
            "where the application may write, and restart the agent.",
        )
    if isinstance(error, FileNotFoundError):
        return NotFound(
            f"{path.parent} does not exist.",
            next_step="make that directory, or set busy_file in agent.toml to another place.",
        )
    return disk_error(error, f"changing {path}")
