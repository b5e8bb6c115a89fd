"""From system calls to operations on inodes: a small kernel that knows names and descriptors only.

It follows descriptors over open, dup, fork and close, offsets over read, write and lseek, and files
over rename, link and unlink. What it does not know stops it (`Unmodelled`): a gap in the model
would otherwise look like a proof.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.power_operations import Recording
from tests.faults.power_tree import NOT_DURABLE, Tree, Unmodelled
from tests.faults.traced_log import Began, Call

_CREATES = re.compile(r"\bO_CREAT\b")
_TRUNCATES = re.compile(r"\bO_TRUNC\b")
_APPENDS = re.compile(r"\bO_APPEND\b")
_SHARED_WRITES = re.compile(r"PROT_WRITE.*MAP_SHARED|MAP_SHARED.*PROT_WRITE")
_CLONES = ("clone", "clone3", "fork", "vfork")
_OF_EVERYTHING = ("sync", "syncfs", "io_uring_setup")


@dataclass(slots=True)
class OpenFile:
    """What descriptors share: where reading and writing go on."""

    inode: int
    appends: bool = False
    offset_bytes: int = 0


def record(before: Path, ran_at: Path, told: Path, calls: Iterable[Call | Began]) -> Recording:
    """What ``calls`` did to the directory ``ran_at``, which began as a copy of ``before``.

    What they wrote to the file ``told``, outside of it, becomes `power_operations.Told`.

    Raises:
        Unmodelled: they did something there that this model does not know.
    """
    tree = Tree.at(before)
    tree.root = str(ran_at.resolve())
    kernel = Kernel(tree, str(told.resolve()))
    for call in calls:
        kernel.take(call)
    return tree.recording()


class Kernel:
    """``take`` each call in turn; a method for each one that is known."""

    def __init__(self, tree: Tree, told: str) -> None:
        self._tree = tree
        self._told = told
        self._tables: dict[int, dict[int, OpenFile]] = {}  # by thread; shared by those of a process
        self._cloning: dict[int, Began] = {}

    def take(self, call: Call | Began) -> None:
        if isinstance(call, Began):
            self._cloning[call.thread] = call
        elif call.name in _CLONES:
            self._cloned(call)
        elif call.result >= 0:
            getattr(self, f"_do_{call.name}", self._unknown)(call)

    def _unknown(self, call: Call) -> None:
        for position, argument in enumerate(call.arguments):
            quoted = argument.startswith('"')
            path = call.path(position) if quoted else call.descriptor_path(position)
            if self._tree.is_inside(path) or call.name in _OF_EVERYTHING:
                raise Unmodelled(f"{call.name}({', '.join(call.arguments)[:200]})")

    # --- descriptors -----------------------------------------------------------------------------

    def _table(self, thread: int) -> dict[int, OpenFile]:
        if thread not in self._tables:
            # A child that speaks before its parent's clone has returned.
            began = next(iter(self._cloning.values()), None)
            self._tables[thread] = {} if began is None else self._inherited(began)
        return self._tables[thread]

    def _inherited(self, began: Began) -> dict[int, OpenFile]:
        table = self._table(began.thread)
        return table if "CLONE_FILES" in began.text else dict(table)

    def _cloned(self, call: Call) -> None:
        self._cloning.pop(call.thread, None)
        if call.result > 0 and call.result not in self._tables:
            began = Began(call.thread, call.name, " ".join(call.arguments))
            self._tables[call.result] = self._inherited(began)

    def _open_file(self, call: Call, position: int = 0) -> OpenFile | None:
        """What a descriptor of a call leads to; None outside the root."""
        opened = self._table(call.thread).get(call.descriptor(position))
        path = call.descriptor_path(position)
        if opened is None and self._tree.is_inside(path):
            raise Unmodelled(f"{call.name} on a descriptor that was open before: {path}")
        return opened

    def _do_openat(self, call: Call, path: int = 1) -> None:
        flags = call.arguments[path + 1]
        table = self._table(call.thread)
        table.pop(call.result, None)
        if not self._tree.is_inside(call.result_path):
            return
        if "O_TMPFILE" in flags:
            raise Unmodelled("O_TMPFILE")
        inode = self._tree.found(call.result_path)
        if inode is None:
            place = self._tree.place(call.result_path)
            if place is None or not _CREATES.search(flags):
                raise Unmodelled(f"{call.result_path} is there and nobody made it")
            inode = self._tree.create(place, is_file=True)
        elif _TRUNCATES.search(flags):
            self._tree.truncate(inode, 0)
        table[call.result] = OpenFile(inode, appends=bool(_APPENDS.search(flags)))

    def _do_open(self, call: Call) -> None:
        self._do_openat(call, path=0)

    def _do_close(self, call: Call) -> None:
        self._table(call.thread).pop(call.descriptor(0), None)

    def _do_close_range(self, call: Call) -> None:
        table = self._table(call.thread)
        for descriptor in [d for d in table if call.number(0) <= d <= call.number(1)]:
            del table[descriptor]

    def _do_dup(self, call: Call) -> None:
        table = self._table(call.thread)
        table.pop(call.result, None)
        opened = table.get(call.descriptor(0))
        if opened is not None:
            table[call.result] = opened

    _do_dup2 = _do_dup3 = _do_dup

    def _do_fcntl(self, call: Call) -> None:
        if call.arguments[1].startswith("F_DUPFD"):
            self._do_dup(call)

    def _do_execve(self, call: Call) -> None:
        # Everything of ours is opened O_CLOEXEC, and Python adds it to all that it opens.
        self._tables[call.thread] = {}

    # --- content ---------------------------------------------------------------------------------

    def _do_read(self, call: Call) -> None:
        opened = self._open_file(call)
        if opened is not None:
            opened.offset_bytes += call.result

    _do_readv = _do_read

    def _do_pread64(self, call: Call) -> None:
        """Changes nothing."""

    _do_preadv = _do_sendfile = _do_pread64  # out of the directory; into it nothing of ours sends

    def _do_lseek(self, call: Call) -> None:
        opened = self._open_file(call)
        if opened is not None:
            opened.offset_bytes = call.result

    def _do_write(self, call: Call) -> None:
        if call.descriptor_path(0) == self._told:
            self._tree.told(call.written())
            return
        opened = self._open_file(call)
        if opened is None:
            return
        if opened.appends:
            opened.offset_bytes = len(self._tree.files[opened.inode])
        self._tree.write(opened.inode, opened.offset_bytes, call.written())
        opened.offset_bytes += call.result

    _do_writev = _do_write

    def _do_pwrite64(self, call: Call) -> None:
        opened = self._open_file(call)
        if opened is None:
            return
        if opened.appends:
            raise Unmodelled("pwrite on a file opened O_APPEND")
        self._tree.write(opened.inode, call.number(3), call.written())

    def _do_ftruncate(self, call: Call) -> None:
        opened = self._open_file(call)
        if opened is not None:
            self._tree.truncate(opened.inode, call.number(1))

    def _do_truncate(self, call: Call) -> None:
        inode = self._tree.found(call.path(0))
        if inode is not None:
            self._tree.truncate(inode, call.number(1))

    def _do_fallocate(self, call: Call) -> None:
        opened = self._open_file(call)
        if opened is None:
            return
        if call.arguments[1] != "0":
            raise Unmodelled(f"fallocate {call.arguments[1]}")
        size_bytes = call.number(2) + call.number(3)
        self._tree.truncate(opened.inode, max(size_bytes, len(self._tree.files[opened.inode])))

    def _do_fsync(self, call: Call) -> None:
        opened = self._open_file(call)
        if opened is not None:
            self._tree.barrier(opened.inode)

    _do_fdatasync = _do_fsync

    def _do_mmap(self, call: Call) -> None:
        shared = _SHARED_WRITES.search(" ".join(call.arguments[2:4]))
        path = call.descriptor_path(4) if len(call.arguments) > 4 else ""
        if shared and self._tree.is_inside(path) and not NOT_DURABLE.fullmatch(path):
            raise Unmodelled(f"{path} is written through shared memory")

    # --- names -----------------------------------------------------------------------------------

    def _place(self, call: Call, path: int, base: int | None = None) -> tuple[int, str] | None:
        """What a path argument means, relative to the descriptor in argument ``base``."""
        text = call.path(path)
        if not text.startswith("/"):
            if base is None:
                return None  # relative to the working directory, which is never the device's
            text = f"{call.descriptor_path(base)}/{text}"
        return self._tree.place(text)

    def _do_renameat2(self, call: Call) -> None:
        if call.arguments[4] not in ("0", "RENAME_NOREPLACE"):
            raise Unmodelled(f"renameat2 {call.arguments[4]}")
        self._renamed(self._place(call, 1, base=0), self._place(call, 3, base=2))

    def _do_renameat(self, call: Call) -> None:
        self._renamed(self._place(call, 1, base=0), self._place(call, 3, base=2))

    def _do_rename(self, call: Call) -> None:
        self._renamed(self._place(call, 0), self._place(call, 1))

    def _renamed(self, old: tuple[int, str] | None, new: tuple[int, str] | None) -> None:
        if old is not None and new is not None:
            self._tree.rename(old, new)
        elif old is not None or new is not None:
            raise Unmodelled("a rename into or out of the directory")

    def _do_linkat(self, call: Call) -> None:
        self._linked(self._place(call, 1, base=0), self._place(call, 3, base=2))

    def _do_link(self, call: Call) -> None:
        self._linked(self._place(call, 0), self._place(call, 1))

    def _linked(self, old: tuple[int, str] | None, new: tuple[int, str] | None) -> None:
        if old is not None and new is not None:
            self._tree.name(new, self._tree.directories[old[0]][old[1]])
        elif old is not None or new is not None:
            raise Unmodelled("a link into or out of the directory")

    def _do_symlinkat(self, call: Call) -> None:
        self._linked_by_path(self._place(call, 2, base=1), call.text(0))

    def _do_symlink(self, call: Call) -> None:
        self._linked_by_path(self._place(call, 1), call.text(0))

    def _linked_by_path(self, place: tuple[int, str] | None, target: bytes) -> None:
        if place is not None:
            self._tree.link(place, target)

    def _do_unlinkat(self, call: Call) -> None:
        self._unnamed(self._place(call, 1, base=0))

    def _do_unlink(self, call: Call) -> None:
        self._unnamed(self._place(call, 0))

    _do_rmdir = _do_unlink

    def _unnamed(self, place: tuple[int, str] | None) -> None:
        if place is not None:
            self._tree.name(place, None)

    def _do_mkdirat(self, call: Call) -> None:
        self._made(self._place(call, 1, base=0))

    def _do_mkdir(self, call: Call) -> None:
        self._made(self._place(call, 0))

    def _made(self, place: tuple[int, str] | None) -> None:
        if place is not None:
            self._tree.create(place, is_file=False)

    def _do_chmod(self, call: Call) -> None:
        """A mode is taken as durable at once: nothing of ours decides by one."""

    _do_fchmod = _do_fchmodat = _do_chmod
