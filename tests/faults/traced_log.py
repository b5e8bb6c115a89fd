"""What strace writes down, read back: one `Call` for each system call that came to its end.

Strings must have been printed with ``-xx`` (every byte as ``\\xNN``) and in full (``-s``), and
descriptors with their paths (``-y``): then no comma or bracket inside a string can be mistaken for
one of strace's own.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Everything that changes a file, a name or a descriptor. What is not modelled is traced as well,
# so that a program which begins to use it is noticed (`power_model.Unmodelled`).
TRACED = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,read,pread64,readv,preadv,"
    "lseek,truncate,ftruncate,fallocate,fsync,fdatasync,sync,syncfs,sync_file_range,msync,"
    "rename,renameat,renameat2,link,linkat,unlink,unlinkat,symlink,symlinkat,mkdir,mkdirat,rmdir,"
    "chmod,fchmod,fchmodat,mmap,copy_file_range,sendfile,splice,dup,dup2,dup3,fcntl,close,"
    "close_range,clone,clone3,fork,vfork,execve,io_uring_setup"
)

_LINE = re.compile(r"(\d+) +(.*)", re.DOTALL)
_WHOLE = re.compile(r"(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)(<[^>]*>)?(?: .*)?", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_ARGUMENT = re.compile(r"(?:\[[^\]]*\]|\{[^}]*\}|<[^>]*>|[^,\[{<]|[\[{<])+")
_DESCRIPTOR = re.compile(r"(-?\d+|AT_FDCWD)(?:<([^>]*)>)?")
_VECTOR_PART = re.compile(r'iov_base="([^"]*)"')
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Call:
    """``result`` is negative for a call that failed; ``began`` is what strace saw first of it."""

    thread: int
    name: str
    arguments: tuple[str, ...]
    result: int
    result_path: str  # of a descriptor that was returned

    def text(self, position: int) -> bytes:
        """A string argument, decoded."""
        return unquoted(self.arguments[position])

    def path(self, position: int) -> str:
        return self.text(position).decode(errors="surrogateescape")

    def number(self, position: int) -> int:
        return int(self.arguments[position], 0)

    def descriptor(self, position: int) -> int:
        found = _DESCRIPTOR.match(self.arguments[position])
        return -100 if found is None or found[1] == "AT_FDCWD" else int(found[1])

    def descriptor_path(self, position: int) -> str:
        """Where the descriptor leads, as the kernel said at that moment; "" when it did not."""
        found = _DESCRIPTOR.match(self.arguments[position])
        return "" if found is None or not found[2] else _plain(found[2])

    def written(self) -> bytes:
        """The bytes of a write that the kernel took: a short write took fewer than offered."""
        offered = self.arguments[1]
        if offered.startswith("["):
            whole = b"".join(_bytes(part) for part in _VECTOR_PART.findall(offered))
        else:
            whole = unquoted(offered)
        return whole[: self.result]


@dataclass(frozen=True, slots=True)
class Began:
    """A clone that has not returned: its child may already speak."""

    thread: int
    name: str
    text: str


def unquoted(argument: str) -> bytes:
    if not argument.startswith('"') or not argument.endswith('"'):
        raise ValueError(f"not a whole string: {argument[:60]}")
    return _bytes(argument[1:-1])


def read_calls(lines: Iterable[str]) -> Iterator[Call | Began]:
    """Calls in the order in which they ended. Signals and exits are left out."""
    unfinished: dict[int, str] = {}
    for line in lines:
        split = _LINE.fullmatch(line.rstrip("\n"))
        if split is None:
            continue
        thread, text = int(split[1]), split[2]
        if text.endswith(_UNFINISHED):
            unfinished[thread] = text.removesuffix(_UNFINISHED)
            if text.startswith(("clone", "fork", "vfork")):
                yield Began(thread, text.partition("(")[0], text)
            continue
        resumed = _RESUMED.fullmatch(text)
        if resumed is not None:
            text = unfinished.pop(thread, "") + resumed[1]
        call = _parsed(thread, text)
        if call is not None:
            yield call


def _parsed(thread: int, text: str) -> Call | None:
    whole = _WHOLE.fullmatch(text)
    if whole is None or whole[3] == "?":
        return None  # a signal, an exit, or a call that was interrupted before it did anything
    path = _plain(whole[4][1:-1]) if whole[4] else ""
    return Call(thread, whole[1], _split(whole[2]), int(whole[3], 0), path)


def _split(arguments: str) -> tuple[str, ...]:
    if "[" in arguments or "{" in arguments:
        return tuple(part.strip() for part in _ARGUMENT.findall(arguments) if part.strip())
    return tuple(arguments.split(", "))


def _plain(path: str) -> str:
    if path.startswith("\\x"):
        deleted = path.endswith(_DELETED)
        plain = _bytes(path.removesuffix(_DELETED)).decode(errors="surrogateescape")
        return plain + _DELETED if deleted else plain
    return path


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))
