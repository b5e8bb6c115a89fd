"""Webhooks as operators see them: added, tested, switched off, removed, and always audited."""

import json
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailboat_controller import cli
from mailboat_controller.api.webhooks import MODELS_MAX, TYPES_MAX
from mailboat_controller.store import audit, webhooks
from mailboat_controller.store.webhooks import WebhookRow
from mailboat_controller.webhooks import secrets_room, signing
from running_api import RunningApi, running_api
from webhook_receiver import Receiver, webhook_receiver


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        yield api


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as receiver:
        yield receiver


def add(api: RunningApi, name: str, url: str, **more: object) -> dict[str, object]:
    body = {"name": name, "url": url, "reason": "the shift wants to know", **more}
    answer = api.ask("POST", "/v1/webhooks", by="alice", body=body)
    assert answer.status == 201, answer.content
    return dict(answer.json)


@pytest.mark.parametrize(
    ("field", "each", "count_max"),
    [("types", "io.mailboat.x", TYPES_MAX), ("models", "vad", MODELS_MAX)],
)
def test_one_asks_for_so_many_kinds_and_no_more(
    api: RunningApi, field: str, each: str, count_max: int
) -> None:
    body = {"name": "many", "url": "https://chat.example/", "reason": "why"}

    answer = api.ask(
        "POST", "/v1/webhooks", by="alice", body=body | {field: [each] * (count_max + 1)}
    )

    assert answer.status == 422
    assert f"at most {count_max} items" in answer.content.decode()


def actions(api: RunningApi, subject: str) -> list[str]:
    with api.store.read() as tx:
        return [row.action for row in audit.page(tx, subject=subject)]


def hook(api: RunningApi, name: str) -> WebhookRow:
    with api.store.read() as tx:
        return webhooks.get(tx, name)


def secret_files(api: RunningApi, name: str) -> list[Path]:
    return list(api.settings.webhook_secrets_dir.glob(f"{name}.*"))


def test_one_of_a_name_that_is_taken_writes_no_secret(api: RunningApi, receiver: Receiver) -> None:
    add(api, "twice", receiver.url)
    before = {path: path.read_bytes() for path in secret_files(api, "twice")}

    body = {"name": "twice", "url": receiver.url, "reason": "again"}
    answer = api.ask("POST", "/v1/webhooks", by="alice", body=body)

    assert answer.status == 409
    assert {path: path.read_bytes() for path in secret_files(api, "twice")} == before


def test_a_secret_that_is_made_is_told_once_and_stands_in_no_table_and_no_answer(
    api: RunningApi, receiver: Receiver
) -> None:
    secret = add(api, "made", receiver.url)["secret"]

    assert isinstance(secret, str)
    (file,) = secret_files(api, "made")
    assert file.read_text().strip() == secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    listed = api.ask("GET", "/v1/webhooks", by="alice").content.decode()
    assert "made" in listed
    database = b"".join(path.read_bytes() for path in api.settings.data_dir.glob("mailboat.db*"))
    assert secret.encode() not in database
    assert secret not in listed


def test_a_test_is_signed_with_the_secret_and_audited(api: RunningApi, receiver: Receiver) -> None:
    secret = signing.new_secret()
    add(api, "tested", receiver.url, secret=secret)

    answer = api.ask(
        "POST", "/v1/webhooks/tested/test", by="alice", body={"reason": "after the move"}
    )

    assert answer.json == {"delivered": True, "status": 200, "problem": ""}
    (heard,) = receiver.heard
    assert heard.event["type"] == "io.mailboat.webhook.test"
    at = int(heard.headers["webhook-timestamp"])
    wanted = signing.headers(
        [signing.key_of(secret)], heard.event["id"], heard.body, datetime.fromtimestamp(at, UTC)
    )
    assert heard.headers["webhook-signature"] == wanted["webhook-signature"]
    assert actions(api, "tested") == ["webhook.add", "webhook.test"]


