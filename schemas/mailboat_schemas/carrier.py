"""The carrier: one file that takes releases where no network does, such as on a USB stick.

A plain tar, so that `tar tf` lists it, but written in one way only. Its first member is a table of
contents, and from that every other byte that is no content follows: names, lengths, order, headers,
padding. So nobody parses tar here. Whoever reads compares each header with what it has to be, and
links, sparse files, paths and extended headers cannot even be said.

```text
mailboat-carrier.json   the table of contents, canonical JSON
manifest                the class's ManifestBundle, exactly the published bytes
timestamp               a FreshTimestamp: the bundle's own may have expired since
artifacts/<sha256>      every file once
```

Nothing in it is trusted. The manifest proves itself as it does on the network, and every file is
known by a digest that the manifest's signed documents name.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from mailboat_schemas.desired import FreshTimestamp, ManifestBundle
from mailboat_schemas.documents.document import Strict
from mailboat_schemas.documents.release import ARTIFACT_BYTES_MAX
from mailboat_schemas.errors import OperatorNeeded
from mailboat_schemas.names import ClassName, Digest, FleetId, ModelName, Version

CONTENTS_NAME = "mailboat-carrier.json"
MANIFEST_NAME = "manifest"
TIMESTAMP_NAME = "timestamp"
ARTIFACTS_NAME = "artifacts"
CONTENTS_BYTES_MAX = 1 << 20
ARTIFACTS_MAX = 4096  # of 64 models with 64 files each; about 450 kB of contents
RELEASES_MAX = 1024
BLOCK_BYTES = 512  # of tar: headers are that long, contents are padded to it
END = bytes(2 * BLOCK_BYTES)
# An encrypted file is a little longer than what is in it.
_FILE_BYTES_MAX = ARTIFACT_BYTES_MAX + (ARTIFACT_BYTES_MAX >> 8)
_OCTAL_BYTES_MAX = (1 << 33) - 1  # eleven octal digits; beyond, GNU's binary form
_AGAIN = "export it again with `mailboat release export`, and copy it as it is."


class NotACarrier(OperatorNeeded):
    """Another kind of file, or one that was packed anew with another tool."""

    code = "E-CARRIER-MALFORMED"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"This is not a file that `mailboat release export` wrote: {problem}.",
            next_step=f"is it the right file? If so, {_AGAIN}",
        )


class CarrierDamaged(OperatorNeeded):
    """It was one. Bytes are missing, or are others than were written."""

    code = "E-CARRIER-DAMAGED"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The exported file is damaged: {problem}.",
            next_step="copy it onto the stick again and eject the stick before you pull it out; "
            "`mailboat release export --verify FILE` tells whether the copy is whole.",
        )


class CarriedFile(Strict):
    sha256: Digest
    length: int = Field(ge=0, le=_FILE_BYTES_MAX, description="bytes")


class CarriedRelease(Strict):
    """For people. Which release may run is for the manifest to say."""

    model: ModelName
    version: Version
    digest: Digest
    size_bytes: int = Field(ge=0, description="of its files for this class")


class Contents(Strict):
    """The table of contents: what is in the file, for whom, how long and in which order."""

    format: Literal["mailboat-carrier/1"] = "mailboat-carrier/1"
    fleet: FleetId
    hardware_class: ClassName
    counter: int = Field(ge=1, lt=1 << 63, description="of the desired state; for people")
    releases: tuple[CarriedRelease, ...] = Field(max_length=RELEASES_MAX)
    manifest: CarriedFile
    timestamp: CarriedFile
    artifacts: tuple[CarriedFile, ...] = Field(max_length=ARTIFACTS_MAX)

    @model_validator(mode="after")
    def _small_parts_are_small_and_files_are_distinct(self) -> Self:
        if self.manifest.length > ManifestBundle.wire_bytes_max:
            raise ValueError("its manifest is too long")
        if self.timestamp.length > FreshTimestamp.wire_bytes_max:
            raise ValueError("its timestamp is too long")
        if len({each.sha256 for each in self.artifacts}) != len(self.artifacts):
            raise ValueError("a file is in it twice")
        return self

    @property
    def artifact_bytes(self) -> int:
        return sum(each.length for each in self.artifacts)

    def encoded(self) -> bytes:
        """The one way to write it: sorted keys, no spaces, ASCII, one newline."""
        content = self.model_dump(mode="json")
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return text.encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside. ``offset`` is where its content begins, in bytes."""

    name: str
    file: CarriedFile
    offset: int

    @property
    def header_offset(self) -> int:
        return self.offset - BLOCK_BYTES

    @property
    def end(self) -> int:
        """Of its padding."""
        return self.offset + padded(self.file.length)


def parse_contents(encoded: bytes) -> Contents:
    """
    Raises:
        NotACarrier: not a table of contents, or not in the form that it has.
    """
    try:
        found = Contents.model_validate_json(encoded)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise NotACarrier(f"its table of contents: {place}: {first['msg']}") from error
    if found.encoded() != encoded:
        raise NotACarrier("its table of contents was written by another program")
    return found


def members(contents: Contents) -> Iterator[Member]:
    """All but the table of contents itself, in order."""
    offset = BLOCK_BYTES + padded(len(contents.encoded()))
    named = [(MANIFEST_NAME, contents.manifest), (TIMESTAMP_NAME, contents.timestamp)]
    named += [(f"{ARTIFACTS_NAME}/{each.sha256}", each) for each in contents.artifacts]
    for name, file in named:
        member = Member(name, file, offset + BLOCK_BYTES)
        yield member
        offset = member.end


def carrier_bytes(contents: Contents) -> int:
    """How long the whole file is."""
    *_, last = members(contents)
    return last.end + len(END)


def padded(length: int) -> int:
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


def header(name: str, length: int) -> bytes:
    """The tar header of a member: a plain file, readable by all, of nobody and no time.

    Source: POSIX.1-1988 ustar; GNU tar for lengths beyond eleven octal digits.
    """
    fits = length <= _OCTAL_BYTES_MAX
    size = b"%011o\0" % length if fits else b"\x80" + length.to_bytes(11)
    owner = b"0000000\0" * 2
    times = b"00000000000\0"
    before = name.encode().ljust(100, b"\0") + b"0000444\0" + owner + size + times
    after = b"0" + bytes(100) + b"ustar\x0000"
    checksum = sum(before) + 8 * ord(" ") + sum(after)
    return (before + b"%06o\0 " % checksum + after).ljust(BLOCK_BYTES, b"\0")


def contents_length(block: bytes) -> int:
    """From the first header of the file, in bytes.

    Raises:
        NotACarrier: it is not the header that a table of contents has.
    """
    size = block[124:135]
    length = int(size, 8) if size.isdigit() and not set(size) & set(b"89") else 0
    if not 0 < length <= CONTENTS_BYTES_MAX or block != header(CONTENTS_NAME, length):
        raise NotACarrier("it begins with something else")
    return length
