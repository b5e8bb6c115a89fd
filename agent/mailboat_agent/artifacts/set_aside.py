"""Stored files that stopped matching their name: kept as evidence, and as a note of what is lost.

A file is never deleted for being damaged; it is moved away, so that nobody reads it again, and the
last few stay for whoever wants to know what happened to the disk.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from mailboat_agent.artifacts.directory_files import entries, sizes

DAMAGED_FILES_MAX = 2  # evidence is good, but it takes the room of the release that replaces it
REPAIRED_SUFFIX = ".repaired"  # evidence of a loss that is made good


class SetAside:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def take(self, path: Path, found: os.stat_result | None = None) -> None:
        """Move a damaged file here, if it still is the one that was ``found`` to be so: somebody
        else may have replaced it meanwhile. The oldest make room. Raises OSError."""
        there = path.lstat()  # nothing there: the note of an earlier loss stays
        if found is not None and not os.path.samestat(there, found):
            return
        _remove(self.directory / path.name)  # the same file again: a directory would be in the way
        path.replace(self.directory / path.name)
        for old in self._oldest_first()[:-DAMAGED_FILES_MAX]:
            _remove(old)

    def digests(self) -> frozenset[str]:
        """What the files here were called, and nothing has replaced since."""
        return frozenset(path.name for path in self._files() if path.suffix != REPAIRED_SUFFIX)

    def evidence_bytes(self) -> int:
        return sizes(self.directory)

    def give_up_evidence(self) -> None:
        """Keep the names, which say what is lost, and nothing else. Best effort."""
        for path in entries(self.directory):
            with suppress(OSError):
                if not path.is_symlink():
                    path.chmod(0o600)
                    os.truncate(path, 0)

    def note_repaired(self, digest: str) -> None:
        """A whole file took the place of this one: should it be removed one day, it is not lost."""
        path = self.directory / digest
        with suppress(OSError):
            path.replace(path.with_suffix(REPAIRED_SUFFIX))

    def _files(self) -> list[Path]:
        try:
            return list(self.directory.iterdir())
        except OSError:
            return []

    def _oldest_first(self) -> list[Path]:
        return sorted(self._files(), key=lambda path: path.lstat().st_ctime_ns)


def _remove(path: Path) -> None:
    """Whatever it is. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
