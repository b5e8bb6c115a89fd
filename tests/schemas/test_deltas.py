"""Deltas on the wire: bounded, and passed over by whoever does not know their format."""

import pytest

from mailboat_schemas.codec import decode, encode
from mailboat_schemas.deltas import DELTAS_MAX, Delivery, DeliveryOutcome, Delta, delivery_of
from mailboat_schemas.desired import DesiredState, ManifestBundle
from mailboat_schemas.errors import MalformedPayload


def delta(number: int, form: str = "zstd-patch/1") -> Delta:
    digests = {
        name: f"{number:04x}{place}".ljust(64, "0")
        for place, name in enumerate(("target", "base", "patch"))
    }
    sizes = {"base_length": 1 << 20, "patch_length": 1000, "memory_bytes": 1 << 22}
    return Delta.model_validate({"format": form, **digests, **sizes})


def desired(*deltas: Delta) -> DesiredState:
    return DesiredState(
        fleet="demo",
        hardware_class="kiosk-x86",
        counter=1,
        issued=0,
        assignments=(),
        deltas=deltas,
    )


def test_as_many_as_a_class_may_have_leave_room_for_the_rest_of_a_bundle() -> None:
    full = desired(*map(delta, range(DELTAS_MAX)))

    assert decode(DesiredState, encode(full)) == full
    assert len(encode(full)) < ManifestBundle.wire_bytes_max / 4


def test_one_more_is_no_desired_state() -> None:
    with pytest.raises(ValueError, match="deltas"):
        desired(*map(delta, range(DELTAS_MAX + 1)))


def test_a_format_of_tomorrow_can_be_read_today() -> None:
    state = desired(delta(1, "tensor-delta/7"))

    assert decode(DesiredState, encode(state)).deltas[0].format == "tensor-delta/7"


def test_a_desired_state_without_deltas_has_none() -> None:
    assert desired().deltas == ()


@pytest.mark.parametrize("form", ["zstd", "../../x/1", "zstd-patch/1\n", "", "Z/1"])
def test_a_format_is_a_word_and_a_number(form: str) -> None:
    with pytest.raises(ValueError, match="format"):
        delta(1, form)
    with pytest.raises(MalformedPayload, match="format"):
        decode(DesiredState, encode(desired(delta(1).model_copy(update={"format": form}))))


@pytest.mark.parametrize("changes", [{"base": None}, {"base_length": 0}])
def test_a_base_has_a_length_and_a_length_a_base(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a base has a length"):
        Delta.model_validate(delta(1).model_dump() | changes)

    without = delta(1).model_dump() | {"base": None, "base_length": 0}
    state = desired(Delta.model_validate(without))
    assert decode(DesiredState, encode(state)).deltas[0].base is None


def test_what_a_device_says_of_its_delivery_is_read_back() -> None:
    told = Delivery(outcome=DeliveryOutcome.DELTA, fetched_bytes=10, made_bytes=100)

    assert delivery_of({"delivery": told.model_dump(mode="json")}) == told


@pytest.mark.parametrize("evidence", [{}, {"delivery": 1}, {"delivery": {"outcome": "perhaps"}}])
def test_a_delivery_that_cannot_be_read_is_unknown(evidence: dict[str, object]) -> None:
    assert delivery_of(evidence) is None
