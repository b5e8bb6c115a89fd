"""Which delta a device uses, if any."""

import pytest

from mailboat_agent.delta.choice import Circumstances, choose
from mailboat_schemas.deltas import Delta
from mailboat_schemas.patch_formats import ZSTD_PATCH_BASE_BYTES_MAX

BASE, OTHER, TARGET = "aa" * 32, "bb" * 32, "cc" * 32
AT = Circumstances(
    target=TARGET,
    target_length=10_000,
    staged_bytes=0,
    free_bytes=1_000_000,
    memory_budget_bytes=1_000_000,
)


def delta(**changes: object) -> Delta:
    content: dict[str, object] = {
        "target": TARGET,
        "base": BASE,
        "base_length": 9_000,
        "format": "zstd-patch/1",
        "patch": "dd" * 32,
        "patch_length": 500,
        "memory_bytes": 100_000,
    }
    return Delta.model_validate(content | changes)


def chosen(*deltas: Delta, at: Circumstances = AT) -> Delta | None:
    return choose(deltas, at, {BASE: 9_000, OTHER: ZSTD_PATCH_BASE_BYTES_MAX + 1}.get)


def test_the_first_usable_one_in_the_directors_order_is_taken() -> None:
    unusable, first, second = delta(base="ee" * 32), delta(patch_length=700), delta()

    assert chosen(unusable, first, second) is first


@pytest.mark.parametrize(
    "changes",
    [
        {"target": OTHER},
        {"format": "zstd-patch/2"},
        {"base_length": 9_001},
        {"base": OTHER, "base_length": ZSTD_PATCH_BASE_BYTES_MAX + 1},
        {"base": None, "base_length": 0},
        {"format": "full-planes/1"},
        {"memory_bytes": 1_000_001},
        {"patch_length": 10_000},
    ],
    ids=" ".join,
)
def test_one_that_cannot_be_used_is_passed_over(changes: dict[str, object]) -> None:
    assert chosen(delta(**changes)) is None


def test_a_whole_file_that_comes_compressed_needs_no_base() -> None:
    whole = delta(format="full-planes/1", base=None, base_length=0)

    assert chosen(delta(base="ee" * 32), whole) is whole


def test_only_a_zstd_patch_has_to_hold_its_base_in_memory() -> None:
    large = {"base": OTHER, "base_length": ZSTD_PATCH_BASE_BYTES_MAX + 1}

    assert chosen(delta(**large, format="tensor-delta/1")) is not None
    assert chosen(delta(**large, format="zstd-patch/1")) is None


def test_there_must_be_room_for_patch_and_outcome_beside_each_other() -> None:
    def at(free_bytes: int) -> Circumstances:
        return Circumstances(
            target=TARGET,
            target_length=10_000,
            staged_bytes=0,
            free_bytes=free_bytes,
            memory_budget_bytes=1_000_000,
        )

    assert chosen(delta(), at=at(10_499)) is None
    assert chosen(delta(), at=at(10_500)) is not None


def test_what_is_left_of_an_interrupted_download_may_be_less_than_a_patch() -> None:
    nearly_there = Circumstances(
        target=TARGET,
        target_length=10_000,
        staged_bytes=9_600,
        free_bytes=1_000_000,
        memory_budget_bytes=1_000_000,
    )

    assert chosen(delta(), at=nearly_there) is None
