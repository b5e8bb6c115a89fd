"""What the outside was told before a crash: the record that no crash of the device can touch.

One JSON object a line in ``<device directory>.told``, each by one write. Written after a call that
promises durability has returned, so every line is a promise that has to hold after any crash:

``recorded``  an event is in the journal (epoch, sequence, id, kind, version, install)
``received``  the controller has stored an event; ``watermark`` is what it then answers
``saved``     a generation of the record, with what it says of the model
``trusted``   role versions that were accepted; ``counter`` of the newest desired state
``started``   a session of the agent, by its number
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

# Kept from before anybody patches them: what is written here is no point to crash at.
_open, _write, _close = os.open, os.write, os.close


def told_path(directory: Path) -> Path:
    return directory.with_name(directory.name + ".told")


@dataclass(slots=True)
class Acknowledged:
    """The lines, summed up. `note` takes what is told from now on, and writes it to ``path``."""

    path: Path | None = None
    recorded: dict[tuple[str, int], str] = field(default_factory=dict)  # -> event id
    outcomes: list[dict[str, Any]] = field(default_factory=list)  # recorded ends of installs
    received: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    watermarks: dict[str, int] = field(default_factory=dict)  # by epoch
    saved: dict[str, Any] = field(default_factory=dict)  # the newest
    versions: dict[str, int] = field(default_factory=dict)  # of trust roles
    counter: int = 0
    session: int = 0
    crashes: int = 0  # of the device by its release

    @classmethod
    def of(cls, directory: Path) -> Self:
        """What the outside of this device was told so far."""
        path = told_path(directory)
        return cls.read(path.read_bytes() if path.exists() else b"")

    @classmethod
    def read(cls, lines: bytes) -> Self:
        """Of the lines themselves: a power cut in the middle of a trace knows a prefix of them."""
        told = cls()
        for line in lines.splitlines():
            told._take(json.loads(line))
        return told

    def note(self, **line: Any) -> None:
        self._take(line)
        if self.path is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            descriptor = _open(self.path, flags, 0o600)
            try:
                _write(descriptor, json.dumps(line).encode() + b"\n")
            finally:
                _close(descriptor)

    def _take(self, line: dict[str, Any]) -> None:
        match line["told"]:
            case "recorded":
                key = line["epoch"], line["sequence"]
                self.recorded[key] = line["event_id"]
                if line["kind"] in ("committed", "trial_failed", "rolled_back"):
                    self.outcomes.append(line)
            case "received":
                self.received[line["epoch"], line["sequence"]] = line
                epoch = line["epoch"]
                self.watermarks[epoch] = max(self.watermarks.get(epoch, 0), line["sequence"])
            case "saved":
                self.saved = line
            case "trusted":
                self.versions |= line["versions"]
            case "counter":
                self.counter = max(self.counter, line["counter"])
            case "started":
                self.session = line["session"]
            case "crashed":
                self.crashes += 1
            case unknown:
                raise AssertionError(unknown)
