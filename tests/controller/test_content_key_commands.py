"""`mailboat release build --encrypt` and `mailboat content-key …`, word by word."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailboat_controller.cli.demo import run_here
from mailboat_controller.releases.build import read_build
from mailboat_schemas.content_key import content_key_id
from running_api import RunningApi, running_api
from trust_fleet import CLASS

TENSOR = {"name": "x", "dtype": "float32", "shape": [-1, 4]}
WEIGHTS = b"weights of the model"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        yield api


@pytest.fixture(autouse=True)
def _no_connection_of_mine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MAILBOAT_CONNECTION", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(WEIGHTS)
    file = {"path": "m.onnx", "source": "model.onnx", "role": "model"}
    release = {
        "apiVersion": "mailboat/v1",
        "kind": "Release",
        "metadata": {"name": "vad", "version": "1.0.0"},
        "spec": {
            "interface": {"inputs": [TENSOR], "outputs": [TENSOR]},
            "variants": [{"hardware_classes": [CLASS], "files": [file], "peak_memory": "64MiB"}],
        },
    }
    path = tmp_path / "release.yaml"
    path.write_text(json.dumps(release))  # JSON is YAML
    return path


def mailboat(*words: str | Path, code: int = 0) -> str:
    """What a command says on both its outputs."""
    found, out, err = run_here([str(word) for word in words])
    assert found == code, err
    assert "Traceback" not in err
    return out + err


def test_a_build_says_its_keys_id_and_never_the_key(source: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    said = mailboat("release", "build", source, "--out", build, "--encrypt", "--json")

    key = bytes.fromhex((build / "content-key").read_text())
    assert json.loads(said)["content_keys"] == [content_key_id(key)]
    assert key.hex() not in said
    again = mailboat("release", "build", source, "--out", build, "--encrypt", "--json")
    assert json.loads(again)["digest"] == json.loads(said)["digest"]


def test_a_key_from_elsewhere_encrypts_too_and_is_not_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = tmp_path / "build"
    monkeypatch.setenv("HEAT_KEY", "ab" * 32)
    words = ("release", "build", source, "--out", build, "--content-key", "env:HEAT_KEY")
    assert "ab" * 32 not in mailboat(*words)
    assert read_build(build).document.content_keys == {content_key_id(b"\xab" * 32)}
    assert not (build / "content-key").exists()


def test_a_key_is_handed_over_once_and_listed_without_being_told(
    api: RunningApi, source: Path, tmp_path: Path
) -> None:
    build = tmp_path / "build"
    mailboat("release", "build", source, "--out", build, "--encrypt")
    key = (build / "content-key").read_text().strip()
    as_ci = ("--connection", api.connection_file("build"))

    first = mailboat("content-key", "put", build, *as_ci, "--json")
    second = mailboat("content-key", "put", build, *as_ci)
    # The approval job has the build without the key.
    (build / "content-key").unlink()
    third = mailboat("content-key", "put", build, *as_ci)
    listed = mailboat("content-key", "list", "--connection", api.connection_file("vera"), "--json")

    assert json.loads(first)["handed_over"] == 1
    assert "already" in second
    assert "already" in third
    [row] = json.loads(listed)
    assert (row["handed_over_by"], row["devices"]) == ("ci:build", 0)
    assert key not in first + second + third + listed


def test_what_cannot_be_handed_over_says_what_to_do(
    api: RunningApi, source: Path, tmp_path: Path
) -> None:
    as_ci = ("--connection", api.connection_file("build"))
    plain, encrypted = tmp_path / "plain", tmp_path / "encrypted"
    mailboat("release", "build", source, "--out", plain)
    mailboat("release", "build", source, "--out", encrypted, "--encrypt")

    assert "not encrypted" in mailboat("content-key", "put", plain, *as_ci, code=1)
    shutil.move(encrypted / "content-key", tmp_path / "moved")
    assert "lacks content key" in mailboat("content-key", "put", encrypted, *as_ci, code=1)
    (tmp_path / "other").write_text("cd" * 32)
    wrong = ("content-key", "put", encrypted, "--content-key", tmp_path / "other")
    said = mailboat(*wrong, *as_ci, code=1)
    assert "E-CONTENT-KEY" in said
    assert "cd" * 32 not in said
    moved = ("content-key", "put", encrypted, "--content-key", tmp_path / "moved")
    assert mailboat(*moved, *as_ci)


def test_who_may_not_hand_keys_over_is_refused(
    api: RunningApi, source: Path, tmp_path: Path
) -> None:
    build = tmp_path / "build"
    mailboat("release", "build", source, "--out", build, "--encrypt")
    for who in ("vera", "wall"):
        words = ("content-key", "put", build, "--connection", api.connection_file(who))
        found, _, err = run_here([str(word) for word in words])
        assert found != 0
        assert "E-NOT-PERMITTED" in err
