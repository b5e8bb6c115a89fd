"""What holds of every artifact store, on each of them."""

import hashlib
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mailboat_controller.artifacts.artifact_store import ArtifactStore, Entry
from mailboat_controller.artifacts.opening import open_store
from mailboat_controller.artifacts.settings import ArtifactSettings
from mailboat_schemas.documents.release import ARTIFACT_BYTES_MAX, File, FileRole
from mailboat_schemas.errors import (
    ArtifactMissing,
    DigestMismatch,
    MalformedPayload,
    PayloadTooLarge,
)

CONTENT = b"model" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = "ab" * 32


def stored(artifacts: ArtifactStore, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    artifacts.put(digest, [content], len(content))
    return digest


def everything(artifacts: ArtifactStore) -> list[str]:
    return [entry.digest for entry in artifacts.entries()]


def test_what_was_put_can_be_read(artifacts: ArtifactStore) -> None:
    assert artifacts.put(DIGEST, [CONTENT[:7], CONTENT[7:]], len(CONTENT)) is True

    assert b"".join(artifacts.read(DIGEST)) == CONTENT
    assert artifacts.length(DIGEST) == len(CONTENT)
    assert artifacts.has(DIGEST)
    assert artifacts.has(DIGEST, len(CONTENT))
    assert not artifacts.has(DIGEST, len(CONTENT) - 1)


def test_nothing_at_all_is_an_artifact_too(artifacts: ArtifactStore) -> None:
    digest = stored(artifacts, b"")

    assert artifacts.length(digest) == 0
    assert b"".join(artifacts.read(digest)) == b""


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 5, CONTENT[:5]),
        (4_990, None, CONTENT[4_990:]),
        (10, 20, CONTENT[10:20]),
        (5_000, None, b""),
        (7, 7, b""),
        (4_999, 9_999, CONTENT[4_999:]),
    ],
)
def test_a_part_of_it_can_be_read(
    artifacts: ArtifactStore, start: int, end: int | None, expected: bytes
) -> None:
    stored(artifacts, CONTENT)

    assert b"".join(artifacts.read(DIGEST, start, end)) == expected


def test_it_is_read_in_chunks_however_long_it_is(artifacts: ArtifactStore) -> None:
    content = bytes(range(256)) * (12 * 4096)  # 12 MiB: of S3 two parts, and many ranges
    digest = stored(artifacts, content)

    chunks = list(artifacts.read(digest))

    assert b"".join(chunks) == content
    assert max(map(len, chunks)) <= 1 << 20


def test_putting_it_again_reads_nothing(artifacts: ArtifactStore) -> None:
    stored(artifacts, CONTENT)

    def never() -> Iterator[bytes]:
        raise AssertionError
        yield b""

    assert artifacts.put(DIGEST, never(), len(CONTENT)) is False


@pytest.mark.parametrize(
    ("chunks", "length", "error"),
    [
        ([b"x" * len(CONTENT)], len(CONTENT), DigestMismatch),
        ([CONTENT[:-1]], len(CONTENT), MalformedPayload),
        ([CONTENT, b"!"], len(CONTENT), MalformedPayload),
        ([CONTENT], len(CONTENT) - 1, MalformedPayload),
        ([bytes(9 << 20)], 9 << 20, DigestMismatch),
        ([bytes(9 << 20)], 10 << 20, MalformedPayload),
    ],
    ids=["other bytes", "too few", "too many", "announced too few", "many others", "cut late"],
)
def test_bytes_that_are_not_what_they_claim_leave_nothing(
    artifacts: ArtifactStore,
    settings: ArtifactSettings,
    request: pytest.FixtureRequest,
    chunks: list[bytes],
    length: int,
    error: type[Exception],
) -> None:
    with pytest.raises(error):
        artifacts.put(DIGEST, chunks, length)

    assert not artifacts.has(DIGEST)
    assert everything(artifacts) == []
    if settings.store == "s3":
        server = request.getfixturevalue("s3")
        assert server.keys(settings.bucket) == []
        assert server.unfinished(settings.bucket) == []


def test_an_upload_that_is_left_in_the_middle_leaves_nothing(artifacts: ArtifactStore) -> None:
    with artifacts.begin(DIGEST, len(CONTENT)) as upload:
        upload.write(CONTENT)

    assert not artifacts.has(DIGEST)
    upload.abort()  # twice is once
    assert everything(artifacts) == []


def test_two_uploads_of_one_artifact_at_once_both_succeed(artifacts: ArtifactStore) -> None:
    together = threading.Barrier(4)
    results: list[bool] = []

    def chunks() -> Iterator[bytes]:
        together.wait(60)  # all have looked and found nothing
        yield CONTENT

    def put() -> None:
        results.append(artifacts.put(DIGEST, chunks(), len(CONTENT)))

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [True] * 4
    assert b"".join(artifacts.read(DIGEST)) == CONTENT
    assert everything(artifacts) == [DIGEST]


