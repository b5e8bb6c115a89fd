"""People's tokens: their form, what the database keeps, and a whole controller that reads them."""

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enrolled_fleet import lay_database, migrated_store
from mailboat_controller.access.people import DAYS_MAX, Role, new_token, parse_token
from mailboat_controller.access.token_directory import issue_token, revoke_tokens
from mailboat_controller.client import ApiClient
from mailboat_controller.connection_file import load_token
from mailboat_controller.store import access_tokens
from mailboat_controller.store.access_tokens import IN_FORCE_PER_NAME_MAX, KEPT_AFTER_END
from mailboat_controller.store.engine import Store
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import ConfigurationInvalid, Conflict, NotPermitted
from running_controller import running_controller

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class TestAToken:
    def test_is_read_as_it_was_written_and_shows_its_id_alone(self) -> None:
        token = new_token()

        assert parse_token(token.text()) == token
        assert re.fullmatch(r"mbt_[0-9a-f]{16}_[0-9a-f]{64}", token.text())
        secret = token.text().rpartition("_")[2]
        assert secret not in f"{token} {token!r}"
        assert token.secret_sha256 == hashlib.sha256(bytes.fromhex(secret)).hexdigest()

    def test_is_never_the_same(self) -> None:
        assert len({new_token().text() for _ in range(1000)}) == 1000

    @pytest.mark.parametrize("change", ["{}\n", " {}", "{}0", "{}\0", "x{}", "{} {}"])
    def test_with_anything_around_it_is_none(self, change: str) -> None:
        assert parse_token(change.replace("{}", new_token().text())) is None

    def test_in_capitals_is_none(self) -> None:
        assert parse_token(new_token().text().upper()) is None


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = migrated_store(tmp_path)
    yield store
    store.close()


def add(store: Store, name: str = "anna", at: datetime = NOON, days: int = 30) -> None:
    with store.transaction() as tx:
        access_tokens.add(
            tx, new_token(), name=name, role=Role.VIEWER, days=days, at=at, created_by="local:test"
        )


def test_a_person_has_so_many_tokens_in_force_and_no_more(store: Store) -> None:
    for _ in range(IN_FORCE_PER_NAME_MAX):
        add(store)

    with pytest.raises(Conflict, match="in force"):
        add(store)
    add(store, "bert")
    add(store, at=NOON + timedelta(days=31))


def test_what_ended_long_ago_is_forgotten(store: Store) -> None:
    add(store, "anna", days=1)
    add(store, "bert", at=NOON + KEPT_AFTER_END)
    with store.read() as tx:
        assert [row.name for row in access_tokens.every(tx)] == ["anna", "bert"]

    add(store, "cora", at=NOON + KEPT_AFTER_END + timedelta(days=2))

    with store.read() as tx:
        assert [row.name for row in access_tokens.every(tx)] == ["bert", "cora"]


def test_a_controller_takes_and_refuses_tokens_while_it_runs(tmp_path: Path) -> None:
    """With everything real: issued and revoked on the disk beside the process that serves."""
    with running_controller(tmp_path) as controller:
        path = controller.person("anna", Role.OPERATOR)
        wall = controller.connection("wall", Kind.DASHBOARD)
        with ApiClient.open(path) as anna, ApiClient.open(wall) as dashboard:
            assert anna.get("/v1/devices") == []
            by = {"reason": "left", "actor": "local:test", "now": datetime.now(UTC)}
            revoke_tokens(controller.settings, "anna", token_id=None, **by)
            with pytest.raises(NotPermitted, match="revoked") as refused:
                anna.get("/v1/devices")
            assert refused.value.code == "E-TOKEN-REVOKED"

            shown = dashboard._request("GET", "/metrics").text
            assert 'mailboat_requests_refused_total{code="E-TOKEN-REVOKED"} 1.0' in shown
            entries = dashboard.get("/v1/audit", limit=500)
            assert dashboard.get("/v1/audit/verify")["holds"]
        actions = [entry["action"] for entry in entries]
        secret = load_token(path.with_name("token")).text().rpartition("_")[2]
    assert actions.count("access_token.refuse") == 1
    assert secret not in str(entries)
    database = b"".join(found.read_bytes() for found in tmp_path.rglob("mailboat.db*"))
    assert secret.encode() not in database
    assert bytes.fromhex(secret) not in database


@pytest.mark.parametrize(("name", "days"), [("Anna", 1), ("../anna", 1), ("anna", DAYS_MAX + 1)])
def test_what_is_no_name_or_too_long_makes_no_token(tmp_path: Path, name: str, days: int) -> None:
    from mailboat_controller import data_directory

    lay_database(tmp_path / "data")
    settings = data_directory.create(tmp_path / "data", fleet="demo", trust=None, now=NOON)
    words = {"days": days, "actor": "local:test", "now": NOON}

    with pytest.raises(ConfigurationInvalid, match="No token"):
        issue_token(settings, name, Role.VIEWER, tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()
