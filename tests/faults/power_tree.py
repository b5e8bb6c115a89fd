"""The directory as a program sees it while it runs, and the list of what was done to it."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.power_operations import (
    ROOT,
    Barrier,
    Directory,
    File,
    Names,
    Operation,
    Recording,
    Told,
    Truncate,
    Write,
)

# SQLite's wal-index is rebuilt from the log after every crash; its pages are written through mmap.
NOT_DURABLE = re.compile(r".*-shm")


class Unmodelled(Exception):
    """The program did something to the directory that this model does not know."""


@dataclass(slots=True)
class Tree:
    """Inodes below ``root`` (absolute) by number; every change is applied and noted at once."""

    root: str
    directories: dict[int, dict[str, int]] = field(default_factory=dict)
    files: dict[int, bytearray] = field(default_factory=dict)
    start: dict[int, Directory | File] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    links: dict[int, bytes] = field(default_factory=dict)
    _next_inode: int = ROOT

    @classmethod
    def at(cls, root: Path) -> "Tree":
        """Reads the directory as it stands, which is taken to be durable."""
        tree = cls(str(root.resolve()))
        tree._read(Path(tree.root), {})
        return tree

    def recording(self) -> Recording:
        is_file = dict.fromkeys(self.files, True) | dict.fromkeys(self.directories, False)
        return Recording(self.start, tuple(self.operations), is_file, self.links)

    def _read(self, directory: Path, seen: dict[int, int]) -> int:
        inode = self._new_inode()
        names: dict[str, int] = {}
        self.directories[inode] = names
        for path in sorted(directory.iterdir()):
            if path.is_symlink():
                names[path.name] = self._new_inode()
                self.links[names[path.name]] = os.fsencode(path.readlink())
                self.files[names[path.name]] = bytearray()
                continue
            if path.is_dir():
                names[path.name] = self._read(path, seen)
                continue
            found = path.stat()
            if found.st_ino not in seen:  # the second name of one file otherwise
                seen[found.st_ino] = self._new_inode()
                content = path.read_bytes()
                self.files[seen[found.st_ino]] = bytearray(content)
                self.start[seen[found.st_ino]] = File(content)
            names[path.name] = seen[found.st_ino]
        self.start[inode] = Directory(dict(names))
        return inode

    def _new_inode(self) -> int:
        self._next_inode += 1
        return self._next_inode - 1

    # --- paths -----------------------------------------------------------------------------------

    def is_inside(self, path: str) -> bool:
        return path == self.root or path.startswith(self.root + "/")

    def place(self, path: str) -> tuple[int, str] | None:
        """The directory and the name that an absolute path means; None outside the root."""
        path = os.path.normpath(path)
        if not path.startswith(self.root + "/"):
            return None
        *parents, name = path[len(self.root) + 1 :].split("/")
        inode = ROOT
        for parent in parents:
            inode = self.directories[inode][parent]
        return inode, name

    def found(self, path: str) -> int | None:
        """The inode at an absolute path; None outside the root or where nothing is."""
        if path == self.root:
            return ROOT
        place = self.place(path)
        return None if place is None else self.directories[place[0]].get(place[1])

    # --- changes ---------------------------------------------------------------------------------

    def create(self, place: tuple[int, str], *, is_file: bool) -> int:
        inode = self._new_inode()
        if is_file:
            self.files[inode] = bytearray()
        else:
            self.directories[inode] = {}
        self.name(place, inode)
        return inode

    def link(self, place: tuple[int, str], target: bytes) -> None:
        """A symbolic link: there with all it says, or not there."""
        self.links[self.create(place, is_file=True)] = target

    def name(self, place: tuple[int, str], inode: int | None) -> None:
        """Give an inode a name, or take away what had it."""
        self._change(place[0], {place[1]: inode})

    def rename(self, old: tuple[int, str], new: tuple[int, str]) -> None:
        inode = self.directories[old[0]][old[1]]
        if inode == self.directories[new[0]].get(new[1]):
            return  # two names of one file: rename(2) does nothing
        if old[0] == new[0]:
            self._change(old[0], {new[1]: inode, old[1]: None})
        else:  # the new name first: no file system loses both
            self.name(new, inode)
            self._change(old[0], {old[1]: None}, requires=len(self.operations) - 1)

    def _change(
        self, directory: int, names: dict[str, int | None], requires: int | None = None
    ) -> None:
        held = self.directories[directory]
        for name, inode in names.items():
            if inode is None:
                del held[name]
            else:
                held[name] = inode
        self.operations.append(Names(directory, tuple(names.items()), requires))

    def write(self, inode: int, offset_bytes: int, content: bytes) -> None:
        held = self.files[inode]
        held.extend(bytes(max(0, offset_bytes - len(held))))
        held[offset_bytes : offset_bytes + len(content)] = content
        self.operations.append(Write(inode, offset_bytes, content))

    def truncate(self, inode: int, size_bytes: int) -> None:
        held = self.files[inode]
        if len(held) == size_bytes:
            return
        del held[size_bytes:]
        held.extend(bytes(size_bytes - len(held)))
        self.operations.append(Truncate(inode, size_bytes))

    def barrier(self, inode: int) -> None:
        self.operations.append(Barrier(inode))

    def told(self, content: bytes) -> None:
        self.operations.append(Told(content))
