"""What a program did to a directory, in the terms of a file system: names, inodes, barriers.

An inode is a number. A rename inside one directory is one operation, across two it is two, since
each directory is made durable by a barrier of its own; but no file system loses both names.
"""

from dataclasses import dataclass

ROOT = 0  # the inode of the traced directory itself


@dataclass(frozen=True, slots=True)
class Names:
    """One atomic change of a directory: each name leads to an inode from now on, or to nothing.

    ``requires`` is the position of an earlier operation that is durable whenever this one is.
    """

    directory: int
    names: tuple[tuple[str, int | None], ...]
    requires: int | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """``content`` stands at ``offset_bytes`` of a file; a gap before it reads as zeros."""

    inode: int
    offset_bytes: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """The file is ``size_bytes`` long from now on, cut or filled with zeros."""

    inode: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Barrier:
    """fsync or fdatasync: the content of a file or the names in a directory are durable."""

    inode: int


@dataclass(frozen=True, slots=True)
class Told:
    """The world outside the directory heard something: what was promised by it must hold."""

    content: bytes


Operation = Names | Write | Truncate | Barrier | Told


@dataclass(frozen=True, slots=True)
class Directory:
    names: dict[str, int]


@dataclass(frozen=True, slots=True)
class File:
    content: bytes


@dataclass(frozen=True, slots=True)
class Recording:
    """``start`` holds the inodes before; ``is_file`` says of each that was ever there whether it is
    one (a symbolic link is: one with the path it leads to in it, which ``links`` tells apart)."""

    start: dict[int, Directory | File]
    operations: tuple[Operation, ...]
    is_file: dict[int, bool]
    links: dict[int, bytes]
