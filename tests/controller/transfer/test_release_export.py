"""`mailboat release export` as a command, against the real API."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.cli import main
from mailboat_controller.store import manifests
from mailboat_controller.store.manifests import ManifestRow
from mailboat_controller.transfer.export import part_of
from mailboat_schemas.desired import Assignment, ReleaseRef
from running_api import RunningApi, running_api
from trust_fleet import CLASS, MODEL

WEIGHTS = b"weights" * 200_000


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """With one release, current in its class."""
    directory = tmp_path_factory.mktemp("controller")
    (directory / "model").write_bytes(WEIGHTS)
    with running_api(directory) as api:
        digest = api.artifacts.put_file(directory / "model")
        file = {"path": "m.onnx", "role": "model", "sha256": digest, "length": len(WEIGHTS)}
        variant: dict[str, Any] = {"hardware_classes": [CLASS], "files": [file]}
        variant |= {"runtime": {"version": ">=1.18"}, "peak_memory": 1 << 20, "health": {}}
        release = api.trust.release("1.0.0", variants=[variant])
        assigned = Assignment(model=MODEL, current=ReleaseRef(version="1.0.0", digest=release))
        bundle = api.trust.bundle(assigned)
        with api.store.transaction() as tx:
            manifests.put(
                tx,
                ManifestRow(
                    hardware_class=CLASS,
                    counter=1,
                    bundle=bundle,
                    etag=hashlib.sha256(bundle).hexdigest(),
                    content_digest="ab" * 32,
                    published_at=datetime.now(UTC),
                ),
            )
        yield api


@pytest.fixture
def mailboat(
    api: RunningApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("MAILBOAT_CONNECTION", str(api.connection_file("alice")))

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = 0
        monkeypatch.setattr(sys, "argv", ["mailboat", "release", "export", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_a_class_is_exported_listed_and_verified(
    mailboat: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "kiosk.mailboat"

    code, said, problems = mailboat("--class", CLASS, "--out", out)
    assert (code, problems) == (0, "")
    assert "vad\t1.0.0\t1.3 MiB" in said
    assert f"`mailboat-agent import {out.name}`" in said
    code, said, _ = mailboat("--verify", out, "--json")
    told = json.loads(said)
    assert (code, told["whole"], told["bytes"]) == (0, True, out.stat().st_size)
    assert told["artifacts"][0]["length"] == len(WEIGHTS)
    assert told["releases"][0]["model"] == MODEL

    damaged = bytearray(out.read_bytes())
    damaged[-2000] ^= 1
    out.write_bytes(damaged)
    code, _, problems = mailboat("--verify", out)
    assert code == 1
    assert "E-CARRIER-DAMAGED" in problems


def test_a_file_that_is_there_is_not_replaced_unasked(
    mailboat: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "f"
    out.write_text("mine")

    code, _, problems = mailboat("--class", CLASS, "--out", out)
    assert (code, out.read_text()) == (6, "mine")
    assert "--force" in problems
    assert mailboat("--class", CLASS, "--out", out, "--force", "--json")[0] == 0
    assert mailboat("--verify", out)[0] == 0


def test_an_export_that_was_cut_asks_only_for_the_rest(
    mailboat: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "f"
    mailboat("--class", CLASS, "--out", whole)
    content = whole.read_bytes()
    part_of(out).write_bytes(content[: len(content) // 2])

    assert mailboat("--class", CLASS, "--out", out)[0] == 0
    assert out.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 1),
        (("--class", CLASS), 1),
        (("--class", "nothing", "--out", "f"), 4),
        (("--class", CLASS, "--model", "nothing", "--out", "f"), 4),
        (("--class", CLASS, "--out", "no/such/directory/f"), 1),
        (("--verify", "f", "--out", "f"), 1),
        (("--verify", "nothing"), 1),
    ],
)
def test_what_cannot_be_exported_says_what_to_do(
    mailboat: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)

    found, _, problems = mailboat(*arguments)
    assert found == code
    assert "next step:" in problems
    assert list(tmp_path.iterdir()) == []


def test_who_may_not_see_the_models_may_not_export_them(
    api: RunningApi,
    mailboat: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAILBOAT_CONNECTION", str(api.connection_file("vera")))

    assert mailboat("--class", CLASS, "--out", tmp_path / "f")[0] == 5
