"""The carrier's format: a tar that is written in one way only."""

import hashlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_schemas.carrier import (
    ARTIFACTS_MAX,
    CONTENTS_BYTES_MAX,
    CONTENTS_NAME,
    END,
    RELEASES_MAX,
    CarriedFile,
    CarriedRelease,
    CarrierDamaged,
    Contents,
    NotACarrier,
    carrier_bytes,
    contents_length,
    header,
    members,
    padded,
    parse_contents,
)
from mailboat_schemas.carrier_reader import CarrierReader


def carried(content: bytes) -> CarriedFile:
    return CarriedFile(sha256=hashlib.sha256(content).hexdigest(), length=len(content))


def carrier(manifest: bytes = b"manifest", *artifacts: bytes) -> bytes:
    contents = Contents(
        fleet="demo",
        hardware_class="kiosk",
        counter=7,
        releases=(),
        manifest=carried(manifest),
        timestamp=carried(b"timestamp"),
        artifacts=tuple(carried(each) for each in artifacts),
    )
    encoded = contents.encoded()
    out = header(CONTENTS_NAME, len(encoded)) + encoded.ljust(padded(len(encoded)), b"\0")
    for member, content in zip(
        members(contents), (manifest, b"timestamp", *artifacts), strict=True
    ):
        assert len(out) == member.header_offset
        out += header(member.name, len(content)) + content.ljust(padded(len(content)), b"\0")
    assert len(out + END) == carrier_bytes(contents)
    return out + END


def read(whole: bytes) -> CarrierReader:
    reader = CarrierReader(lambda offset, count: whole[offset : offset + count], len(whole))
    for member in reader.members:
        reader.check(member, lambda _bytes: None)
    reader.check_end()
    return reader


def test_any_tar_lists_it() -> None:
    artifacts = (b"", b"x" * 511, b"y" * 512, b"z" * 513)
    with tarfile.open(fileobj=io.BytesIO(carrier(b"m", *artifacts))) as tar:
        found = {each.name: tar.extractfile(each) for each in tar.getmembers()}

    assert list(found)[:3] == [CONTENTS_NAME, "manifest", "timestamp"]
    for content in artifacts:
        file = found[f"artifacts/{hashlib.sha256(content).hexdigest()}"]
        assert file is not None
        assert file.read() == content


@pytest.mark.parametrize("length", [0, 1, (1 << 33) - 1, 1 << 33, (8 << 30) + (32 << 20)])
def test_lengths_beyond_eight_gibibytes_are_read_by_tar_too(length: int) -> None:
    found = tarfile.TarInfo.frombuf(header("artifacts/x", length), "utf-8", "strict")

    assert (found.size, found.mode, found.mtime) == (length, 0o444, 0)
    assert found.isreg()


def test_what_was_written_is_read_back() -> None:
    reader = read(carrier(b"m" * 600, b"a", b"b" * 3000))

    assert reader.read("manifest") == b"m" * 600
    assert [member.file.length for member in reader.members] == [600, 9, 1, 3000]


@given(st.data())
def test_no_other_bytes_pass_for_it(data: st.DataObject) -> None:
    """Wherever one byte is changed: contents, headers, padding, end. What the table says to people
    (fleet, class, counter) may be another word; the signed manifest decides those."""
    original = read(carrier(b"m", b"a" * 700)).contents
    whole = bytearray(carrier(b"m", b"a" * 700))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))

    try:
        told = read(bytes(whole)).contents
    except (NotACarrier, CarrierDamaged):
        return
    words = ("fleet", "hardware_class", "counter")
    assert any(getattr(told, word) != getattr(original, word) for word in words)
    assert told.model_copy(update={w: getattr(original, w) for w in words}) == original


@given(st.integers(0, len(carrier(b"m", b"a"))))
def test_no_part_of_it_passes_for_the_whole(length: int) -> None:
    whole = carrier(b"m", b"a")
    if length < len(whole):
        with pytest.raises((NotACarrier, CarrierDamaged)):
            read(whole[:length])


@given(st.binary(max_size=2000))
def test_nothing_else_is_taken_for_one(content: bytes) -> None:
    with pytest.raises((NotACarrier, CarrierDamaged)):
        read(content)


def test_a_table_of_contents_over_its_bound_is_not_read() -> None:
    assert contents_length(header(CONTENTS_NAME, CONTENTS_BYTES_MAX)) == CONTENTS_BYTES_MAX
    for length in (CONTENTS_BYTES_MAX + 1, 1 << 33, 0):
        with pytest.raises(NotACarrier):
            contents_length(header(CONTENTS_NAME, length))


def test_the_largest_table_of_contents_fits_its_bound() -> None:
    digests = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(ARTIFACTS_MAX)]
    one = carried(b"m")
    contents = Contents(
        fleet="f" * 63,
        hardware_class="k" * 63,
        counter=(1 << 63) - 1,
        releases=tuple(
            CarriedRelease(model="m" * 63, version="1.0.0", digest=digest, size_bytes=1 << 40)
            for digest in digests[:RELEASES_MAX]
        ),
        manifest=one,
        timestamp=one,
        artifacts=tuple(CarriedFile(sha256=digest, length=8 << 30) for digest in digests),
    )

    assert len(contents.encoded()) <= CONTENTS_BYTES_MAX
    assert parse_contents(contents.encoded()) == contents
    with pytest.raises(ValueError, match="at most"):
        Contents.model_validate(
            contents.model_dump() | {"artifacts": [*contents.artifacts, carried(b"more")]}
        )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"artifacts": [{"sha256": "ab" * 32, "length": 1}] * 2}, "twice"),
        ({"manifest": {"sha256": "ab" * 32, "length": 1 << 20}}, "manifest is too long"),
        ({"timestamp": {"sha256": "ab" * 32, "length": 1 << 20}}, "timestamp is too long"),
        ({"format": "mailboat-carrier/2"}, "format"),
        ({"fleet": "../demo"}, "fleet"),
        ({"more": 1}, "more"),
    ],
)
def test_contents_that_do_not_hold_are_refused(change: dict[str, object], problem: str) -> None:
    import json

    whole = carrier()
    length = contents_length(whole[:512])
    content = json.loads(whole[512 : 512 + length]) | change

    encoded = json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    with pytest.raises(NotACarrier, match=problem):
        parse_contents(encoded)


def test_contents_written_in_another_way_are_refused() -> None:
    whole = carrier()
    encoded = whole[512 : 512 + contents_length(whole[:512])]

    with pytest.raises(NotACarrier, match="another program"):
        parse_contents(encoded.replace(b",", b", ", 1))
