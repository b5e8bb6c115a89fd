"""What probes without an identity are told: whether somebody should look, and nothing more."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mailboat_controller.api import health
from mailboat_controller.content.kek import KEK_BYTES
from mailboat_controller.content.keys import ContentKeys
from mailboat_controller.ground import _look_at_content_keys
from mailboat_schemas.content_key import content_key_id
from running_api import RunningApi, running_api

GOOD = {
    "status": "ok",
    "trust": "ok",
    "certificates": "ok",
    "content_keys": "ok",
    "artifacts": "ok",
    "leader": "held",
    "ingest": "ok",
}
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    directory = tmp_path_factory.mktemp("controller")
    kek = directory / "kek"
    kek.write_bytes(b"k" * KEK_BYTES)
    kek.chmod(0o600)
    with running_api(directory, content_kek=str(kek)) as api:
        yield api


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "NOTED_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
class TestTheNote:
    def test_is_open_and_in_words_only(self, api: RunningApi) -> None:
        assert api.ask("GET", "/v1/health").json == GOOD

    @pytest.mark.parametrize(
        ("days", "level"), [(15, "ok"), (22, "soon"), (28, "urgent"), (31, "expired")]
    )
    def test_says_how_urgent_the_most_urgent_role_is(
        self, api: RunningApi, days: int, level: str
    ) -> None:
        """The approval role lasts thirty days; snapshot and timestamp are signed by the loop."""
        api.clock_ahead = timedelta(days=days)
        try:
            with api.store.transaction() as tx:
                api.reconciler.reconcile(tx, api.now())
            note = api.ask("GET", "/v1/health").json
        finally:
            api.clock_ahead = timedelta()
        assert (note["trust"], note["status"]) == (level, "ok" if level == "ok" else "attention")

    def test_says_when_content_keys_cannot_be_opened(self, api: RunningApi) -> None:
        bad = {**GOOD, "status": "attention", "content_keys": "unusable"}
        kek = Path(api.settings.content_kek)
        kek.rename(kek.with_name("elsewhere"))
        assert api.ask("GET", "/v1/health").json == bad  # an operator named it, so it must be there
        kek.with_name("elsewhere").rename(kek)
        assert api.ask("GET", "/v1/health").json == GOOD

        path = f"/v1/content-keys/{content_key_id(KEY)}"
        assert api.ask("PUT", path, by="build", body={"key": KEY.hex()}).status == 201
        assert api.ask("GET", "/v1/health").json == GOOD
        right = kek.read_bytes()
        kek.write_bytes(b"x" * KEK_BYTES)
        assert api.ask("GET", "/v1/health").json == bad
        kek.write_bytes(right)


def test_it_is_worked_out_by_one_thread_once_in_a_while(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may ask, and it reads all the metadata."""
    with monkeypatch.context() as patched:
        patched.setattr(health, "NOTED_SECONDS", 0.0)
        api.ask("GET", "/v1/health")
    counted: list[int] = []
    called, go_on = threading.Event(), threading.Event()
    note = health._note

    def slow(context: object) -> health.HealthNote:
        counted.append(1)
        called.set()
        assert go_on.wait(60)
        return note(context)  # type: ignore[arg-type]

    monkeypatch.setattr(health, "_note", slow)
    assert api.ask("GET", "/v1/health").json == GOOD
    assert not counted
    monkeypatch.setattr(health, "NOTED_SECONDS", 0.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(api.ask, "GET", "/v1/health")
        assert called.wait(60)
        assert api.ask("GET", "/v1/health").json == GOOD
        go_on.set()
        assert first.result(60).json == GOOD
    assert len(counted) == 1


def damaged(path: Path) -> None:
    path.write_bytes(b"x" * KEK_BYTES)


@pytest.mark.parametrize("damage", [Path.unlink, damaged, lambda path: path.chmod(0o644)])
def test_a_start_without_the_key_encryption_key_says_so(
    api: RunningApi, damage: Callable[[Path], object]
) -> None:
    """And goes on: a withdrawal must not wait for it."""
    keys = ContentKeys.of(api.settings, api.store)
    keys.take(content_key_id(KEY), KEY, actor="ci:build", now=api.now())
    kek = Path(api.settings.content_kek)
    right = kek.read_bytes()
    damage(kek)
    with capture_logs() as logs:
        _look_at_content_keys(keys)
    kek.unlink(missing_ok=True)
    kek.write_bytes(right)
    kek.chmod(0o600)

    (entry,) = logs
    assert (entry["log_level"], entry["code"]) == ("error", "E-CONTENT-KEK")
    assert "content_kek" in entry["next_step"]
    with capture_logs() as logs:
        _look_at_content_keys(keys)
    assert logs == []
