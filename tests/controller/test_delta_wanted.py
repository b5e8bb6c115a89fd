"""What is worth building, decided on what devices run; and which of it a class is told."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailboat_controller.delta_builds import queue_plan, row_state
from mailboat_controller.delta_builds.offering import deltas_for
from mailboat_controller.delta_builds.wanted import (
    DECODER_BYTES_MAX,
    TARGET_BYTES_MIN,
    ClassFacts,
    Target,
    Wanted,
    memory_of,
    wanted,
)
from mailboat_controller.store.deltas import DeltaRow, Key, State
from mailboat_controller.store.deployed import Deployed
from mailboat_schemas.deltas import DELTAS_MAX
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.errors import Conflict
from mailboat_schemas.sealing import sealed_length
from trust_fleet import CLASS, document

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MIB = 1 << 20
BUDGET = 256 * MIB
SECOND = timedelta(seconds=1)


def digest(text: str) -> str:
    return (text.encode().hex() * 64)[:64]


def file(name: str, *, path: str = "m.onnx", role: str = "model", length: int = 1 << 20) -> Any:
    return {"path": path, "role": role, "sha256": digest(name), "length": length}


def release(version: str, *files: Any, hardware_class: str = CLASS) -> ReleaseDocument:
    variant = {
        "hardware_classes": [hardware_class],
        "files": list(files) or [file(version)],
        "runtime": {"version": ">=1.18"},
        "peak_memory": 1,
        "health": {},
    }
    return document(f"{version}.0.0", variants=[variant])


def runs(version: str, devices: int, *, accepted: int = 0) -> Deployed:
    return Deployed(
        hardware_class=CLASS,
        model="vad",
        version=version,
        digest=digest(f"r{version}"),
        devices=devices,
        accepted_at=NOON + accepted * SECOND,
    )


def wishes(
    target: str,
    documents: dict[str, ReleaseDocument],
    deployed: Sequence[Deployed] = (),
    *,
    predecessor: str | None = None,
    devices: int = 100,
    **more: int,
) -> dict[Key, Wanted]:
    facts = ClassFacts(
        hardware_class=CLASS, memory_budget_bytes=BUDGET, devices=devices, deployed=deployed
    )
    aim = Target(
        hardware_class=CLASS,
        release=digest(f"r{target}"),
        predecessor=None if predecessor is None else digest(f"r{predecessor}"),
    )
    by_digest = {digest(f"r{version}"): each for version, each in documents.items()}
    return wanted([aim], {CLASS: facts}, by_digest, **more)


def bases(found: dict[Key, Wanted]) -> set[str]:
    return {each.purposes[0].base_version.removesuffix(".0.0") for each in found.values()}


SERIES = {version: release(version) for version in ("1", "2", "3", "4", "5")}


def test_the_most_deployed_releases_are_what_patches_start_from() -> None:
    running = [runs("1", 5), runs("2", 40), runs("3", 30), runs("4", 20)]

    found = wishes("5", SERIES, running)

    assert bases(found) == {"", "2", "3", "4"}
    assert [each.devices for each in found.values()] == [100, 40, 30, 20]


def test_of_two_releases_on_as_many_devices_the_newer_one_goes_first() -> None:
    running = [runs("1", 7, accepted=1), runs("2", 7, accepted=2), runs("3", 7, accepted=3)]

    assert bases(wishes("5", SERIES, running, bases_max=2)) == {"", "3", "2"}


def test_the_predecessor_is_one_of_them_though_no_device_has_reported_it() -> None:
    running = [runs("1", 9), runs("2", 8)]

    found = wishes("5", SERIES, running, predecessor="4", bases_max=2)

    assert bases(found) == {"", "1", "2", "4"}


def test_without_bases_there_is_the_whole_file_alone() -> None:
    assert bases(wishes("5", SERIES, [runs("1", 9)], predecessor="1", bases_max=0)) == {""}


def test_a_file_that_did_not_change_costs_nothing() -> None:
    same = file("same", path="vocabulary.txt", role="tokenizer")
    documents = {"1": release("1", file("1"), same), "2": release("2", file("2"), same)}

    found = wishes("2", documents, [runs("1", 9)])

    assert {key.target for key in found if key.base} == {digest("2")}


def test_a_file_that_moved_to_another_name_is_there_already() -> None:
    documents = {
        "1": release("1", file("1"), file("words", path="a", role="labels")),
        "2": release("2", file("2"), file("words", path="b", role="tokenizer")),
    }

    found = wishes("2", documents, [runs("1", 9)])

    assert {key.target for key in found if key.base} == {digest("2")}


def test_encrypted_files_never_make_a_patch_nor_serve_as_a_base() -> None:
    def sealed(name: str) -> Any:
        seal = {"content_key": "ab" * 16, "sha256": digest(f"s{name}")}
        plain = file(name)
        return plain | {"sealed": seal | {"length": sealed_length(plain["length"])}}

    documents = {"1": release("1", sealed("1")), "2": release("2", file("2"))}
    assert bases(wishes("2", documents, [runs("1", 9)])) == {""}

    documents = {"1": release("1", file("1")), "2": release("2", sealed("2"))}
    assert wishes("2", documents, [runs("1", 9)]) == {}


def test_of_several_files_of_a_role_the_one_of_the_same_name_is_the_base() -> None:
    def parts(version: str) -> list[Any]:
        return [
            file(version),
            *(file(f"{version}{n}", path=n, role="other") for n in ("left", "right")),
        ]

    documents = {"1": release("1", *parts("1")), "2": release("2", *parts("2"))}

    pairs = {(k.target, k.base) for k in wishes("2", documents, [runs("1", 9)]) if k.base}

    assert (digest("2left"), digest("1left")) in pairs
    assert (digest("2left"), digest("1right")) not in pairs
    assert len(pairs) == 3


@pytest.mark.parametrize("length", [0, TARGET_BYTES_MIN - 1])
def test_a_file_smaller_than_a_request_is_left_alone(length: int) -> None:
    documents = {"1": release("1"), "2": release("2", file("2", length=length))}

    assert wishes("2", documents, [runs("1", 9)]) == {}


def test_an_empty_file_is_no_base() -> None:
    documents = {"1": release("1", file("1", length=0)), "2": release("2")}

    assert bases(wishes("2", documents, [runs("1", 9)])) == {""}


def test_thousands_of_bases_come_down_to_a_few() -> None:
    documents = {str(n): release(str(n)) for n in range(1500)}
    running = [runs(str(n), n) for n in range(1, 1500)]

    found = wishes("0", documents, running, bases_max=3, devices=10_000)

    assert bases(found) == {"", "1499", "1498", "1497"}


def test_more_than_may_be_queued_leaves_out_what_serves_fewest() -> None:
    running = [runs("1", 5), runs("2", 40), runs("3", 30)]

    assert bases(wishes("5", SERIES, running, wanted_max=2)) == {"", "2"}


def test_a_release_that_nobody_has_a_document_of_is_passed_over() -> None:
    assert wishes("9", SERIES, [runs("1", 5)]) == {}
    assert bases(wishes("5", SERIES, [runs("8", 5)])) == {""}


def test_classes_that_give_more_than_any_decoder_takes_share_a_patch() -> None:
    assert memory_of(64 * MIB) == 64 * MIB
    assert memory_of(1 << 40) == memory_of(DECODER_BYTES_MAX) == DECODER_BYTES_MAX


# --- the queue -----------------------------------------------------------------------------------


def row(name: str = "t", base: str = "", state: State = State.WAITING, **more: Any) -> DeltaRow:
    content: dict[str, Any] = {
        "key": Key(digest(name), base and digest(base), BUDGET),
        "target_length": MIB,
        "base_length": MIB if base else 0,
        "state": state,
        "next_attempt_at": NOON,
        "queued_at": NOON,
        "updated_at": NOON,
        "purposes": ({"hardware_class": CLASS, "devices": 4},),
        **more,
    }
    return DeltaRow(**content)


def built(name: str = "t", base: str = "", **more: Any) -> DeltaRow:
    content = {
        "format": "zstd-patch/1" if base else "full-zstd/1",
        "patch": digest(f"p{name}{base}"),
        "patch_length": 100,
        "memory_bytes": MIB,
        **more,
    }
    return row(name, base, State.BUILT, **content)


def test_what_is_wanted_is_queued_once() -> None:
    wish = wishes("5", SERIES, [runs("1", 9)])

    first = queue_plan.follow([], wish, NOON)
    again = queue_plan.follow(first.put, wish, NOON)

    assert {each.key for each in first.put} == wish.keys()
    assert {each.state for each in first.put} == {State.WAITING}
    assert not again


@pytest.mark.parametrize("state", [State.WAITING, State.BUILDING, State.FAILED])
def test_when_an_offer_ends_its_rows_go(state: State) -> None:
    gone = row(state=state)

    assert queue_plan.follow([gone], {}, NOON).removed == (gone.key,)


def test_what_was_built_waits_for_an_offer_that_comes_back() -> None:
    (kept,) = queue_plan.follow([built(offered=True)], {}, NOON).put

    assert kept.unwanted_since == NOON
    assert not queue_plan.follow([kept], {}, NOON + queue_plan.KEPT_FOR - SECOND)
    late = queue_plan.follow([kept], {}, NOON + queue_plan.KEPT_FOR)
    assert late.removed == (kept.key,)


def test_what_a_person_ordered_stays_though_no_class_is_told_of_the_release() -> None:
    ordered = row(ordered_by="operator:alice")

    assert queue_plan.follow([ordered], {}, NOON).removed == ()


def test_deltas_of_a_class_are_told_together_once_its_queue_is_empty() -> None:
    one = built("a")

    assert queue_plan.to_offer([one, row("b")], NOON) == ()
    assert queue_plan.to_offer([one, row("b", state=State.BUILDING)], NOON) == ()
    assert queue_plan.to_offer([one, row("b", state=State.FAILED)], NOON) == (one.key,)
    other = ({"hardware_class": "another", "devices": 1},)
    assert queue_plan.to_offer([one, row("b", purposes=other)], NOON) == (one.key,)


def test_a_long_queue_does_not_keep_back_what_is_ready() -> None:
    one, soon = built("a"), NOON + queue_plan.GATHER_MAX

    assert queue_plan.to_offer([one, row("b")], soon - SECOND) == ()
    assert queue_plan.to_offer([one, row("b")], soon) == (one.key,)


def test_a_class_that_is_told_of_one_patch_is_told_of_all_that_are_ready() -> None:
    """Else a queue of short builds is a message for each, as far apart as they were built."""
    patches = [
        built(name, updated_at=NOON + 10 * number * SECOND) for number, name in enumerate("abcd")
    ]
    elsewhere = built(
        "e", updated_at=NOON + SECOND, purposes=({"hardware_class": "another", "devices": 1},)
    )
    busy = [row("x"), row("y", purposes=elsewhere.purposes)]

    told = queue_plan.to_offer([*patches, elsewhere, *busy], NOON + queue_plan.GATHER_MAX)

    assert told == tuple(each.key for each in patches)


def test_a_retry_in_an_hour_keeps_nothing_back() -> None:
    later = row("b", next_attempt_at=NOON + timedelta(hours=1), attempts=1)

    assert queue_plan.to_offer([built("a"), later], NOON) == (built("a").key,)


def test_a_failure_is_tried_again_later_and_later_and_then_no_more() -> None:
    failing, waits, now = row(), [], NOON
    while failing.state is State.WAITING:
        started = row_state.started(failing, now)
        failing = row_state.failed(started, "E-DELTA-BUILD", "it fell over", now)
        waits.append(failing.next_attempt_at - now)
        now = failing.next_attempt_at

    assert failing.state is State.FAILED
    assert failing.attempts == row_state.ATTEMPTS_MAX == 3
    assert waits[:2] == [row_state.RETRY_AFTER, 4 * row_state.RETRY_AFTER]


def test_a_full_disk_is_not_an_attempt() -> None:
    postponed = row_state.postponed(row_state.started(row(), NOON), "E-DISK-FULL", "full", NOON)

    assert (postponed.state, postponed.attempts) == (State.WAITING, 0)
    assert postponed.next_attempt_at == NOON + row_state.DISK_RETRY_AFTER


def test_a_person_tries_again_what_failed_and_what_was_dropped() -> None:
    for state in (State.FAILED, State.DROPPED, State.NOT_WORTH):
        again = row_state.ordered(row(state=state, attempts=3, code="E-X"), "alice", NOON)
        assert (again.state, again.attempts, again.code) == (State.WAITING, 0, "")


def test_a_move_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(Conflict, match="built cannot start"):
        row_state.started(built(), NOON)


# --- what a class is told ------------------------------------------------------------------------


def told(*rows: DeltaRow, files: Sequence[str] = ("t", "u"), **more: Any) -> list[str]:
    found = deltas_for(
        rows,
        hardware_class=CLASS,
        memory_bytes_max=BUDGET,
        files={digest(name) for name in files},
        **more,
    )
    return [each.patch for each in found]


def test_the_smallest_comes_first_because_a_device_takes_the_first_it_can() -> None:
    whole, near, far = (
        built("t", offered=True, patch_length=900),
        built("t", "near", offered=True, patch_length=10),
        built("t", "far", offered=True, patch_length=50),
    )

    assert told(whole, far, near) == [near.patch, far.patch, whole.patch]


def test_only_what_is_built_offered_and_for_a_named_file_is_told() -> None:
    assert told(built("t")) == []
    assert told(replace(built("t", offered=True), state=State.DROPPED)) == []
    assert told(built("t", offered=True), files=("u",)) == []
    assert len(told(built("t", offered=True))) == 1


def test_a_class_with_another_memory_has_patches_of_its_own() -> None:
    other = built("t", offered=True)
    other = replace(other, key=replace(other.key, memory_bytes_max=MIB))

    assert told(other) == []


def test_when_there_are_too_many_those_stay_that_serve_most_devices() -> None:
    def serving(devices: int, base: str) -> DeltaRow:
        purposes = ({"hardware_class": CLASS, "devices": devices},)
        return built("t", base, offered=True, purposes=purposes, patch_length=devices)

    rows = [serving(n, f"b{n}") for n in range(1, DELTAS_MAX + 40)]

    found = told(*rows)

    assert len(found) == DELTAS_MAX
    # To a power of two: 64 to 127 devices are alike, and there the smaller patches stay.
    assert serving(DELTAS_MAX + 39, f"b{DELTAS_MAX + 39}").patch in found
    assert serving(1, "b1").patch not in found
    assert told(*reversed(rows)) == found


def test_a_device_more_does_not_change_the_message() -> None:
    def purposes(devices: int) -> Any:
        return ({"hardware_class": CLASS, "devices": devices},)

    def message(first: int) -> list[str]:
        return told(
            built("t", "a", offered=True, purposes=purposes(first)),
            built("t", "b", offered=True, purposes=purposes(80)),
            deltas_max=1,
        )

    assert message(70) == message(90)
