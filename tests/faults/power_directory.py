"""A state on a real file system: written out, and compared with a directory that is there."""

# ruff: noqa: PTH102, PTH211 - thousands of states a minute: paths stay text here

import os
import shutil
from pathlib import Path

from tests.faults.power_states import State
from tests.faults.power_tree import NOT_DURABLE


def materialise(state: State, directory: Path) -> None:
    """Make ``directory`` hold exactly this state. Raises OSError."""
    shutil.rmtree(directory, ignore_errors=True)
    place = str(directory)
    os.mkdir(place, 0o700)
    for path in state.directories:
        os.mkdir(f"{place}/{path}", 0o700)
    written: dict[int, str] = {}
    for path, inode in state.files:
        name = f"{place}/{path}"
        if inode in written:
            os.link(written[inode], name)
            continue
        if inode in state.links:
            os.symlink(state.links[inode], name)
            continue
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.write(descriptor, state.contents[inode])
        os.close(descriptor)
        written[inode] = name


def differences(state: State, directory: Path) -> list[str]:
    """Where a directory is not what the state says, byte for byte; SQLite's wal-index is not
    compared."""
    there = {str(path.relative_to(directory)): path for path in sorted(directory.rglob("*"))}
    files = dict(state.files)
    found = []
    for path in sorted(there.keys() | files.keys() | set(state.directories)):
        if NOT_DURABLE.fullmatch(path):
            continue
        if path not in there:
            found.append(f"{path}: only in the model")
        elif path not in files and path not in state.directories:
            found.append(f"{path}: not in the model")
        elif there[path].is_symlink():
            if os.fsencode(there[path].readlink()) != state.links.get(files[path]):
                found.append(f"{path}: another symbolic link")
        elif there[path].is_dir() != (path not in files):
            found.append(f"{path}: file or directory")
        elif path in files and there[path].read_bytes() != state.contents[files[path]]:
            found.append(f"{path}: other content")
    return found
