"""The export: what is chosen, and a file that is whole or not there, whatever happens between."""

import errno
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from carrying import export, opened_from, timestamp_of
from mailboat_controller import byte_stream
from mailboat_controller.byte_stream import ATTEMPTS_MAX, OpenAt, receive
from mailboat_controller.transfer import export as exporting
from mailboat_controller.transfer.export import part_of, verify_carrier, write_carrier
from mailboat_controller.transfer.selection import Wanted, contents_of
from mailboat_schemas.carrier import CarrierDamaged, Contents, NotACarrier, carrier_bytes, members
from mailboat_schemas.desired import Assignment, Offer, OfferWave, ReleaseRef
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    Conflict,
    DigestMismatch,
    DiskFull,
    DownloadInterrupted,
    MalformedPayload,
    NotFound,
    ServerUnavailable,
    TransferTooLong,
    TransferTooSlow,
)
from model_fleet import ModelFleet
from trust_fleet import MODEL


@pytest.fixture(scope="module")
def first_fleet(tmp_path_factory: pytest.TempPathFactory) -> ModelFleet:
    return ModelFleet(tmp_path_factory.mktemp("fleet") / "ceremony")


@pytest.fixture
def fleet(first_fleet: ModelFleet) -> ModelFleet:
    return first_fleet.copied()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_stream, "PROGRESS_BYTES_MIN", 1)
    monkeypatch.setattr(byte_stream, "WAIT_SECONDS_MAX", 0.0)


def verify(path: Path) -> Contents:
    return verify_carrier(path, lambda _bytes: None)


def write(
    path: Path, fleet: ModelFleet, bundle: bytes, open_artifact: Callable[[str], OpenAt]
) -> int:
    """Bytes that it said were done."""
    done: list[int] = []
    timestamp = timestamp_of(fleet)
    write_carrier(
        path,
        contents_of(bundle, timestamp, Wanted()),
        manifest=bundle,
        timestamp=timestamp,
        open_artifact=open_artifact,
        on_progress=done.append,
    )
    return sum(done)


# --- what goes in --------------------------------------------------------------------------------


def test_what_runs_and_what_is_offered_goes_in_each_file_once(
    fleet: ModelFleet, tmp_path: Path
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)
    same = fleet.model_release("1.2.0", factor=3.0)
    bundle = fleet.bundle(
        Assignment(
            model=MODEL,
            current=b,
            offer=Offer(release=same, rollout="all", waves=(OfferWave(upto="", roster=1),)),
            kept=(a,),
        )
    )

    contents = export(tmp_path / "f", fleet, bundle)
    everything = export(tmp_path / "all", fleet, bundle, wanted=Wanted(kept_too=True))

    assert [each.version for each in contents.releases] == ["1.1.0", "1.2.0"]
    assert len(contents.artifacts) == 2
    assert [each.version for each in everything.releases] == ["1.1.0", "1.2.0", "1.0.0"]
    assert len(everything.artifacts) == 4
    assert verify(tmp_path / "f") == contents
    assert (tmp_path / "f").stat().st_size == carrier_bytes(contents)


def test_a_declared_fallback_goes_along_when_all_is_wanted(fleet: ModelFleet) -> None:
    fleet.model_release("0.9.0", factor=5.0)
    a = fleet.model_release("1.0.0", fallback="0.9.0")

    contents = contents_of(fleet.current(a), timestamp_of(fleet), Wanted(kept_too=True))

    assert [each.version for each in contents.releases] == ["1.0.0", "0.9.0"]


def test_only_the_models_that_were_asked_for(fleet: ModelFleet) -> None:
    bundle, timestamp = fleet.current(fleet.model_release("1.0.0")), timestamp_of(fleet)

    assert contents_of(bundle, timestamp, Wanted(frozenset({MODEL}))).artifacts
    with pytest.raises(NotFound, match="other") as unknown:
        contents_of(bundle, timestamp, Wanted(frozenset({"other"})))
    assert MODEL in unknown.value.next_step


def test_the_same_state_gives_the_same_bytes(fleet: ModelFleet, tmp_path: Path) -> None:
    bundle = fleet.current(fleet.model_release("1.0.0"))
    export(tmp_path / "one", fleet, bundle)
    export(tmp_path / "two", fleet, bundle)

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_no_manifest_is_refused(fleet: ModelFleet) -> None:
    with pytest.raises(MalformedPayload):
        contents_of(b"nonsense", timestamp_of(fleet), Wanted())


