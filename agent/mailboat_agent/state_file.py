"""What this device runs and how far an install has come: the one authority, ``state.json``.

Written whole and durably, one generation at a time; ``state.json.prev`` holds the generation
before, so that one bad sector is not fatal. The CRC stands in front and is checked over the bytes
before anything parses them.
"""

import zlib
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from mailboat_agent.atomic_file import replace_durably
from mailboat_agent.ballast import give_up_ballast
from mailboat_agent.update.state import FAILED_MAX, DeviceState, Installed, ModelState
from mailboat_schemas.errors import DiskFull

STATE_BYTES_MAX = 1 << 20  # 64 models with 64 failures each are about 300 kB
_MISSING = ": missing"

__all__ = ["FAILED_MAX", "DeviceState", "Installed", "ModelState", "StateFile"]

_DEVICE_STATE = TypeAdapter(DeviceState)
_FRAME = b'{"crc32":"%08x","state":%b}\n'
_BODY_STARTS_AT = len(_FRAME % (0, b"")) - len(b"}\n")


class StateFile:
    """``problems`` says what was wrong at the last load, for the report; empty when all is well."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = data_dir / "state.json"
        self._previous_path = data_dir / "state.json.prev"
        self._held: bytes | None = None  # the newest content that is known to be good
        self._generation = 0
        self.problems: tuple[str, ...] = ()

    def load(self) -> DeviceState:
        """The newest state that is whole: state.json, else the one before, else an empty one."""
        problem, newest = self._read(self._path)
        problem_before, before = self._read(self._previous_path)
        problems = [problem] if problem else []
        if newest is None:
            problems += [problem_before] if problem_before else []
            newest = before
        elif before is not None and before[1].generation > newest[1].generation:
            problems.append(f"{self._path.name}: it is older than the copy of the one before it")
            newest = before
        if newest is None:
            is_new = all(each.endswith(_MISSING) for each in problems)
            self.problems = () if is_new else tuple(problems)
            return DeviceState()
        self.problems = tuple(problems)
        self._held, found = newest
        self._generation = found.generation
        return found

    def _read(self, path: Path) -> tuple[str, tuple[bytes, DeviceState] | None]:
        """What is wrong with it, or what it says, as bytes and as a state."""
        try:
            content = _read_bounded(path)
            return "", (content, decode_state(content))
        except FileNotFoundError:
            return path.name + _MISSING, None
        # A file after a crash can be anything: zero-filled, it raises UnicodeDecodeError.
        except Exception as error:  # noqa: BLE001
            return f"{path.name}: {str(error)[:200] or type(error).__name__}", None

    def save(self, state: DeviceState) -> DeviceState:
        """Make it the state, one generation on; returns what was saved.

        Raises:
            DiskFull: also after giving up the ballast; the old state stands.
            DiskFailing: likewise.
        """
        saved = replace(state, generation=max(state.generation, self._generation) + 1)
        content = encode_state(saved)
        try:
            self._write(content)
        except DiskFull:
            give_up_ballast(self._data_dir)
            self._write(content)
        self._held = content
        self._generation = saved.generation
        return saved

    def repair(self) -> tuple[str, ...]:
        """Write the state again if a copy on the disk is not what was written; what was wrong.

        Raises:
            DiskFull, DiskFailing: it is still so.
        """
        if self._held is None:
            return ()
        problems = []
        for path, is_whole in (
            (self._path, lambda content: content == self._held),
            (self._previous_path, lambda content: bool(decode_state(content))),
        ):
            try:
                if not is_whole(_read_bounded(path)):
                    problems.append(f"{path.name}: it is not what was written")
            except Exception as error:  # noqa: BLE001 - as at the load
                problems.append(f"{path.name}: {str(error)[:200] or type(error).__name__}")
        if problems:
            self._write(self._held)
        return tuple(problems)

    def _write(self, content: bytes) -> None:
        # The copy is made from memory: a damaged state.json never replaces a good copy.
        if self._held is not None:
            replace_durably(self._previous_path, self._held)
        replace_durably(self._path, content)


def encode_state(state: DeviceState) -> bytes:
    body = _DEVICE_STATE.dump_json(state)
    return _FRAME % (zlib.crc32(body), body)


def decode_state(content: bytes) -> DeviceState:
    """
    Raises:
        ValueError: its CRC or its shape does not hold.
    """
    body = content[_BODY_STARTS_AT:-2]
    if content != _FRAME % (zlib.crc32(body), body):
        raise ValueError("its checksum does not hold")
    return _DEVICE_STATE.validate_json(body)


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(STATE_BYTES_MAX + 1)
    if len(content) > STATE_BYTES_MAX:
        raise ValueError(f"more than {STATE_BYTES_MAX} bytes")
    return content