def test_an_artifact_over_the_bound_is_refused_before_its_first_byte(
    artifacts: ArtifactStore,
) -> None:
    with pytest.raises(PayloadTooLarge):
        artifacts.begin(DIGEST, ARTIFACT_BYTES_MAX + 1)


@pytest.mark.parametrize(
    "digest", ["", "../../etc/passwd", "AB" * 32, "ab" * 31, "zz" * 32, "quarantine/" + "ab" * 32]
)
def test_a_name_that_is_no_digest_never_becomes_a_place(
    artifacts: ArtifactStore, digest: str
) -> None:
    with pytest.raises(MalformedPayload):
        artifacts.length(digest)
    with pytest.raises(MalformedPayload):
        next(artifacts.read(digest))
    with pytest.raises(MalformedPayload):
        artifacts.begin(digest, 1)
    with pytest.raises(MalformedPayload):
        artifacts.delete(digest)
    with pytest.raises(MalformedPayload):
        artifacts.quarantine(digest)


def test_what_is_not_here_is_missing(artifacts: ArtifactStore, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(CONTENT)
    assert artifacts.put_file(source) == DIGEST
    here = File(path="m.onnx", role=FileRole.MODEL, sha256=DIGEST, length=len(CONTENT))
    other = here.model_copy(update={"sha256": OTHER})
    longer = here.model_copy(update={"length": len(CONTENT) + 1})

    assert artifacts.missing([here, other, longer]) == (OTHER, DIGEST)
    with pytest.raises(ArtifactMissing):
        next(artifacts.read(OTHER))
    with pytest.raises(ArtifactMissing), artifacts.local_file(OTHER):
        pass
    assert artifacts.length(OTHER) is None


def test_all_of_it_is_listed_in_order_and_from_any_place(artifacts: ArtifactStore) -> None:
    contents = [str(number).encode() for number in range(20)]
    digests = sorted(stored(artifacts, content) for content in contents)

    found = list(artifacts.entries())

    assert [entry.digest for entry in found] == digests
    assert {entry.length for entry in found} == {1, 2}
    assert [entry.digest for entry in artifacts.entries(digests[11])] == digests[12:]
    between = digests[11][:-1] + ("0" if digests[11][-1] != "0" else "1")
    assert between not in digests
    expected = [digest for digest in digests if digest > between]
    assert [entry.digest for entry in artifacts.entries(between)] == expected


def test_what_was_deleted_is_gone_and_can_be_put_again(artifacts: ArtifactStore) -> None:
    stored(artifacts, CONTENT)

    assert artifacts.delete(DIGEST) is True
    assert artifacts.delete(DIGEST) is False
    assert not artifacts.has(DIGEST)
    assert artifacts.put(DIGEST, [CONTENT], len(CONTENT)) is True


def test_what_is_taken_out_is_missing_and_kept_for_a_look(artifacts: ArtifactStore) -> None:
    stored(artifacts, CONTENT)

    artifacts.quarantine(DIGEST)
    artifacts.quarantine(DIGEST)  # nothing is there any more

    assert not artifacts.has(DIGEST)
    assert everything(artifacts) == []
    assert artifacts.quarantined() == (Entry(DIGEST, len(CONTENT)),)
    artifacts.discard(DIGEST)
    artifacts.discard(DIGEST)
    assert artifacts.quarantined() == ()


def test_code_that_needs_a_file_is_given_one(artifacts: ArtifactStore) -> None:
    stored(artifacts, CONTENT)

    with artifacts.local_file(DIGEST) as path:
        assert path.read_bytes() == CONTENT

    assert artifacts.has(DIGEST)


def test_a_start_clears_away_what_died_with_the_last_controller(
    settings: ArtifactSettings, tmp_path: Path
) -> None:
    open_store(settings, tmp_path / "artifacts")
    place = "incoming" if settings.store == "directory" else "scratch"
    (tmp_path / "artifacts" / place / "x.part").write_bytes(b"half")

    open_store(settings, tmp_path / "artifacts")

    assert list((tmp_path / "artifacts" / place).iterdir()) == []


def test_a_look_at_the_store_leaves_nothing(artifacts: ArtifactStore) -> None:
    artifacts.check()

    assert everything(artifacts) == []
    assert artifacts.quarantined() == ()


def test_only_a_bucket_gives_an_address_of_its_own(
    artifacts: ArtifactStore, settings: ArtifactSettings
) -> None:
    stored(artifacts, CONTENT)

    address = artifacts.presigned(DIGEST, timedelta(seconds=60))

    assert (address is None) == (settings.store == "directory")
