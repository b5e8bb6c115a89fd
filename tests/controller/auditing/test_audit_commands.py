"""``mailboat audit`` and ``mailboat timeline`` as an operator runs them, against a real API."""

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from audit_tampering import unlock
from mailboat_controller import cli
from mailboat_controller.store import audit
from running_api import RunningApi, running_api

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        api.enrol("dev-1")
        yield api


@pytest.fixture
def run(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    monkeypatch.setenv("MAILBOAT_CONNECTION", str(api.connection_file("alice")))

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mailboat", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def test_entries_are_found_by_who_what_and_when(run: Run) -> None:
    def shown(*filters: str) -> list[dict[str, str]]:
        code, out, _ = run("audit", "show", *filters, "--json")
        assert code == 0
        found: list[dict[str, str]] = json.loads(out)
        return found

    assert {row["subject"] for row in shown("--actor", "device:dev-1")} == {"dev-1"}
    assert {row["action"] for row in shown("--action", "device.")} == {"device.enrol"}
    assert shown("--action", "device") == []
    assert shown("--until", "1h") == []
    assert len(shown("--since", "1h")) == len(shown())
    assert run("audit", "show", "--since", "yesterday")[0] == 2


def test_no_more_entries_are_shown_than_asked_for_and_it_says_that_there_are_more(
    api: RunningApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailboat_controller.cli.audit_following.PAGE_ROWS", 2)
    at = datetime.now(UTC)
    with api.store.transaction() as tx:
        for number in range(7):
            audit.append(tx, at=at, actor="operator:a", action="many.one", subject=f"{number}")

    def shown(*filters: str) -> tuple[list[str], str]:
        code, out, err = run("audit", "show", "--action", "many.", *filters, "--json")
        assert code == 0
        return [row["subject"] for row in json.loads(out)], err

    assert shown() == ([*"0123456"], "")
    assert shown("--entries", "7")[1] == ""
    newest, said = shown("--entries", "5")
    assert newest == [*"23456"]
    assert "--since" in said
    first, said = shown("--after", "0", "--entries", "5")
    assert first == [*"01234"]
    after = said.split()[-1].rstrip(".")
    assert shown("--after", after) == ([*"56"], "")


def test_a_head_kept_elsewhere_finds_a_log_that_was_cut_off(
    run: Run, api: RunningApi, tmp_path: Path
) -> None:
    with api.store.transaction() as tx:
        for number in range(3):
            audit.append(
                tx,
                at=datetime.now(UTC),
                actor="operator:alice",
                action="test.entry",
                subject=f"s-{number}",
                reason="so that there is a tail",
            )
    head = tmp_path / "head.json"
    assert run("audit", "head", "--out", head)[0] == 0
    assert run("audit", "verify", "--head", head)[0] == 0

    with api.store.transaction() as tx:
        unlock(tx)
        last = audit.head(tx)[0]
        tx.execute(text("DELETE FROM audit WHERE sequence = :last"), {"last": last})

    code, out, _ = run("audit", "verify", "--head", head, "--json")
    found = json.loads(out)
    assert (code, found["holds"], found["broken_at"]) == (8, False, last)
    assert "cut off" in found["problem"]
    assert run("audit", "verify")[0] == 0  # nothing else tells


def test_an_export_is_verified_without_a_controller(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, part, head = (tmp_path / name for name in ("all.jsonl", "part.jsonl", "head.json"))
    assert run("audit", "export", "--out", out)[0] == 0
    assert run("audit", "export", "--out", part, "--first", "2", "--last", "2")[0] == 0
    assert run("audit", "head", "--out", head)[0] == 0
    monkeypatch.setenv("MAILBOAT_CONNECTION", str(tmp_path / "nowhere.toml"))

    code, told, _ = run("audit", "verify", "--export", out, "--head", head, "--json")
    assert (code, json.loads(told)["holds"], json.loads(told)["heads"]) == (0, True, 1)
    assert run("audit", "verify", "--export", part, "--head", head)[0] == 0
    assert len(part.read_text().splitlines()) == 3

    out.write_text(out.read_text().replace("device:dev-1", "device:dev-2"))
    code, _, problem = run("audit", "verify", "--export", out, "--head", head)
    assert (code, "E-AUDIT-BROKEN" in problem) == (8, True)
    assert run("audit", "verify", "--export", part)[0] == 2  # by which key?


def test_an_export_that_does_not_hold_leaves_the_one_before_in_its_place(
    run: Run, api: RunningApi, tmp_path: Path
) -> None:
    out = tmp_path / "all.jsonl"
    out.write_text("of last month")

    def say(reason: str) -> str:
        with api.store.transaction() as tx:
            unlock(tx)
            before = tx.execute(text("SELECT reason FROM audit WHERE sequence = 1")).scalar_one()
            tx.execute(
                text("UPDATE audit SET reason = :reason WHERE sequence = 1"), {"reason": reason}
            )
        return str(before)

    before = say("somebody else's words")
    try:
        code, _, problem = run("audit", "export", "--out", out)
    finally:
        say(before)

    assert (code, "E-AUDIT-BROKEN" in problem) == (8, True)
    assert [path.name for path in tmp_path.glob("*.jsonl*")] == ["all.jsonl"]
    assert out.read_text() == "of last month"


def test_entries_that_there_are_not_are_told(run: Run, tmp_path: Path) -> None:
    code, _, problem = run("audit", "export", "--out", tmp_path / "x", "--last", "999999")

    assert (code, "E-NOT-FOUND" in problem) == (4, True)
    assert not (tmp_path / "x").exists()


def test_the_timeline_of_a_device_is_told_like_that_of_a_rollout(run: Run) -> None:
    code, out, _ = run("timeline", "dev-1")
    assert (code, "device.enrol" in out) == (0, True)

    found = json.loads(run("timeline", "dev-1", "--json")[1])
    assert (found["device"], found["earlier"]) == ("dev-1", None)
    assert run("timeline", "nobody")[0] == 4
