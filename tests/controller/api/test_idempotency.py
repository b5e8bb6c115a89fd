"""A change that is asked for twice under one key is made once."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailboat_controller.api.idempotency import KEPT_FOR, KEY_CHARS_MAX, KEY_HEADER, REPLAYED
from mailboat_controller.store import audit, idempotency
from mailboat_controller.store.engine import Store
from mailboat_controller.store.idempotency import Claim, ClaimLost, Kept, Result
from mailboat_controller.store.retention import Step
from mailboat_schemas.errors import DiskFull
from running_api import Answer, RunningApi

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module", autouse=True)
def device(api: RunningApi) -> None:
    assert api.enrol("dev-1").status == 201


def hold(api: RunningApi, key: str, reason: str = "storm", by: str = "alice") -> Answer:
    headers = {KEY_HEADER: key}
    body = {"reason": reason}
    return api.ask("POST", "/v1/devices/dev-1/hold", by=by, body=body, headers=headers)


def holds_in_audit(api: RunningApi, reason: str) -> int:
    listed = api.ask("GET", "/v1/audit?action=device.hold&limit=500", by="alice").json
    return sum(entry["reason"] == reason for entry in listed)


def test_the_second_time_the_first_answer_is_given_and_nothing_is_done(api: RunningApi) -> None:
    first, second = (hold(api, "once", "made once") for _ in range(2))

    assert (first.status, second.status) == (200, 200)
    assert second.content == first.content
    assert second.headers["content-type"] == first.headers["content-type"]
    assert (first.headers.get(REPLAYED.lower()), second.headers[REPLAYED.lower()]) == (None, "true")
    assert holds_in_audit(api, "made once") == 1


def test_without_a_key_it_is_done_again(api: RunningApi) -> None:
    for _ in range(2):
        body = {"reason": "made twice"}
        assert api.ask("POST", "/v1/devices/dev-1/hold", by="alice", body=body).status == 200

    assert holds_in_audit(api, "made twice") == 2


def test_a_key_of_another_request_is_refused(api: RunningApi) -> None:
    assert hold(api, "taken", "one").status == 200

    answer = hold(api, "taken", "another")

    assert (answer.status, answer.json["code"]) == (422, "E-IDEMPOTENCY-REUSED")
    assert holds_in_audit(api, "another") == 0


def test_a_key_is_its_callers_own(api: RunningApi) -> None:
    body: dict[str, Any] = {"documents": []}
    headers = {KEY_HEADER: "shared"}
    for person in ("alice", "vera"):
        answer = api.ask("POST", "/v1/gitops/x/diff", by=person, body=body, headers=headers)
        assert (answer.status, answer.headers.get(REPLAYED.lower())) == (200, None)


def test_a_refusal_is_not_remembered(api: RunningApi) -> None:
    assert hold(api, "again", by="vera").status == 403
    body = {"reason": "x", "model": "vad", "version": "9.9.9"}
    headers = {KEY_HEADER: "again"}
    for _ in range(2):
        answer = api.ask("POST", "/v1/devices/dev-1/pin", by="alice", body=body, headers=headers)
        assert answer.status == 404
        assert REPLAYED.lower() not in answer.headers


@pytest.mark.parametrize("key", ["", "a b", "x" * (KEY_CHARS_MAX + 1), "\xe9"])
def test_a_key_that_is_none_is_refused(api: RunningApi, key: str) -> None:
    answer = hold(api, key)

    assert (answer.status, answer.json["code"]) == (422, "E-IDEMPOTENCY-KEY")


def test_a_secret_is_not_kept_and_whoever_lost_it_is_told(api: RunningApi) -> None:
    order = {"hardware_class": "kiosk-x86", "reason": "told once"}
    headers = {KEY_HEADER: "kit"}
    first = api.ask("POST", "/v1/enrolment-tokens", by="alice", body=order, headers=headers)
    again = api.ask("POST", "/v1/enrolment-tokens", by="alice", body=order, headers=headers)

    assert (first.status, first.headers["cache-control"]) == (201, "no-store")
    assert (again.status, again.json["code"]) == (409, "E-IDEMPOTENCY-ANSWER")
    with api.store.read() as tx:
        rows = tx.exec_driver_sql("SELECT body FROM idempotency_keys WHERE key = 'kit'").all()
    assert [bytes(row[0]) for row in rows] == [b""]


def test_of_many_at_once_one_makes_the_change(api: RunningApi) -> None:
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(hold(api, "race", "raced")))
        for _ in range(6)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    # Whoever came while it was under way is told so; whoever came later has its answer.
    assert {answer.status for answer in answers} <= {200, 409}
    assert (
        sum(
            answer.headers.get(REPLAYED.lower()) is None
            for answer in answers
            if answer.status == 200
        )
        == 1
    )
    assert all(
        answer.json["code"] == "E-IDEMPOTENCY-IN-PROGRESS"
        for answer in answers
        if answer.status == 409
    )
    assert holds_in_audit(api, "raced") == 1


def test_whoever_comes_while_it_is_under_way_is_told_when_to_come_again(api: RunningApi) -> None:
    answers: list[Answer] = []
    first = threading.Thread(target=lambda: answers.append(hold(api, "slow", "slowly")))
    began, goes_on = threading.Event(), threading.Event()
    kind = type(api.app.state.context.overrides)
    taken = kind.hold

    def slowly(*args: Any, **more: Any) -> Any:
        began.set()
        assert goes_on.wait(60)
        return taken(*args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "hold", slowly)
        first.start()
        assert began.wait(60)
        meanwhile = hold(api, "slow", "slowly")
        goes_on.set()
        first.join()

    assert (meanwhile.status, meanwhile.json["code"]) == (409, "E-IDEMPOTENCY-IN-PROGRESS")
    assert meanwhile.headers["retry-after"] == "2"
    assert answers[0].status == 200
    assert hold(api, "slow", "slowly").headers[REPLAYED.lower()] == "true"


@pytest.mark.parametrize("fails", ["finish", "forget"])
def test_what_became_of_it_is_told_also_where_it_cannot_be_kept(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """The disk is full when the change has ended. Nobody is kept out of the key for a day."""

    def full(*_: Any, **__: Any) -> None:
        raise DiskFull("full", next_step="free some")

    reason, by = f"{fails} fails", "alice" if fails == "finish" else "vera"
    with monkeypatch.context() as patch:
        patch.setattr(idempotency, fails, full)
        first = hold(api, fails, reason, by)
    again = hold(api, fails, reason, by)

    if fails == "finish":
        assert first.status == 200
        assert (again.status, again.json["code"]) == (409, "E-IDEMPOTENCY-CUT-OFF")
        assert holds_in_audit(api, reason) == 1
    else:
        assert (first.status, again.status) == (403, 403)


def test_a_bug_after_something_was_written_does_not_have_it_written_again(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(api.app.state.context.overrides)
    hold_first = kind.hold

    def stumble(*args: Any, **more: Any) -> None:
        hold_first(*args, **more)
        raise ValueError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "hold", stumble)
        assert hold(api, "bug", "stumbled").status == 500
    again = hold(api, "bug", "stumbled")

    assert (again.status, again.json["code"]) == (409, "E-IDEMPOTENCY-CUT-OFF")
    assert holds_in_audit(api, "stumbled") == 1


class TestKept:
    """Of the store, on both databases."""

    @pytest.fixture
    def store(self, database_url: str) -> Any:
        store = Store(database_url)
        yield store
        store.close()

    def take(
        self,
        store: Store,
        key: str,
        *,
        now: datetime = NOON,
        keys_max: int = 9,
        attempt: str = "first",
        under_way: tuple[str, ...] = ("first",),
    ) -> object:
        claim = Claim("operator:alice", key, "ab" * 32, attempt)
        with store.transaction() as tx:
            return idempotency.claim(
                tx, claim, now=now, life=DAY, keys_max=keys_max, under_way=under_way
            )

    def test_what_is_not_ended_is_in_progress(self, store: Store) -> None:
        assert self.take(store, "one") is Result.OURS
        assert self.take(store, "one") is Result.IN_PROGRESS

    def test_what_ended_is_told_until_its_time_is_over(self, store: Store) -> None:
        kept = Kept(201, {"etag": '"x"'}, b"{}", Result.WHOLE)
        self.take(store, "one")
        with store.transaction() as tx:
            idempotency.finish(tx, Claim("operator:alice", "one", "ab" * 32, "first"), kept)

        assert self.take(store, "one", now=NOON + DAY - timedelta(milliseconds=1)) == kept
        assert self.take(store, "one", now=NOON + DAY) is Result.OURS

    def test_a_caller_has_so_many_and_no_more(self, store: Store) -> None:
        assert [self.take(store, key, keys_max=2) for key in "abc"] == [
            Result.OURS,
            Result.OURS,
            Result.TOO_MANY,
        ]
        assert self.take(store, "a", keys_max=2) is Result.IN_PROGRESS
        assert self.take(store, "c", keys_max=2, now=NOON + DAY) is Result.OURS

    def test_what_is_over_goes_although_nothing_new_comes(self, store: Store) -> None:
        self.take(store, "old")
        self.take(store, "new", now=NOON + DAY - timedelta(milliseconds=1))

        with store.transaction() as tx:
            assert idempotency.drop_ended(tx, now=NOON + DAY) == Step(1, more=False)
        assert self.take(store, "new") is Result.IN_PROGRESS

    def write(self, store: Store, attempt: str, *, reason: str = "") -> None:
        """A transaction of what an attempt does."""
        held = idempotency.UNDER_WAY.set(Claim("operator:alice", "one", "ab" * 32, attempt))
        try:
            with store.transaction() as tx:
                audit.append(tx, at=NOON, actor="a:b", action="test", subject="x", reason=reason)
        finally:
            idempotency.UNDER_WAY.reset(held)

    def test_one_that_was_cut_off_before_it_wrote_is_made_by_the_next(self, store: Store) -> None:
        """As after a crash: nobody knows of the attempt any more."""
        self.take(store, "one", attempt="dead")

        assert self.take(store, "one", attempt="next", under_way=("next",)) is Result.OURS
        self.write(store, "next")

    def test_one_that_was_cut_off_after_it_wrote_is_never_made_again(self, store: Store) -> None:
        self.take(store, "one", attempt="dead")
        self.write(store, "dead")

        for _ in range(2):
            assert self.take(store, "one", attempt="next", under_way=("next",)) is Result.CUT_OFF

    def test_one_whose_key_was_taken_over_writes_no_more(self, store: Store) -> None:
        """A controller that lost the lead, and does not know it yet."""
        self.take(store, "one", attempt="slow")
        self.take(store, "one", attempt="next", under_way=("next",))

        with pytest.raises(ClaimLost):
            self.write(store, "slow", reason="too late")
        self.write(store, "next", reason="in time")
        with store.read() as tx:
            assert [entry["reason"] for entry in audit.entries(tx)] == ["in time"]

        claim = Claim("operator:alice", "one", "ab" * 32, "slow")
        with store.transaction() as tx:
            idempotency.forget(tx, claim)
            idempotency.finish(tx, claim, Kept(500, {}, b"", Result.STATUS_ALONE))
        assert self.take(store, "one", attempt="x", under_way=("next",)) is Result.IN_PROGRESS

    def test_a_day_is_kept(self) -> None:
        assert KEPT_FOR == DAY
