"""What ``mailboat-agent import`` says to people and programs, and how it waits for the agent."""

import json
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from mailboat_agent.carrier.importing import Imported, import_carrier
from mailboat_agent.carrier.spool import ImportSpool
from mailboat_agent.config import AgentConfig
from mailboat_agent.status import read_status
from mailboat_schemas.errors import NotFound

WAIT_SECONDS_MAX = 30.0  # for the running agent; it looks every second, and may be busy
_LOOK_SECONDS = 0.1
_MIB = 1 << 20


def run_import(file: Path, config: AgentConfig, *, now: datetime, as_json: bool) -> list[str]:
    """The lines to print when it is done.

    Raises:
        MailboatError: what `import_carrier` raises.
    """
    imported = import_carrier(file, config, now=now, on_progress=_Bar(shown=not as_json).show)
    state = _wait(config.data_dir)
    if as_json:
        return [json.dumps(_as_json(imported, state))]
    return _lines(imported, state)


def _wait(data_dir: Path) -> str:
    """Until the agent has taken it up: ``taken``, ``waiting``, or ``stopped`` if none runs."""
    spool = ImportSpool(data_dir)
    give_up = time.monotonic() + WAIT_SECONDS_MAX
    while spool.stamp() is not None:
        try:
            read_status(data_dir)
        except NotFound:
            return "stopped"
        if time.monotonic() > give_up:
            return "waiting"
        time.sleep(_LOOK_SECONDS)
    return "taken"


def _as_json(imported: Imported, state: str) -> dict[str, Any]:
    fields = {name: getattr(imported, name) for name in Imported.__slots__}
    return {**fields, "agent": state}


def _lines(imported: Imported, state: str) -> list[str]:
    copied = f"{imported.copied_files} files, {imported.copied_bytes / _MIB:.1f} MiB"
    lines = [
        f"Imported   {', '.join(imported.releases) or 'no release'}",
        f"Copied     {copied}; {imported.held_files} files were here already",
    ]
    if imported.older_than_held:
        lines.append("Note       the file is older than what this device knows; only files that")
        lines.append("           it lacks were taken from it")
    if imported.lacking_files:
        lacking = f"{imported.lacking_files} files, {imported.lacking_bytes / _MIB:.1f} MiB,"
        lines.append(f"Note       {lacking} are not in the file: the device fetches them when")
        lines.append("           it has a network; `mailboat release export` without --model")
        lines.append("           takes them along")
    if imported.content_keys_lacking:
        lines.append("Note       it is encrypted, and its key comes by network only: the device")
        lines.append("           installs it once it has reached the controller")
    match state:
        case "taken":
            lines.append("Agent      has taken it up; `mailboat-agent status` shows how it goes on")
        case "stopped":
            lines.append("Agent      is not running; it installs this when it starts")
        case _:
            lines.append("Agent      has not taken it up yet; `mailboat-agent status` says why")
    return lines


class _Bar:
    """One line that is written over, on a terminal; nothing elsewhere."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown and sys.stderr.isatty()
        self._percent = -1

    def show(self, done_bytes: int, total_bytes: int) -> None:
        percent = 100 * done_bytes // max(1, total_bytes)
        if not self._shown or percent == self._percent:
            return
        self._percent = percent
        end = "\n" if done_bytes == total_bytes else ""
        sys.stderr.write(f"\rcopying {percent:3} % of {total_bytes / _MIB:.1f} MiB{end}")
        sys.stderr.flush()
