"""The first page: counts that add up, and what needs somebody first."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert

from console_fleet import DIGEST, enrol_one
from console_visitor import Browser
from mailboat_controller.console import attention, counted
from mailboat_controller.console.attention import Urgency
from mailboat_controller.console.counted import Counted, CutSite
from mailboat_controller.console.overview import places
from mailboat_controller.presence import Reach
from mailboat_controller.rollout.state import Phase
from mailboat_controller.store import device_tables, tables
from mailboat_controller.store.enrolment_requests import State
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.overview_rows import RolloutLine
from mailboat_controller.trust.expiry import CertificateStatus, Level
from running_api import RunningApi

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
CALM = Counted(
    read_at=NOON,
    online=90,
    offline=6,
    unknown=3,
    revoked=1,
    silent_a_day=0,
    silent_a_week=0,
    disk_low=0,
    clock_wrong=0,
    doubled=0,
    pending=0,
    sites=2,
    cut=(),
    quarantined=0,
    expiring=(),
    artifacts="ok",
    content_keys_usable=True,
    free_bytes=50,
    total_bytes=100,
)
HALTED = RolloutLine("vad-2", "vad", "2.0.0", Phase.HALTED, "3 of 8 failed", 1, NOON)


def items(found: Counted, **changed: Any) -> list[attention.Item]:
    facts: dict[str, Any] = {"reach": Reach(), "leads": True, "absent_partitions": ()}
    return attention.items(
        found,
        changed.pop("halted", ()),
        changed.pop("under_way", ()),
        now=NOON,
        **facts | changed,
    )


def test_a_calm_fleet_needs_nobody() -> None:
    assert items(CALM) == []
    assert CALM.enrolled == 100


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"silent_a_day": 3}, "silent"),
        ({"disk_low": 1}, "disk low"),
        ({"clock_wrong": 1}, "clock wrong"),
        ({"doubled": 1}, "doubled"),
        ({"pending": 2}, "enrolment"),
        ({"quarantined": 2}, "quarantine"),
        ({"artifacts": "damaged"}, "artifacts damaged"),
        ({"content_keys_usable": False}, "keys locked"),
        ({"free_bytes": 9}, "disk low"),
        ({"cut": (CutSite(name="harbour", since=NOON, devices=4, expected=False),)}, "site cut"),
    ],
)
def test_each_trouble_is_named_with_where_to_look(change: dict[str, Any], word: str) -> None:
    (item,) = items(replace(CALM, **change))
    assert item.word == word
    assert item.path.startswith("/")


def test_a_cut_that_was_expected_calls_nobody() -> None:
    cut = CutSite(name="ferry", since=NOON, devices=4, expected=True)
    assert items(replace(CALM, cut=(cut,))) == []


def test_a_halted_rollout_stands_before_a_full_disk() -> None:
    found = items(replace(CALM, free_bytes=1, pending=1), halted=[HALTED])

    assert [each.urgency for each in found] == [Urgency.NOW, Urgency.TODAY, Urgency.SOON]
    assert found[0].path == "/rollouts/vad-2"
    assert "3 of 8 failed" in found[0].what


def test_a_controller_that_hears_nothing_says_since_when() -> None:
    (item,) = items(CALM, reach=Reach(away_since=NOON))
    assert (item.urgency, item.word, item.since) == (Urgency.NOW, "broker away", NOON)


def test_what_expires_is_the_more_urgent_the_nearer_it_is() -> None:
    def ends(level: Level) -> Urgency:
        certificate = CertificateStatus(
            certificate="ca", expires=NOON, days_left=3, level=level, next_step="renew it."
        )
        return items(replace(CALM, expiring=(certificate,)))[0].urgency

    levels = [ends(level) for level in (Level.EXPIRED, Level.URGENT, Level.SOON)]
    assert levels == [Urgency.NOW, Urgency.TODAY, Urgency.SOON]


def test_more_troubles_than_fit_leave_the_least_urgent_out() -> None:
    many = [HALTED._replace(name=f"r-{n}") for n in range(attention.SHOWN_MAX)]
    found = items(replace(CALM, pending=1), halted=many)
    assert {each.word for each in found} == {"halted"}
    assert len(found) == attention.SHOWN_MAX


def test_a_rollouts_places_add_up_to_who_is_eligible() -> None:
    told = {"ok": 5, "failed": 1, "in_progress": 2, "waiting": 3, "not_open": 9, "excluded": 4}
    found = places(told)
    assert found is not None
    assert found["eligible"] == 20
    assert places({"ok": "5"}) is None
    assert places(None) is None


@pytest.fixture
def halted(api: RunningApi) -> Iterator[str]:
    name = "over-<b>1"
    row = {
        "name": name,
        "model": "over",
        "version": "1.0.0",
        "digest": DIGEST,
        "plan": {},
        "phase": "halted",
        "wave": 0,
        "opened": {},
        "because": "<script>alert(1)</script> failed",
        "retry_epoch": 0,
        "start_number": 1,
        "created_at": to_ms(api.now()),
        "updated_at": to_ms(api.now()),
    }
    with api.store.transaction() as tx:
        tx.execute(insert(tables.rollouts).values(row))
    yield name
    with api.store.transaction() as tx:
        tx.execute(delete(tables.rollouts).where(tables.rollouts.c.model == "over"))


def test_a_halted_rollout_is_the_first_thing_to_be_seen(viewer: Browser, halted: str) -> None:
    page = viewer.get("/")

    assert "■ halted" in page.text.replace("halted halted", "halted")
    assert "Rollout over-<b>1 of over 1.0.0: <script>alert(1)</script> failed" in page.text
    assert "<script>alert" not in page.html
    assert page.text.index("over-<b>1") < page.text.index("enrolled")


def test_a_halted_rollout_that_was_answered_by_a_newer_one_calls_nobody(
    api: RunningApi, viewer: Browser, halted: str
) -> None:
    row = {
        "name": "over-2",
        "model": "over",
        "version": "1.0.1",
        "digest": DIGEST,
        "plan": {},
        "phase": "completed",
        "wave": 0,
        "opened": {},
        "because": "",
        "retry_epoch": 0,
        "start_number": 2,
        "created_at": to_ms(api.now()),
        "updated_at": to_ms(api.now()),
    }
    with api.store.transaction() as tx:
        tx.execute(insert(tables.rollouts).values(row))

    assert "alert(1)" not in viewer.get("/").text


def test_the_devices_add_up_on_the_page(api: RunningApi, viewer: Browser) -> None:
    enrol_one(api.store, "overview-1", api.now())
    parts_of = r"online (\d+) .*?offline (\d+) .*?unknown (\d+) .*?revoked (\d+) .*?of (\d+)"
    give_up = time.monotonic() + 60
    while True:  # what was counted last is shown until there is a newer count
        text = viewer.get("/").text.replace("\u202f", "")
        if (found := re.search(parts_of, text)) is not None:
            break
        assert time.monotonic() < give_up, text
        time.sleep(0.2)
    *parts, whole = (int(each) for each in found.groups())
    assert sum(parts) == whole > 0


def test_enrolments_that_wait_are_counted_however_many_they_are(api: RunningApi) -> None:
    def request(number: int, state: State, kept: timedelta) -> dict[str, Any]:
        return {
            "device": f"asks-{number}",
            "token_sha256": "",
            "public_key": b"",
            "hardware_class": "kiosk",
            "site": "-",
            "labels": {},
            "token_by": "operator:alice",
            "state": state,
            "requested_at": to_ms(api.now()),
            "expires_at": to_ms(api.now() + kept),
        }

    before = counted.count(api.app.state.context).pending
    asked = [request(number, State.PENDING, timedelta(days=1)) for number in range(150)]
    asked.append(request(150, State.APPROVED, timedelta(days=1)))
    asked.append(request(151, State.PENDING, -timedelta(days=1)))
    table = device_tables.enrolment_requests
    with api.store.transaction() as tx:
        tx.execute(insert(table), asked)
    try:
        assert counted.count(api.app.state.context).pending == before + 150
    finally:
        with api.store.transaction() as tx:
            tx.execute(delete(table).where(table.c.device.like("asks-%")))


def test_whoever_looks_is_shown_the_last_count_while_another_is_made(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter([CALM, replace(CALM, online=91)])
    monkeypatch.setattr(counted, "count", lambda _context: next(made))
    counter = counted.Counter(api.app.state.context)

    assert counter.latest().online == 90
    assert not counter.due
    monkeypatch.setattr(counter, "_fresh_until", 0.0)
    assert counter.due
    assert counter.latest().online == 90
    counter.refresh()
    assert counter.latest().online == 91


def test_an_old_count_is_shown_to_nobody(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter([CALM, replace(CALM, online=91)])
    monkeypatch.setattr(counted, "count", lambda _context: next(made))
    counter = counted.Counter(api.app.state.context)
    counter.latest()

    monkeypatch.setattr(counted, "OLD_SECONDS_MAX", 0.0)
    assert counter.latest().online == 91


def test_the_age_of_what_was_counted_is_on_the_page(viewer: Browser) -> None:
    assert re.search(r"fleet counted (now|\d+ (s|min) ago)", viewer.get("/").text)


def test_an_hour_is_written_beside_what_is_relative(api: RunningApi, viewer: Browser) -> None:
    assert timedelta(0) < api.now() - NOON
    assert re.search(
        r'<time datetime="20\d\d-[^"]+" title="20\d\d-[^"]+ UTC">', viewer.get("/").html
    )
