"""What a disk holds for certain and what it may still lose, after each operation of a recording.

For every inode the operations that a barrier has covered are folded into what is durable; the rest
is pending, in order. Two models of what a file system promises:

*ordered*  like ext4 with its defaults: changes of names reach the disk in the order in which they
           were made, and a barrier takes along every earlier one; a file grows only over content
           that is there. Content that nobody synced may be lost whatever was renamed meanwhile.
*weak*     what POSIX promises: a name is durable when its directory was synced, content when its
           file was, and nothing else is; a file may have grown over zeros.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.faults.power_operations import (
    Barrier,
    Directory,
    Names,
    Operation,
    Recording,
    Told,
    Truncate,
    Write,
)
from tests.faults.power_tree import NOT_DURABLE

SECTOR_BYTES = 512  # a disk writes one whole or not at all


class Metadata(StrEnum):
    ORDERED = "ordered"
    WEAK = "weak"


class Tear(StrEnum):
    """How a write came through."""

    WHOLE = "whole"
    HALF = "half"  # the first half, in the middle of a sector or not
    SECTOR = "sector"  # as far as the first boundary of a sector
    TAIL = "tail"  # the second half without the first
    ZEROS = "zeros"  # the file has grown by it, over zeros


Change = Names | Write | Truncate
# The operations that came through, by position in the recording. What is not named is lost.
Survivors = Mapping[int, Tear]


@dataclass(frozen=True, slots=True)
class Pending:
    position: int
    change: Change
    grows: bool = False  # a write beyond the end of its file as it was then


@dataclass(slots=True)
class Disk:
    """``take`` the operations of a recording one after another."""

    metadata: Metadata
    directories: dict[int, dict[str, int]]
    files: dict[int, bytes]
    pending: list[Pending] = field(default_factory=list)
    versions: dict[int, int] = field(default_factory=dict)  # of durable content, by file
    told: bytes = b""
    position: int = -1
    _sizes_bytes: dict[int, int] = field(default_factory=dict)  # with what is pending
    _volatile: frozenset[int] = frozenset()

    @classmethod
    def before(cls, recording: Recording, metadata: Metadata, told: bytes = b"") -> "Disk":
        start = recording.start
        directories: dict[int, dict[str, int]] = {i: {} for i in recording.is_file}
        directories = {i: d for i, d in directories.items() if not recording.is_file[i]}
        files = {inode: b"" for inode, is_file in recording.is_file.items() if is_file}
        for inode, found in start.items():
            if isinstance(found, Directory):
                directories[inode] = dict(found.names)
            else:
                files[inode] = found.content
        files |= recording.links
        disk = cls(metadata, directories, files, told=told)
        disk._sizes_bytes = {inode: len(content) for inode, content in files.items()}
        disk._volatile = _volatile(recording)
        for inode in disk._volatile:
            disk.files[inode] = b""
        return disk

    def take(self, operation: Operation) -> None:
        self.position += 1
        match operation:
            case Told(content):
                self.told += content
            case Barrier(inode):
                self._settle(self._covered(inode))
            case Names():
                self.pending.append(Pending(self.position, operation))
            case Write(inode, offset_bytes, content):
                if inode not in self._volatile:
                    end_bytes = offset_bytes + len(content)
                    grows = end_bytes > self._sizes_bytes[inode]
                    self._sizes_bytes[inode] = max(end_bytes, self._sizes_bytes[inode])
                    self.pending.append(Pending(self.position, operation, grows))
            case Truncate(inode, size_bytes):
                if inode not in self._volatile:
                    self._sizes_bytes[inode] = size_bytes
                    self.pending.append(Pending(self.position, operation))

    # --- barriers --------------------------------------------------------------------------------

    def _covered(self, inode: int) -> set[int]:
        """The positions of what a barrier on this inode makes durable."""
        if inode in self.files:
            covered = {p.position for p in self.pending if _file_of(p.change) == inode}
        else:
            covered = {p.position for p in self.pending if _directory_of(p.change) == inode}
        if self.metadata is Metadata.ORDERED:
            until = max((p.position for p in self.pending if self._touches(p, inode)), default=-1)
            names = {p.position for p in self.pending if isinstance(p.change, Names)}
            return covered | {position for position in names if position <= until}
        return self._with_what_they_require(covered)

    def _touches(self, pending: Pending, inode: int) -> bool:
        """Whether it changed what the journal of the file system keeps of an inode."""
        change = pending.change
        if isinstance(change, Names):
            return change.directory == inode or any(to == inode for _, to in change.names)
        return change.inode == inode and (pending.grows or isinstance(change, Truncate))

    def _with_what_they_require(self, covered: set[int]) -> set[int]:
        """A directory's names are durable as far as they were made, so what is required brings
        along what came before it in its own directory."""
        for pending in reversed(self.pending):
            change = pending.change
            if pending.position not in covered or not isinstance(change, Names):
                continue
            for earlier in self.pending:
                if earlier.position == change.requires:
                    directory = _directory_of(earlier.change)
                    covered |= {
                        p.position
                        for p in self.pending
                        if _directory_of(p.change) == directory and p.position <= earlier.position
                    }
        return covered

    def _settle(self, covered: set[int]) -> None:
        for pending in self.pending:
            if pending.position not in covered:
                continue
            change = pending.change
            if isinstance(change, Names):
                apply_names(self.directories[change.directory], change)
            else:
                content = applied(self.files[change.inode], [(change, Tear.WHOLE)])
                self.files[change.inode] = content
                self.versions[change.inode] = pending.position
        self.pending = [p for p in self.pending if p.position not in covered]

    # --- what may be there after a cut -----------------------------------------------------------

    def legal(self, survivors: Survivors) -> Survivors:
        """The same, without what cannot have come through when something earlier did not."""
        kept: dict[int, Tear] = {}
        in_order = self.metadata is Metadata.ORDERED
        names_end = False
        ends_bytes: dict[int, int] = {}  # how far a file goes since it failed to grow
        for pending in self.pending:
            position, change = pending.position, pending.change
            tear = survivors.get(position)
            if isinstance(change, Names):
                lacks = change.requires is not None and self._is_lost(change.requires, kept)
                if tear is None or lacks or (in_order and names_end):
                    names_end = True
                else:
                    kept[position] = Tear.WHOLE
                continue
            if in_order and tear in (Tear.ZEROS, Tear.TAIL) and pending.grows:
                tear = Tear.HALF
            limit = ends_bytes.get(change.inode)
            end_bytes = _end(change)
            beyond = in_order and limit is not None and end_bytes > limit
            if tear is not None and not beyond:
                kept[position] = tear
            if in_order and pending.grows and (tear is not Tear.WHOLE or beyond):
                start = change.offset_bytes if isinstance(change, Write) else 0
                ends_bytes[change.inode] = min(start, limit if limit is not None else start)
        return kept

    def _is_lost(self, position: int, kept: Survivors) -> bool:
        return position not in kept and any(p.position == position for p in self.pending)


def apply_names(directory: dict[str, int], change: Names) -> None:
    for name, inode in change.names:
        if inode is None:
            directory.pop(name, None)
        else:
            directory[name] = inode


def applied(content: bytes, changes: Sequence[tuple[Write | Truncate, Tear]]) -> bytes:
    held = bytearray(content)
    for change, tear in changes:
        if isinstance(change, Truncate):
            del held[change.size_bytes :]
            held.extend(bytes(change.size_bytes - len(held)))
            continue
        for offset_bytes, part in torn(change, tear):
            held.extend(bytes(max(0, offset_bytes - len(held))))
            held[offset_bytes : offset_bytes + len(part)] = part
    return bytes(held)


def torn(write: Write, tear: Tear) -> Iterator[tuple[int, bytes]]:
    """What of a write comes through, at which offset."""
    offset_bytes, content = write.offset_bytes, write.content
    half = len(content) // 2
    match tear:
        case Tear.WHOLE:
            yield offset_bytes, content
        case Tear.HALF:
            yield offset_bytes, content[:half]
        case Tear.SECTOR:
            yield offset_bytes, content[: SECTOR_BYTES - offset_bytes % SECTOR_BYTES]
        case Tear.TAIL:
            yield offset_bytes + half, content[half:]
        case Tear.ZEROS:
            yield offset_bytes + len(content), b""


def _file_of(change: Change) -> int | None:
    return None if isinstance(change, Names) else change.inode


def _directory_of(change: Change) -> int | None:
    return change.directory if isinstance(change, Names) else None


def _end(change: Write | Truncate) -> int:
    if isinstance(change, Truncate):
        return change.size_bytes
    return change.offset_bytes + len(change.content)


def _volatile(recording: Recording) -> frozenset[int]:
    """Files that every crash empties, by their names."""
    found = set()
    for inode in recording.start.values():
        if isinstance(inode, Directory):
            found |= {to for name, to in inode.names.items() if NOT_DURABLE.fullmatch(name)}
    for operation in recording.operations:
        if isinstance(operation, Names):
            found |= {
                to for name, to in operation.names if to is not None and NOT_DURABLE.fullmatch(name)
            }
    return frozenset(found)
