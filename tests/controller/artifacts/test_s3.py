"""What a bucket adds: failures of its own, addresses of its own, settings that must be right."""

import hashlib
import http.client
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from mailboat_controller.artifacts.artifact_store import DISK_MARGIN_BYTES, ArtifactStore
from mailboat_controller.artifacts.opening import open_bucket, open_store
from mailboat_controller.artifacts.s3 import S3Store
from mailboat_controller.artifacts.settings import ArtifactSettings
from mailboat_controller.artifacts.store_refusals import (
    ObjectStoreRefused,
    ObjectStoreUnavailable,
)
from mailboat_schemas.errors import ConfigurationInvalid, DigestMismatch, DiskFull
from s3_server import SECRET, Answer, Door, Request, S3Server, refusal, write_credentials

pytestmark = pytest.mark.slow  # an S3 takes seconds to import; one test of them all is quick

CONTENT = bytes(range(256)) * 64
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@contextmanager
def behind_a_door(
    s3: S3Server, tmp_path: Path, decide: Callable[[Request], Answer], **changed: Any
) -> Iterator[tuple[ArtifactStore, ArtifactSettings, Door]]:
    """A store that works, and then meets what ``decide`` says."""
    with Door(s3.address) as door:
        settings = s3.settings(endpoint=door.address, **changed)
        artifacts = open_store(settings, tmp_path / "artifacts")
        artifacts.put(DIGEST, [CONTENT], len(CONTENT))
        door.seen.clear()
        door.decide = decide
        yield artifacts, settings, door


def test_a_busy_moment_is_waited_out(s3: S3Server, tmp_path: Path) -> None:
    def busy_at_first(request: Request) -> Answer:
        return (503, refusal("SlowDown")) if request.number == 1 else None

    with behind_a_door(s3, tmp_path, busy_at_first) as (artifacts, _, door):
        assert artifacts.has(DIGEST)
        assert len(door.seen) == 2


@pytest.mark.parametrize(
    "answer",
    [(503, refusal("SlowDown")), (500, refusal("InternalError")), "drop"],
    ids=["busy", "broken", "silent"],
)
def test_a_store_that_stays_busy_is_unavailable_and_asked_again_later(
    s3: S3Server, tmp_path: Path, answer: Answer
) -> None:
    with behind_a_door(s3, tmp_path, lambda _request: answer) as (artifacts, _, _door):
        for attempt in (
            lambda: artifacts.has(DIGEST),
            lambda: list(artifacts.read(DIGEST)),
            lambda: list(artifacts.entries()),
        ):
            with pytest.raises(ObjectStoreUnavailable) as raised:
                attempt()
            assert raised.value.retry_after is not None
            assert "http" not in raised.value.what


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [
        ("AccessDenied", 403, "prefix"),
        ("InvalidAccessKeyId", 403, "access key"),
        ("SignatureDoesNotMatch", 403, "secret key"),
        ("RequestTimeTooSkewed", 403, "clock"),
        ("NoSuchBucket", 404, "make the bucket"),
        ("ExpiredToken", 400, "session token"),
    ],
)
def test_a_refusal_says_what_to_correct(
    s3: S3Server, tmp_path: Path, code: str, status: int, word: str
) -> None:
    with behind_a_door(s3, tmp_path, lambda _request: (status, refusal(code))) as (
        artifacts,
        settings,
        door,
    ):
        with pytest.raises(ObjectStoreRefused, match=code) as raised:
            artifacts.check()
        assert word in raised.value.next_step
        assert SECRET not in str(raised.value)

        with pytest.raises(ObjectStoreRefused):  # at the start too
            open_store(settings, tmp_path / "again")
        assert door.seen


def test_a_bucket_that_is_full_is_a_full_disk(s3: S3Server, tmp_path: Path) -> None:
    with (
        behind_a_door(s3, tmp_path, lambda _request: (507, refusal("XMinioStorageFull"))) as found,
        pytest.raises(DiskFull),
    ):
        found[0].check()


