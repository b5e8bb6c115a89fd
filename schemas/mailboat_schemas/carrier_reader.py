"""Reading a carrier, in pieces of bounded size, from wherever its bytes are."""

import hashlib
from collections.abc import Callable, Iterator

from mailboat_schemas.carrier import (
    BLOCK_BYTES,
    END,
    CarriedFile,
    CarrierDamaged,
    Contents,
    Member,
    NotACarrier,
    carrier_bytes,
    contents_length,
    header,
    members,
    padded,
    parse_contents,
)

READ_BYTES = 1 << 20

ReadAt = Callable[[int, int], bytes]  # offset and count; fewer bytes than asked only at the end


class CarrierReader:
    """``contents`` is read at once: small, and enough to know whether the rest is of any use."""

    def __init__(self, read_at: ReadAt, size_bytes: int) -> None:
        """
        Raises:
            NotACarrier: another kind of file.
            CarrierDamaged: shorter or longer than its table of contents says.
        """
        self._read_at = read_at
        block = read_at(0, BLOCK_BYTES)
        length = contents_length(block)
        encoded = self._exactly(BLOCK_BYTES, length)
        self.contents: Contents = parse_contents(encoded)
        if any(self._exactly(BLOCK_BYTES + length, padded(length) - length)):
            raise NotACarrier("there is something behind its table of contents")
        wanted = carrier_bytes(self.contents)
        if size_bytes != wanted:
            raise CarrierDamaged(f"it has {size_bytes} bytes and should have {wanted}")
        self._members = {member.name: member for member in members(self.contents)}

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(self._members.values())

    def read(self, name: str) -> bytes:
        """A small member, whole.

        Raises:
            CarrierDamaged: other bytes than its table of contents says.
        """
        return b"".join(self.chunks(self._members[name]))

    def chunks(self, member: Member) -> Iterator[bytes]:
        """Its content in pieces. What came is only known to be whole when the last has come.

        Raises:
            CarrierDamaged: other bytes than its table of contents says.
        """
        if self._exactly(member.header_offset, BLOCK_BYTES) != header(
            member.name, member.file.length
        ):
            raise CarrierDamaged(f"the header of {member.name} has changed")
        digest = hashlib.sha256()
        offset, end = member.offset, member.offset + member.file.length
        while offset < end:
            chunk = self._exactly(offset, min(READ_BYTES, end - offset))
            digest.update(chunk)
            offset += len(chunk)
            yield chunk
        refuse_other_bytes(member.name, member.file, digest.hexdigest())

    def check(self, member: Member, on_progress: Callable[[int], None]) -> None:
        """Read it all, its padding too; ``on_progress`` is told the bytes since the last call.

        Raises:
            CarrierDamaged
        """
        for chunk in self.chunks(member):
            on_progress(len(chunk))
        end = member.offset + member.file.length
        if any(self._exactly(end, member.end - end)):
            raise CarrierDamaged(f"there is something behind {member.name}")

    def check_end(self) -> None:
        """
        Raises:
            CarrierDamaged: it does not end as it must.
        """
        if self._exactly(carrier_bytes(self.contents) - len(END), len(END)) != END:
            raise CarrierDamaged("its end has changed")

    def _exactly(self, offset: int, count: int) -> bytes:
        found = self._read_at(offset, count)
        if len(found) != count:
            raise CarrierDamaged("it ends too early")
        return found


def refuse_other_bytes(name: str, file: CarriedFile, sha256: str) -> None:
    if sha256 != file.sha256:
        raise CarrierDamaged(f"{name} has sha256 {sha256[:16]}…, not {file.sha256[:16]}…")
