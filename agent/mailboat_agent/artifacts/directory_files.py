"""The files of one directory together: what they are, how large, and which of them may go."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mailboat_agent.atomic_file import fsync_directory


def entries(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if not path.is_dir()]
    except OSError:
        return []


def sizes(directory: Path) -> int:
    """Of all files together. What goes away meanwhile is not counted."""
    size_bytes = 0
    for path in entries(directory):
        with suppress(OSError):
            size_bytes += path.lstat().st_size
    return size_bytes


def unlink_others(directory: Path, keeps: Callable[[str], bool]) -> int:
    """Best effort: what cannot be unlinked today is garbage tomorrow as well."""
    freed = 0
    for path in entries(directory):
        if keeps(path.name):
            continue
        with suppress(OSError):
            size_bytes = path.lstat().st_size
            path.unlink()
            freed += size_bytes
    with suppress(OSError):
        fsync_directory(directory)
    return freed
