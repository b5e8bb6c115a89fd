"""The plan an approver signs: what of it a device reads, and up to where."""

from typing import Any

import pytest
from pydantic import ValidationError

from mailboat_schemas.errors import SignatureInvalid
from mailboat_schemas.plan import CLASSES_MAX, CUSTOM_KEY, DEVICES_MAX, INSTANT_MAX, Plan


def plan(wave: dict[str, Any] | None = None, **changes: Any) -> Plan:
    return Plan.model_validate({"rollout": "all", "waves": [wave or {}], **changes})


@pytest.mark.parametrize(
    ("field", "bound"),
    [
        ("count", DEVICES_MAX),
        ("ok_min", DEVICES_MAX),
        ("count_ppm", 1_000_000),
        ("cap_ppm", 1_000_000),
        ("earliest", INSTANT_MAX),
    ],
)
def test_every_number_of_a_wave_has_a_bound(field: str, bound: int) -> None:
    assert getattr(plan({field: bound}).waves[0], field) == bound
    for beyond in (bound + 1, -1, 1 << 80):
        with pytest.raises(ValidationError):
            plan({field: beyond})


def test_so_has_everything_else() -> None:
    classes = [f"class-{number}" for number in range(CLASSES_MAX)]
    assert len(plan(hardware_classes=classes, expires=INSTANT_MAX).hardware_classes) == CLASSES_MAX
    for change in (
        {"expires": INSTANT_MAX + 1},
        {"hardware_classes": [*classes, "one-more"]},
        {"waves": []},
        {"waves": [{}] * 17},
    ):
        with pytest.raises(ValidationError):
            plan(**change)
    with pytest.raises(ValidationError):
        plan({"ring": {"floor": "x" * 257}})


def test_a_plan_beyond_its_bounds_is_no_readable_plan() -> None:
    with pytest.raises(SignatureInvalid, match="no readable plan"):
        Plan.from_custom({CUSTOM_KEY: {"rollout": "all", "waves": [{"earliest": 1 << 80}]}})
