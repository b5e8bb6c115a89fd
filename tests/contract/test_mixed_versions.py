"""Versions side by side: what a newer one adds to a message, an older one passes over."""

from typing import Any

import msgpack
import pytest
import zstandard
from pydantic import BaseModel

from golden import GOLDEN
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.examples import EXAMPLES

TOMORROW = "added_by_a_later_version"


def as_told_tomorrow(model: BaseModel, content: dict[str, Any]) -> int:
    """Put a field that nobody knows into a message and everything in it; how many were put."""
    content[TOMORROW] = {"of": [1, "two", None]}
    count = 1
    for name in type(model).model_fields:
        value = getattr(model, name)
        parts = value if isinstance(value, tuple | list) else (value,)
        inside = content.get(name)
        packed = inside if isinstance(inside, list) else [inside]
        for part, of_it in zip(parts, packed, strict=False):
            if isinstance(part, BaseModel) and isinstance(of_it, dict):
                count += as_told_tomorrow(part, of_it)
    return count


def unpacked(encoded: bytes) -> dict[str, Any]:
    if encoded[:4] == b"\x28\xb5\x2f\xfd":
        encoded = zstandard.ZstdDecompressor().decompress(encoded)
    content: dict[str, Any] = msgpack.unpackb(encoded)
    return content


@pytest.mark.parametrize("name", EXAMPLES)
def test_fields_of_a_later_version_are_passed_over_at_every_depth(name: str) -> None:
    example = EXAMPLES[name]
    content = unpacked(encode(example))

    assert as_told_tomorrow(example, content) >= 1

    assert decode(type(example), msgpack.packb(content)) == example


def test_the_messages_that_hold_others_were_tried_with_those() -> None:
    depth = {
        name: as_told_tomorrow(each, unpacked(encode(each))) for name, each in EXAMPLES.items()
    }

    assert depth["DesiredState"] > 3
    assert depth["EventBatch"] > 1
    assert depth["ReportedState"] > 1
    assert depth["TelemetryBatch"] > 1


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("v*/*.bin")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_what_an_earlier_version_sent_can_be_said_again_by_this_one(path: Any) -> None:
    """A controller of this version hands on, keeps and re-sends what an earlier one made."""
    kind = type(EXAMPLES[path.stem])
    told = decode(kind, path.read_bytes())

    assert decode(kind, encode(told)) == told
