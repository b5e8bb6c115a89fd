"""What pages count and show, from values."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrolled_fleet import EnrolledFleet
from mailboat_controller.artifacts.directory import DirectoryStore
from mailboat_controller.console import model_card
from mailboat_controller.console.kpi_figures import (
    INTERVENTIONS_SHOWN_MAX,
    by_day,
    by_release,
    interventions,
)
from mailboat_controller.console.model_card import CARD_BYTES_MAX, CARDS_MAX, model_cards
from mailboat_controller.console.rollout_view import PLACES, shown_waves, shown_whole
from mailboat_controller.metrics.fleet_state import FleetState
from mailboat_controller.store import device_windows, telemetry
from mailboat_controller.store.audit import AuditRow
from mailboat_controller.store.deployed import Deployed
from mailboat_controller.store.fleet_counts import DeliverySum, OutcomeCount
from mailboat_controller.store.fleet_sums import SumRow
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.reports import TelemetryWindow
from trust_fleet import CLASS, document

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
EVERYBODY = PlanWave(count_ppm=1_000_000, cap_ppm=1_000_000)


# --- counts ---------------------------------------------------------------------------------------


def counts(numbers: Mapping[str, int], excluded: Mapping[str, int]) -> dict[str, Any]:
    return {**{place: numbers.get(place, 0) for place in PLACES}, "excluded": dict(excluded)}


def looked_at(classes: Mapping[str, Any], waves_open: int = 0) -> Any:
    plan = Plan(rollout="r", waves=(EVERYBODY, EVERYBODY))
    row = SimpleNamespace(rollout=SimpleNamespace(plan=plan, waves_open=waves_open))
    return SimpleNamespace(status={"classes": classes}, row=row)


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.tuples(
            st.fixed_dictionaries({place: st.integers(0, 10**6) for place in PLACES}),
            st.dictionaries(st.sampled_from(["revoked", "in no ring"]), st.integers(1, 9)),
        ),
        max_size=4,
    )
)
def test_whatever_the_counts_are_every_row_adds_up_and_the_last_is_the_sum(
    classes: dict[str, tuple[dict[str, int], dict[str, int]]],
) -> None:
    told = {name: {**counts(*each), "waves": []} for name, each in classes.items()}
    rows = shown_whole(looked_at(told))

    for row in rows:
        assert row.devices == row.ok + row.failed + row.unknown + row.not_open + row.excluded
        assert row.devices == sum(number for _, number in row.parts)
        assert row.allowed == row.exposed + row.waiting
    if len(classes) > 1:
        assert rows[-1].devices == sum(row.devices for row in rows[:-1])
        assert sum(rows[-1].reasons.values()) == rows[-1].excluded


def test_a_wave_that_is_not_open_has_no_counts_and_the_newest_is_marked() -> None:
    told = {CLASS: {**counts({"ok": 2}, {}), "waves": [counts({"ok": 2}, {})]}}
    first, second = shown_waves(looked_at(told, waves_open=1))

    assert (first.is_open, first.is_newest, len(first.rows)) == (True, True, 1)
    assert (second.is_open, second.is_newest, second.rows) == (False, False, ())
    assert (
        first.asks == "100 % of each class; passes with a good verdict of everybody in each class"
    )


# --- KPIs -----------------------------------------------------------------------------------------


def state(**more: Any) -> FleetState:
    empty: dict[str, Any] = dict.fromkeys(
        ("serving", "assigned", "outcomes", "deliveries", "sites", "sums", "canaries"), ()
    )
    content = {"read_at": NOON, "manifest_current": {}, "left_out": 0, "audit": {}} | empty
    return FleetState(**(content | more))


def test_figures_of_a_release_are_added_up_over_classes() -> None:
    release = ("vad", "1.0.0")
    (found,) = by_release(
        state(
            outcomes=(
                OutcomeCount("a", *release, "ok", 3),
                OutcomeCount("b", *release, "ok", 4),
                OutcomeCount("a", *release, "failed", 1),
                OutcomeCount("a", *release, "returned", 2),
            ),
            serving=(
                Deployed(
                    hardware_class="a",
                    model="vad",
                    version="1.0.0",
                    digest="d",
                    devices=3,
                    accepted_at=NOON,
                ),
            ),
            deliveries=(DeliverySum("a", *release, "full", 3, 300),),
            sums=(
                SumRow(*release, "a", "-", "", "recovery", "1.0", 9.0),
                SumRow(*release, "a", "-", "", "recovery", "+Inf", 1.0),
                SumRow("", "", "a", "-", "", "energy_joules", "", 5.0),
            ),
        )
    )

    assert (found.ok, found.failed, found.others, found.verdicts) == (7, 1, 2, 8)
    assert (found.serving, found.fetched_bytes) == (3, 300)
    assert found.recovery_seconds(0.5) == pytest.approx(0.3 + 0.7 * 5 / 9)
    assert found.recovery_seconds(0.99) == 1000  # beyond the last bound
    assert by_release(state()) == ()


def test_of_what_people_did_the_most_frequent_are_shown() -> None:
    told = {(f"a.{n:02d}", "operator"): n for n in range(1, INTERVENTIONS_SHOWN_MAX + 2)}

    found = interventions(state(audit=told))
    assert [entries for _, _, entries in found] == list(range(INTERVENTIONS_SHOWN_MAX + 1, 1, -1))


def test_what_people_did_leaves_out_what_nobody_did() -> None:
    told = {
        ("rollout.abort", "operator"): 2,
        ("rollout.wave", "controller"): 90,
        ("release.reject", "approver"): 3,
    }

    assert interventions(state(audit=told)) == (
        ("release.reject", "approver", 3),
        ("rollout.abort", "operator", 2),
    )


def test_days_count_what_ended_and_what_was_ordered_and_none_is_left_out() -> None:
    since = NOON - timedelta(days=2)
    rows = [
        entry(since, "rollout.completed"),
        entry(since + timedelta(hours=30), "rollout.halted"),
        entry(since + timedelta(hours=31), "rollout.abort"),
        entry(since - timedelta(seconds=1), "rollout.abort"),
        entry(NOON, "rollout.wave"),
    ]
    days = by_day(rows, since, NOON)

    assert [(day.completed, day.halted, day.orders) for day in days] == [
        (1, 0, 0),
        (0, 1, 1),
        (0, 0, 0),
    ]


def entry(at: datetime, action: str) -> AuditRow:
    return AuditRow(
        sequence=1,
        at=at,
        actor="operator:ada",
        action=action,
        subject="r",
        reason="",
        details={},
        previous_hash="",
        hash="",
    )


# --- model cards ----------------------------------------------------------------------------------


def with_cards(*files: dict[str, Any]) -> Any:
    model = {"path": "m.onnx", "role": "model", "sha256": "ab" * 32, "length": 4}
    variant = {
        "hardware_classes": [CLASS],
        "files": [model, *files],
        "runtime": {},
        "peak_memory": 1,
        "health": {},
    }
    return document("1.0.0", variants=[variant])


def card(number: int, length: int = 5) -> dict[str, Any]:
    digest = f"{number:064x}"
    return {"path": f"{number}.md", "role": "model-card", "sha256": digest, "length": length}


def test_a_card_that_is_not_here_says_so(tmp_path: Path) -> None:
    (found,) = model_cards(with_cards(card(1)), DirectoryStore(tmp_path))

    assert found.text == ""
    assert found.because


def test_of_a_long_card_the_beginning_is_shown(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    path = store.path(card(1)["sha256"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * (CARD_BYTES_MAX + 1))
    (found,) = model_cards(with_cards(card(1, CARD_BYTES_MAX + 1)), store)

    assert (len(found.text), found.because) == (CARD_BYTES_MAX, "the first 64 KiB")


def test_only_so_many_cards_are_read(tmp_path: Path) -> None:
    found = model_cards(with_cards(*map(card, range(CARDS_MAX + 2))), DirectoryStore(tmp_path))

    assert len(found) == CARDS_MAX


@settings(max_examples=25)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=50))
def test_what_is_shown_of_a_card_cannot_turn_or_hide_text(text: str) -> None:
    shown = model_card._printable(text)

    assert all(each.isprintable() or each in "\n\t" for each in shown)


# --- telemetry ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> EnrolledFleet:
    fleet = EnrolledFleet(tmp_path_factory.mktemp("fleet"))
    device = fleet.enrol("dev-1")
    now_ms = int(NOON.timestamp() * 1000)
    windows = [
        TelemetryWindow(
            sequence=n,
            model="vad" if n % 2 else "other",
            version="1.0.0",
            digest="d" * 64,
            started_at=now_ms - n * 10_000,
            seconds=10,
            requests_ok=1,
            requests_error=0,
        )
        for n in range(1, 361)
    ]
    with fleet.store.transaction() as tx:
        telemetry.append(tx, device.name, device.epoch, windows, NOON)
    return fleet


def windows_of(fleet: EnrolledFleet, **more: Any) -> device_windows.Windows:
    with fleet.store.read() as tx:
        return device_windows.of_device(
            tx, "dev-1", since=NOON - timedelta(hours=1), until=NOON, **more
        )


def test_more_windows_than_a_plot_shows_apart_are_added_up(fleet: EnrolledFleet) -> None:
    found = windows_of(fleet)

    assert len(found.points) <= device_windows.POINTS_MAX
    assert sum(point.ok for point in found.points) == 360
    assert [point.at for point in found.points] == sorted(point.at for point in found.points)
    assert (found.models, found.cut_off) == (("other", "vad"), False)
    assert all(point.latency_ms(0.5) is None for point in found.points)


def test_windows_of_one_model_alone_can_be_asked_for(fleet: EnrolledFleet) -> None:
    assert sum(point.ok for point in windows_of(fleet, model="vad").points) == 180


def test_too_many_windows_are_cut_off_at_the_old_end(
    fleet: EnrolledFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_windows, "WINDOWS_READ_MAX", 30)
    found = windows_of(fleet)

    assert found.cut_off
    assert sum(point.ok for point in found.points) == 30
    assert min(point.at for point in found.points) >= NOON - timedelta(seconds=300)
