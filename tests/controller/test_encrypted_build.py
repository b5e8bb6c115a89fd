"""An encrypted build holds ciphertext, the same bytes for the same key; the key is its owner's."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.content.key_file import held_key, key_of_build, read_key
from mailboat_controller.releases import blobs as release_blobs
from mailboat_controller.releases.build import build_release, read_build
from mailboat_schemas.content_key import content_key_id
from mailboat_schemas.documents.release import FileRole
from mailboat_schemas.errors import ConfigurationInvalid, DocumentInvalid
from mailboat_schemas.sealing import open_sealed

KEY = bytes(range(32))
FILES = {"model.onnx": b"weights" * 30_000, "golden.npz": b"samples", "labels.txt": b"cat dog"}
SOURCE = """
apiVersion: mailboat/v1
kind: Release
metadata: {name: vad, version: 1.0.0}
spec:
  interface:
    inputs: [{name: x, dtype: float32, shape: [-1, 4]}]
    outputs: [{name: y, dtype: float32, shape: [-1, 4]}]
  variants:
    - hardware_classes: [kiosk-x86]
      peak_memory: 64MiB
      files:
        - {path: m.onnx, source: model.onnx, role: model}
        - {path: golden.npz, source: golden.npz, role: golden}
        - {path: labels.txt, source: labels.txt, role: labels}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    for name, content in FILES.items():
        (directory / name).write_bytes(content)
    path = directory / "release.yaml"
    path.write_text(SOURCE)
    return path


def test_every_file_is_encrypted_and_none_is_there_in_the_clear(
    tmp_path: Path, source: Path
) -> None:
    built = build_release(source, tmp_path / "build", content_key=KEY)

    files = built.document.files()
    assert {file.role for file in files} == {FileRole.MODEL, FileRole.GOLDEN, FileRole.LABELS}
    assert built.document.content_keys == {content_key_id(KEY)}
    for file, content in zip(files, FILES.values(), strict=True):
        assert (file.sha256, file.length) == (hashlib.sha256(content).hexdigest(), len(content))
        blob = built.blob(file).read_bytes()
        assert hashlib.sha256(blob).hexdigest() == file.artifact_digest
        assert len(blob) == file.artifact_length
        assert b"".join(open_sealed([blob], KEY)) == content
    everything = b"".join(p.read_bytes() for p in (tmp_path / "build").rglob("*") if p.is_file())
    assert not any(content in everything for content in FILES.values())
    assert KEY not in everything
    assert read_build(tmp_path / "build").missing_blobs() == ()


def test_the_same_key_gives_the_same_bytes_and_another_key_others(
    tmp_path: Path, source: Path
) -> None:
    one, two = (build_release(source, tmp_path / name, content_key=KEY) for name in "ab")
    other = build_release(source, tmp_path / "c", content_key=KEY[::-1])
    plain = build_release(source, tmp_path / "d")

    assert one.content == two.content
    assert len({one.digest, other.digest, plain.digest}) == 3
    sealed = {file.artifact_digest for file in one.document.files()}
    assert sealed.isdisjoint(file.artifact_digest for file in other.document.files())


def test_an_unchanged_file_of_the_next_version_is_the_same_artifact_under_the_same_key(
    tmp_path: Path, source: Path
) -> None:
    old = build_release(source, tmp_path / "old", content_key=KEY)
    source.write_text(SOURCE.replace("1.0.0", "1.1.0"))
    (source.parent / "model.onnx").write_bytes(b"other weights")
    new = build_release(source, tmp_path / "new", content_key=KEY)

    shared = {f.artifact_digest for f in old.document.files()} & {
        f.artifact_digest for f in new.document.files()
    }
    assert len(shared) == 2


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its salt would be of other bytes than were encrypted."""
    contents = iter([b"first", b"second"])

    def changing(*_: Any) -> Iterator[bytes]:
        yield next(contents)

    monkeypatch.setattr(release_blobs, "_chunks", changing)
    with pytest.raises(DocumentInvalid, match="changed while"):
        build_release(source, tmp_path / "build", content_key=KEY)
    assert list((tmp_path / "build" / "blobs").iterdir()) == []


class TestTheKeyOfABuild:
    def test_is_made_once_for_its_owner_alone(self, tmp_path: Path) -> None:
        key = key_of_build(tmp_path / "build", None)
        assert key_of_build(tmp_path / "build", None) == key == held_key(tmp_path / "build", None)
        path = tmp_path / "build" / "content-key"
        assert path.stat().st_mode & 0o777 == 0o600
        assert bytes.fromhex(path.read_text().strip()) == key

    def test_may_come_from_elsewhere_and_is_not_kept_then(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "key"
        file.write_text(KEY.hex() + "\n")
        monkeypatch.setenv("MY_CONTENT_KEY", KEY.hex())
        for source in (str(file), f"file:{file}", "env:MY_CONTENT_KEY"):
            assert key_of_build(tmp_path / "build", source) == KEY
        with file.open("rb") as opened:
            assert read_key(f"fd:{opened.fileno()}") == KEY
        assert not (tmp_path / "build").exists()

    def test_that_cannot_be_read_is_told_without_what_was_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        half = KEY.hex()[:40]
        monkeypatch.setenv("HALF", half)
        for source in ("env:HALF", "env:NOT_SET", "fd:x", "fd:99999", str(tmp_path), "file:"):
            with pytest.raises(ConfigurationInvalid) as caught:
                read_key(source)
            assert half not in str(caught.value)
            assert caught.value.__cause__ is None  # the error below would quote it

    def test_is_not_made_for_a_release_that_is_only_looked_at(self, tmp_path: Path) -> None:
        assert held_key(tmp_path, None) is None
        assert os.listdir(tmp_path) == []  # noqa: PTH208
