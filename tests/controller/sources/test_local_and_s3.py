"""A directory and a bucket as sources."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailboat_controller.artifacts.opening import open_bucket
from mailboat_controller.sources import source
from mailboat_controller.sources.local import DirectorySource
from mailboat_controller.sources.s3 import RANGE_BYTES, S3Source
from mailboat_controller.sources.source import Source, SourceRefused
from mailboat_controller.sources.taking import Taken, take
from mailboat_schemas.errors import ConfigurationInvalid, DiskFull
from s3_server import S3Server, s3_server


def fetch(opened: Source, out: Path) -> Taken:
    return take(opened, "the place", out, None, lambda _name, _bytes: None)


@pytest.fixture
def folder(tmp_path: Path, release_files: dict[str, bytes]) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name, content in release_files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_directory_is_recorded_by_what_sha256sum_says_of_it(
    folder: Path, tmp_path: Path, release_files: dict[str, bytes]
) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("hidden")
    (folder / "notes.txt").write_text("not of the release")

    taken = fetch(DirectorySource(folder), tmp_path / "build")

    lines = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in sorted(release_files.items())
    )
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert taken.reference == f"directory@sha256:{expected}"
    assert (tmp_path / "build" / "source" / "model.onnx").is_file()


def test_a_file_that_was_changed_is_taken_anew(folder: Path, tmp_path: Path) -> None:
    first = fetch(DirectorySource(folder), tmp_path / "build")
    (folder / "golden.npz").write_bytes(b"SAMPLES")
    os.utime(folder / "golden.npz", ns=(1, 1))

    second = fetch(DirectorySource(folder), tmp_path / "build")
    assert second.reference != first.reference
    assert (tmp_path / "build" / "source" / "golden.npz").read_bytes() == b"SAMPLES"


def test_a_directory_with_a_link_in_it_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")

    with pytest.raises(SourceRefused, match="is no file"):
        fetch(DirectorySource(folder), tmp_path / "build")


def test_a_whole_disk_is_no_release(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "FILES_MAX", 2)

    with pytest.raises(SourceRefused, match="more than 2"):
        fetch(DirectorySource(folder), tmp_path / "build")


def test_a_place_that_cannot_be_written_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "build").write_text("a file")

    with pytest.raises(ConfigurationInvalid, match="cannot be written"):
        fetch(DirectorySource(folder), tmp_path / "build")


def test_a_full_disk_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        fetch(DirectorySource(folder), tmp_path / "build")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


def bucket_of(s3: S3Server, files: dict[str, bytes]) -> S3Source:
    settings = s3.settings()
    for name, content in files.items():
        s3.client.put_object(Bucket=settings.bucket, Key=f"fleet/a/{name}", Body=content)
    s3.client.put_object(Bucket=settings.bucket, Key="fleet/b/other", Body=b"of another")
    return S3Source(open_bucket(settings, settings.endpoint), "s3://models/fleet/a")


@pytest.mark.slow
def test_a_prefix_of_a_bucket_is_fetched_in_ranges_and_recorded(
    s3: S3Server, tmp_path: Path, release_files: dict[str, bytes]
) -> None:
    release_files["model.onnx"] = os.urandom(RANGE_BYTES + 1000)

    taken = fetch(bucket_of(s3, release_files), tmp_path / "build")

    assert taken.reference.startswith("s3://models/fleet/a@sha256:")
    for name, content in release_files.items():
        assert (tmp_path / "build" / "source" / name).read_bytes() == content


@pytest.mark.slow
def test_an_object_that_is_replaced_while_it_is_read_is_refused(
    s3: S3Server, tmp_path: Path, release_files: dict[str, bytes]
) -> None:
    opened = bucket_of(s3, release_files)
    listed = {each.name: each for each in opened.files()}
    bucket = s3.client.list_buckets()["Buckets"][-1]["Name"]
    s3.client.put_object(
        Bucket=bucket, Key="fleet/a/model.onnx", Body=b"W" * listed["model.onnx"].length
    )

    with (
        pytest.raises(SourceRefused, match="has changed"),
        opened.open_at(listed["model.onnx"])(0) as (_, chunks),
    ):
        list(chunks)