def test_a_release_whose_document_is_lacking_is_left_out(fleet: ModelFleet) -> None:
    bundle = fleet.current(ReleaseRef(version="9.9.9", digest="ab" * 32))

    assert contents_of(bundle, timestamp_of(fleet), Wanted()).releases == ()


# --- how it is written ---------------------------------------------------------------------------


class Torn:
    """A server whose connection breaks after so many bytes each time."""

    def __init__(
        self, artifacts: dict[str, bytes], bytes_each: int, *, resumes: bool = True
    ) -> None:
        self.artifacts = artifacts
        self.bytes_each = bytes_each
        self.resumes = resumes
        self.sent = 0
        self.down = False

    def __call__(self, digest: str) -> OpenAt:
        @contextmanager
        def open_at(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
            if self.down:
                raise ServerUnavailable("It is down.", next_step="wait.")
            begin = offset if self.resumes else 0
            chunk = self.artifacts[digest][begin : begin + self.bytes_each]
            self.sent += len(chunk)
            yield begin, iter([chunk])

        return open_at


def test_an_export_goes_on_after_every_cut(fleet: ModelFleet, tmp_path: Path) -> None:
    bundle = fleet.current(fleet.model_release("1.0.0"))
    server = Torn(fleet.artifacts, 100)

    done = write(tmp_path / "f", fleet, bundle, server)

    contents = verify(tmp_path / "f")
    assert server.sent == contents.artifact_bytes
    assert contents.artifact_bytes < done <= carrier_bytes(contents)


@pytest.mark.parametrize("kept_bytes", [0, 10, 512, 3000, 11_000, 11_300, 11_800, 12_100])
def test_an_export_that_was_killed_anywhere_goes_on_there(
    fleet: ModelFleet, tmp_path: Path, kept_bytes: int
) -> None:
    bundle = fleet.current(fleet.model_release("1.0.0"))
    contents = export(tmp_path / "whole", fleet, bundle)
    whole = (tmp_path / "whole").read_bytes()
    server = Torn(fleet.artifacts, 1 << 20)
    part_of(tmp_path / "f").write_bytes(whole[:kept_bytes])

    write(tmp_path / "f", fleet, bundle, server)

    assert (tmp_path / "f").read_bytes() == whole
    here = sum(
        max(0, min(kept_bytes - member.offset, member.file.length))
        for member in members(contents)
        if member.name.startswith("artifacts/")
    )
    assert server.sent == contents.artifact_bytes - here
    assert not part_of(tmp_path / "f").exists()


def test_what_was_kept_is_hashed_before_it_counts(fleet: ModelFleet, tmp_path: Path) -> None:
    bundle = fleet.current(fleet.model_release("1.0.0"))
    contents = export(tmp_path / "whole", fleet, bundle)
    whole = bytearray((tmp_path / "whole").read_bytes())
    *_, last = members(contents)
    whole[last.offset + 3] ^= 1
    part_of(tmp_path / "f").write_bytes(whole)

    write(tmp_path / "f", fleet, bundle, Torn(fleet.artifacts, 1 << 20))

    verify(tmp_path / "f")


def test_a_part_of_another_export_is_begun_anew(fleet: ModelFleet, tmp_path: Path) -> None:
    a = fleet.current(fleet.model_release("1.0.0"))
    export(tmp_path / "f", fleet, a)
    (tmp_path / "f").rename(part_of(tmp_path / "f"))
    b = fleet.current(fleet.model_release("1.1.0", factor=3.0))

    contents = export(tmp_path / "f", fleet, b)

    assert verify(tmp_path / "f") == contents


def test_a_server_with_other_bytes_is_told_and_they_are_not_kept(
    fleet: ModelFleet, tmp_path: Path
) -> None:
    bundle = fleet.current(fleet.model_release("1.0.0"))
    wrong = {digest: b"X" + content[1:] for digest, content in fleet.artifacts.items()}

    with pytest.raises(DigestMismatch):
        export(tmp_path / "f", fleet, bundle, artifacts=wrong)
    assert not (tmp_path / "f").exists()
    export(tmp_path / "f", fleet, bundle)
    verify(tmp_path / "f")


def test_a_server_that_stays_away_is_given_up_and_what_came_stays(
    fleet: ModelFleet, tmp_path: Path
) -> None:
    bundle = fleet.current(fleet.model_release("1.0.0"))
    server = Torn(fleet.artifacts, 1 << 20)
    server.down = True

    with pytest.raises(ServerUnavailable):
        write(tmp_path / "f", fleet, bundle, server)
    assert part_of(tmp_path / "f").stat().st_size > 512
    assert not (tmp_path / "f").exists()


def test_two_exports_do_not_write_one_file(fleet: ModelFleet, tmp_path: Path) -> None:
    bundle = fleet.current(fleet.model_release("1.0.0"))
    with exporting._opened(part_of(tmp_path / "f")), pytest.raises(Conflict):
        export(tmp_path / "f", fleet, bundle)


def test_a_stick_without_room_is_told_before_a_byte_is_fetched(
    fleet: ModelFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = fleet.current(fleet.model_release("1.0.0"))
    usage = exporting.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(exporting.shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    server = Torn(fleet.artifacts, 1 << 20)

    with pytest.raises(DiskFull, match="1000 are free"):
        write(tmp_path / "f", fleet, bundle, server)
    assert server.sent == 0


@pytest.mark.parametrize(("number", "said"), [(27, "exFAT"), (28, "room"), (5, "stick")])
def test_what_a_stick_says_is_put_in_words(
    fleet: ModelFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    bundle = fleet.current(fleet.model_release("1.0.0"))

    def refuses(_descriptor: int, _content: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refuses)
    with pytest.raises((DiskFull, ConfigurationInvalid)) as refused:
        export(tmp_path / "f", fleet, bundle)
    assert said in refused.value.next_step


# --- how it is checked ---------------------------------------------------------------------------


def test_a_damaged_copy_is_found(fleet: ModelFleet, tmp_path: Path) -> None:
    contents = export(tmp_path / "f", fleet, fleet.current(fleet.model_release("1.0.0")))
    whole = (tmp_path / "f").read_bytes()
    for member in members(contents):
        for place in (member.header_offset, member.offset, member.end - 1):
            changed = bytearray(whole)
            changed[place] ^= 1
            (tmp_path / "f").write_bytes(changed)
            with pytest.raises(CarrierDamaged):
                verify(tmp_path / "f")
    (tmp_path / "f").write_bytes(whole[:-1])
    with pytest.raises(CarrierDamaged):
        verify(tmp_path / "f")
    (tmp_path / "f").write_bytes(b"PK" + whole)
    with pytest.raises(NotACarrier):
        verify(tmp_path / "f")


# --- bytes from far away -------------------------------------------------------------------------


def received(open_at: OpenAt, length: int, begin: int = 0) -> bytes:
    return b"".join(receive(open_at, begin=begin, length=length))


def test_a_server_that_cannot_resume_is_read_from_its_start() -> None:
    content = bytes(range(256)) * 4
    digest = hashlib.sha256(content).hexdigest()
    server = Torn({digest: content}, 1 << 20, resumes=False)

    assert received(server(digest), len(content), begin=100) == content[100:]


def test_more_than_was_promised_is_refused_at_once() -> None:
    with pytest.raises(TransferTooLong):
        received(opened_from({"x": b"12345"})("x"), 4)


def test_progress_makes_up_for_every_cut_and_none_is_given_up() -> None:
    content = b"x" * 100
    server = Torn({"x": content}, 1)
    assert received(server("x"), 100) == content

    server.bytes_each = 0
    asked: list[int] = []

    @contextmanager
    def open_at(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        asked.append(offset)
        yield offset, iter(())

    with pytest.raises(DownloadInterrupted):
        received(open_at, 100)
    assert len(asked) == ATTEMPTS_MAX


def test_a_byte_a_minute_is_too_slow() -> None:
    minutes = itertools.count()

    @contextmanager
    def open_at(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        yield offset, itertools.repeat(b"x")

    slow = receive(open_at, begin=0, length=1 << 20, monotonic=lambda: 61.0 * next(minutes))
    with pytest.raises(TransferTooSlow):
        b"".join(slow)
    assert next(minutes) < 10 * ATTEMPTS_MAX


def test_a_byte_for_each_connection_is_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_stream, "PROGRESS_BYTES_MIN", 4096)
    server = Torn({"x": b"x" * 1000}, 1)

    with pytest.raises(DownloadInterrupted):
        received(server("x"), 1000)
    assert server.sent == ATTEMPTS_MAX


def test_a_stick_without_owners_takes_an_export_too(
    fleet: ModelFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else mounted it, so nobody may change the mode of a file there."""

    def refused(*_what: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refused)
    bundle = fleet.bundle(Assignment(model=MODEL, current=fleet.model_release("1.0.0")))

    export(tmp_path / "f", fleet, bundle)

    assert verify(tmp_path / "f").releases
