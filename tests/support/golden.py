"""Bytes of every message ever sent, and what they must still mean."""

import json
from pathlib import Path
from typing import Any

from mailboat_schemas.codec import WireModel

GOLDEN = Path(__file__).parents[1] / "golden"


def plain(payload: WireModel) -> Any:
    """A decoded payload as JSON data; bytes as hex."""
    return json.loads(json.dumps(payload.model_dump(mode="python"), default=_hex))


def _hex(value: object) -> str:
    assert isinstance(value, bytes)
    return value.hex()
