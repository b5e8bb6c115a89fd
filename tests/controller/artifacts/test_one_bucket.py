"""A bucket in one quick test; the whole contract runs on it in the slow ones."""

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest

from mailboat_controller.artifacts.opening import open_store
from mailboat_schemas.errors import DigestMismatch
from s3_server import S3Server

pytestmark = pytest.mark.slow  # importing moto alone takes two seconds


def test_a_bucket_keeps_what_is_right_and_nothing_else(s3: S3Server, tmp_path: Path) -> None:
    settings = s3.settings()
    artifacts = open_store(settings, tmp_path / "artifacts")
    content = bytes(9 << 20)  # two parts
    digest = hashlib.sha256(content).hexdigest()

    with pytest.raises(DigestMismatch):
        artifacts.put("ab" * 32, [content], len(content))
    assert s3.keys(settings.bucket) == s3.unfinished(settings.bucket) == []
    assert artifacts.put(digest, [content], len(content)) is True

    assert b"".join(artifacts.read(digest, 5, 10)) == bytes(5)
    assert [entry.digest for entry in artifacts.entries()] == [digest]
    assert "X-Amz-Expires=60" in str(artifacts.presigned(digest, timedelta(seconds=60)))
    artifacts.quarantine(digest)
    assert not artifacts.has(digest)
    assert artifacts.quarantined()[0].digest == digest
