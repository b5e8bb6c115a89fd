"""Two small files beside the data, for people and scripts on the device.

``serving.json`` says where the gateway listens, ``status.json`` how everything stands. Replaced
whole and not synced: they describe the running process, and are of no use after a power cut.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mailboat_schemas.errors import NotFound
from mailboat_schemas.reports import ReportedState

STATUS_BYTES_MAX = 1 << 20
_STATUS = "status.json"
_SERVING = "serving.json"


class StatusFiles:
    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._written = b""

    def write_serving(
        self, *, url: str, host: str, port: int, socket_path: Path | None = None
    ) -> None:
        content = {"url": url, "host": host, "port": port, "pid": os.getpid()}
        if socket_path is not None:
            content["socket"] = str(socket_path)
        _replace(self._data_dir / _SERVING, json.dumps(content).encode())

    def write_status(
        self,
        report: ReportedState,
        *,
        connected: bool,
        unconfirmed: dict[str, int],
        trust_expires: datetime | None,
        drift: dict[str, object] | None = None,
        more: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Write it if it says something new.

        Args:
            more: figures that change too often for the report.
        """
        content = {
            "pid": os.getpid(),
            "connected": connected,
            "unconfirmed": unconfirmed,
            "trust_expires": None if trust_expires is None else trust_expires.isoformat(),
            "drift": drift,
            **more,
            "report": report.model_dump(mode="json", exclude={"observed_at"}),
        }
        encoded = json.dumps(content).encode()
        if encoded != self._written:
            _replace(self._data_dir / _STATUS, encoded)
            self._written = encoded

    def clear(self) -> None:
        """The process ends: nothing it said holds any more."""
        for name in (_SERVING, _STATUS):
            with suppress(OSError):
                (self._data_dir / name).unlink()


def read_status(data_dir: Path) -> dict[str, Any]:
    """What the running agent last said, with where it serves.

    Raises:
        NotFound: no agent is running on this data directory.
    """
    try:
        status: dict[str, Any] = json.loads(_read(data_dir / _STATUS))
        status["serving"] = json.loads(_read(data_dir / _SERVING))
        running = _is_running(int(status["pid"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_running(data_dir) from error
    if not running:
        raise _not_running(data_dir)
    return status


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(STATUS_BYTES_MAX)


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(path.name + ".new")
    try:
        new.write_bytes(content)
        new.replace(path)
    except OSError:
        with suppress(OSError):  # a full disk, or one gone read-only, costs the status alone
            new.unlink()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _not_running(data_dir: Path) -> NotFound:
    return NotFound(
        f"No agent is running on {data_dir}.",
        next_step="start it with `mailboat-agent run --config agent.toml`.",
    )
