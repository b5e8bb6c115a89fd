"""What devices tell goes to the driver as it is, and stands in the database as it always did."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from enrolled_fleet import EPOCH, NOON, EnrolledFleet
from mailboat_controller import garbage
from mailboat_controller.ingest.batch import _Batch
from mailboat_controller.store import events, tables
from mailboat_controller.store.many_rows import ManyRows
from mailboat_controller.store.plain_json import packed, plain
from mailboat_schemas.events import Event, EventKind

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["a\0b", "\\u0000", "é", "\ud7ff", "\x7f", '"'])
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)
HOSTILE = st.builds(
    Event,
    event_id=st.just("vad:1:x"),
    sequence=st.integers(1, (1 << 63) - 1),
    kind=st.sampled_from(EventKind),
    observed_at=st.integers(-(1 << 63), (1 << 64) - 1),
    model=st.none() | st.just("vad"),
    version=st.none() | st.just("1.0.0-rc.1"),
    digest=st.none() | st.just("d" * 64),
    code=st.text(max_size=64),
    because=st.text(max_size=99) | st.sampled_from(["\\u00e9", "a\0b", "…", "\n\t"]),
    retry_epoch=st.integers(0, (1 << 64) - 1),
    evidence=st.dictionaries(st.text(max_size=9), ANYTHING, max_size=4),
)


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path, database_url)
    yield fleet
    fleet.store.close()


@given(ANYTHING)
def test_packed_is_what_json_would_have_written(value: object) -> None:
    made = plain(value)

    assert packed(made).isascii()
    assert json.loads(packed(made)) == json.loads(json.dumps(made))


@given(HOSTILE)
def test_the_short_way_to_an_events_content_is_the_long_one(event: Event) -> None:
    ((*_, content, _observed_at, _received_at),) = events.rows_of("dev-1", EPOCH, [event], NOON)

    assert json.loads(content) == json.loads(json.dumps(plain(event.model_dump(mode="python"))))
    assert "\\u0000" not in content.replace("\\\\", "")  # PostgreSQL cannot look into it


def test_rows_come_back_as_they_went_in_whatever_the_order_of_their_names(
    fleet: EnrolledFleet,
) -> None:
    marks = tables.watermarks
    names = ("updated_at", "number", "telemetry", "events", "epoch", "device")
    with fleet.store.transaction() as tx:
        ManyRows.into(marks, names).run(
            tx, [(5, 4, 3, 2, EPOCH, "a"), (50, 40, 30, 20, EPOCH, "b")]
        )
        ManyRows.into(marks, names).run(tx, [])
        found = [tuple(row) for row in tx.execute(select(marks).order_by(marks.c.device))]

    assert found == [("a", EPOCH, 2, 3, 5, 4), ("b", EPOCH, 20, 30, 50, 40)]


def test_what_a_batch_held_is_gone_with_it_and_waits_for_no_collector(
    fleet: EnrolledFleet,
) -> None:
    message = fleet.enrol("dev-1").numbered(1, 9)
    fleet.take(message)
    gc.collect()
    gc.disable()
    try:
        fleet.take(message)
        left = [each for each in gc.get_objects() if isinstance(each, _Batch | Event)]
    finally:
        gc.enable()

    assert left == []


def test_the_collector_looks_less_often_and_not_at_what_was_there() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        garbage.settle()
        assert gc.get_threshold()[0] == garbage.YOUNG_OBJECTS_MAX
        assert gc.get_freeze_count() > frozen
    finally:
        gc.set_threshold(*before)