def test_a_new_secret_signs_and_for_a_day_the_one_before_as_well(
    api: RunningApi, receiver: Receiver
) -> None:
    before = str(add(api, "renewed", receiver.url)["secret"])

    answer = api.ask("POST", "/v1/webhooks/renewed/secret", by="alice", body={"reason": "yearly"})

    after = str(answer.json["secret"])
    until = datetime.fromisoformat(str(answer.json["both_until"]))
    room = api.settings.webhook_secrets_dir
    both = (signing.key_of(after), signing.key_of(before))
    file = hook(api, "renewed").secret_file
    assert secrets_room.read(room, "renewed", file, until - timedelta(seconds=1)) == both
    assert secrets_room.read(room, "renewed", file, until) == both[:1]
    assert actions(api, "renewed") == ["webhook.add", "webhook.secret"]
    (room / file).unlink()
    answer = api.ask("POST", "/v1/webhooks/renewed/secret", by="alice", body={"reason": "lost"})
    file = hook(api, "renewed").secret_file
    alone = (signing.key_of(answer.json["secret"]),)
    assert secrets_room.read(room, "renewed", file, api.now()) == alone


def test_the_path_of_an_address_is_a_key_and_stands_in_no_audit_log(
    api: RunningApi, receiver: Receiver
) -> None:
    add(api, "slack", receiver.url.replace("/hook", "/services/T0/hunter2"))
    body = {"name": "x", "url": "https://al:hunter2@example.org/hunter2", "reason": "r"}

    refused = api.ask("POST", "/v1/webhooks", by="alice", body=body)

    assert b"hunter2" not in refused.content
    assert b"https://example.org" in refused.content
    with api.store.read() as tx:
        (entry,) = audit.page(tx, subject="slack")
    assert "hunter2" not in str(entry)
    assert entry.details["url"] == f"http://127.0.0.1:{receiver.port}"


def test_one_that_is_removed_takes_its_secret_along(api: RunningApi, receiver: Receiver) -> None:
    add(api, "gone", receiver.url)

    answer = api.ask("DELETE", "/v1/webhooks/gone?reason=moved", by="alice")

    assert answer.status == 204
    assert secret_files(api, "gone") == []
    assert api.ask("GET", "/v1/webhooks/gone/deliveries", by="alice").status == 404
    assert actions(api, "gone") == ["webhook.add", "webhook.remove"]


def test_disabling_and_enabling_are_audited_with_their_reason(
    api: RunningApi, receiver: Receiver
) -> None:
    add(api, "switched", receiver.url)

    for verb, state in (("disable", "disabled"), ("enable", "active")):
        answer = api.ask(
            "POST", f"/v1/webhooks/switched/{verb}", by="alice", body={"reason": "night"}
        )
        assert answer.json["state"] == state
    assert actions(api, "switched") == ["webhook.add", "webhook.disable", "webhook.enable"]


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ({"url": "http://10.0.0.7/hook"}, "E-WEBHOOK-TARGET"),
        ({"url": "https://alice:pw@example.org/"}, "E-WEBHOOK-TARGET"),
        ({"types": ["io.mailboat.nothing"]}, "E-CONFIG"),
        ({"secret": "hunter2"}, "E-CONFIG"),
    ],
)
def test_what_cannot_be_told_is_refused_and_leaves_nothing(
    api: RunningApi, order: dict[str, object], code: str
) -> None:
    body = {"name": "wrong", "url": "https://example.org/", "reason": "r", **order}

    answer = api.ask("POST", "/v1/webhooks", by="alice", body=body)

    assert answer.json["code"] == code
    assert b"hunter2" not in answer.content
    assert actions(api, "wrong") == []
    assert secret_files(api, "wrong") == []


@pytest.mark.slow
def test_the_command_line_adds_lists_tests_and_removes(
    api: RunningApi,
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MAILBOAT_CONNECTION", str(api.connection_file("alice")))

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["mailboat", "webhook", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            assert not end.code, capsys.readouterr()
        return capsys.readouterr().out

    out = tmp_path / "chat.secret"
    shown = run("add", "chat", receiver.url, "--secret-out", str(out), "--reason", "shift")
    assert out.read_text().startswith("whsec_")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.read_text().strip() not in shown
    assert json.loads(run("list", "--json"))[-1]["state"] == "active"
    run("test", "chat", "--reason", "now")
    assert receiver.heard
    newer = tmp_path / "newer.secret"
    run("secret", "chat", "--secret-out", str(newer), "--reason", "yearly")
    assert newer.read_text().startswith("whsec_")
    assert newer.read_text() != out.read_text()
    run("disable", "chat", "--reason", "night")
    run("enable", "chat", "--reason", "day")
    assert json.loads(run("deliveries", "chat", "--json")) == []
    run("remove", "chat", "--reason", "moved")
    assert actions(api, "chat")[-1] == "webhook.remove"