@pytest.mark.parametrize("size", [1 << 10, 20 << 20], ids=["one request", "in parts"])
def test_an_upload_that_the_store_breaks_off_leaves_nothing(
    s3: S3Server, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    digest = hashlib.sha256(content).hexdigest()

    def fails_late(request: Request) -> Answer:
        late = "partNumber=2" in request.path or size < 1 << 20
        return (403, refusal("AccessDenied")) if request.method == "PUT" and late else None

    with behind_a_door(s3, tmp_path, fails_late) as (artifacts, settings, _door):
        with pytest.raises(ObjectStoreRefused):
            artifacts.put(digest, [content], len(content))
        assert not artifacts.has(digest)
        assert s3.unfinished(settings.bucket) == []


def test_a_download_that_the_store_cuts_goes_on_where_it_stopped(
    s3: S3Server, tmp_path: Path
) -> None:
    cut: list[int] = []

    def cut_once(request: Request) -> Answer:
        if request.method == "GET" and not cut:
            cut.append(request.number)
            return "cut"
        return None

    with behind_a_door(s3, tmp_path, cut_once) as (artifacts, _, _door):
        assert b"".join(artifacts.read(DIGEST)) == CONTENT
        assert cut


def test_a_controller_starts_while_the_bucket_cannot_be_reached(
    s3: S3Server, tmp_path: Path
) -> None:
    settings = s3.settings(endpoint="http://127.0.0.1:1", request_seconds=1)

    artifacts = open_store(settings, tmp_path / "artifacts")

    with pytest.raises(ObjectStoreUnavailable):
        artifacts.has(DIGEST)


class TestAddresses:
    def fetch(self, address: str, **headers: str) -> tuple[int, bytes]:
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        response = connection.getresponse()
        try:
            return response.status, response.read()
        finally:
            connection.close()

    def test_give_the_bytes_and_ranges_of_them_to_whoever_holds_one(
        self, s3: S3Server, tmp_path: Path
    ) -> None:
        artifacts = open_store(s3.settings(), tmp_path / "artifacts")
        artifacts.put(DIGEST, [CONTENT], len(CONTENT))

        address = artifacts.presigned(DIGEST, timedelta(seconds=900))

        assert address is not None
        assert "X-Amz-Expires=900" in address
        assert SECRET not in address
        assert self.fetch(address) == (200, CONTENT)
        assert self.fetch(address, Range="bytes=100-") == (206, CONTENT[100:])

    def test_are_of_the_name_that_devices_know(self, s3: S3Server, tmp_path: Path) -> None:
        settings = s3.settings(public_endpoint="https://files.example")
        artifacts = open_store(settings, tmp_path / "artifacts")

        address = artifacts.presigned(DIGEST, timedelta(seconds=60))

        assert address is not None
        assert address.startswith(f"https://files.example/{settings.bucket}/fleet/a/sha256/")


def test_a_copy_on_this_disk_is_checked_bounded_and_removed(s3: S3Server, tmp_path: Path) -> None:
    settings = s3.settings()
    bucket = open_bucket(settings, settings.endpoint)
    room = DISK_MARGIN_BYTES + len(CONTENT)
    scratch = tmp_path / "scratch"
    artifacts = S3Store(bucket, "s3://x", scratch, free_bytes=lambda _path: room)
    short = S3Store(bucket, "s3://x", scratch, free_bytes=lambda _path: room - 1)
    artifacts.put(DIGEST, [CONTENT], len(CONTENT))

    with artifacts.local_file(DIGEST) as path:
        assert path.read_bytes() == CONTENT
    with pytest.raises(DiskFull), short.local_file(DIGEST):
        pass
    s3.client.put_object(
        Bucket=settings.bucket, Key=f"fleet/a/sha256/{DIGEST}", Body=b"x" * len(CONTENT)
    )
    with pytest.raises(DigestMismatch), artifacts.local_file(DIGEST):
        pass

    assert list(scratch.iterdir()) == []


class TestCredentials:
    def test_of_a_file_that_others_can_read_are_refused(self, s3: S3Server, tmp_path: Path) -> None:
        path = write_credentials(tmp_path / "credentials")
        path.chmod(0o640)

        with pytest.raises(ConfigurationInvalid, match="read by others"):
            open_store(s3.settings(credentials_file=path), tmp_path / "artifacts")

    @pytest.mark.parametrize("text", ["", "[default]\n", "not ini", f"[other]\nkey={SECRET}"])
    def test_of_a_file_that_holds_none_are_refused_without_quoting_it(
        self, s3: S3Server, tmp_path: Path, text: str
    ) -> None:
        path = tmp_path / "credentials"
        path.write_text(text)
        path.chmod(0o600)

        with pytest.raises(ConfigurationInvalid, match="holds no credentials") as raised:
            open_store(s3.settings(credentials_file=path), tmp_path / "artifacts")
        assert SECRET not in str(raised.value)

    def test_may_come_from_the_environment(
        self, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

        artifacts = open_store(s3.settings(credentials_file=None), tmp_path / "artifacts")

        assert artifacts.put(DIGEST, [CONTENT], len(CONTENT))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"store": "s3"}, "needs a bucket"),
        ({"store": "s3", "bucket": "b", "endpoint": "http://s3.example"}, "allow_http"),
        ({"store": "s3", "bucket": "b", "endpoint": "s3.example"}, "address"),
        ({"store": "s3", "bucket": "b", "endpoint": "https://k:s@s3.example"}, "no credentials"),
        ({"store": "s3", "bucket": "b", "prefix": "../other"}, "plain path"),
        ({"store": "s3", "bucket": "b", "secret_access_key": "x"}, "xtra"),
        ({"presigned_seconds": 901}, "900"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(content: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        ArtifactSettings.model_validate(content)


def test_damaged_bytes_go_though_no_copy_of_them_may_be_kept(s3: S3Server, tmp_path: Path) -> None:
    def no_copies(request: Request) -> Answer:
        to_keep = request.method == "PUT" and "quarantine" in request.path
        return (403, refusal("AccessDenied")) if to_keep else None

    with behind_a_door(s3, tmp_path, no_copies) as (artifacts, _, _door):
        artifacts.quarantine(DIGEST)

        assert not artifacts.has(DIGEST)
        assert artifacts.quarantined() == ()
