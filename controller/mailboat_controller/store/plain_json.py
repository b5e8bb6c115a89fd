"""Whatever a device may put into a payload, as JSON that every database and reader takes."""

import json
import math
from typing import Any

from pydantic_core import to_json

DEPTH_MAX = 8
INTEGER_EXACT_MAX = 1 << 53  # beyond it, readers that know only doubles read another number


def packed(value: object) -> str:
    """Of what `plain` gave, the text that a JSON column holds; a third of the time `json` takes."""
    return to_json(value, ensure_ascii=True).decode()


def plain(value: object, depth: int = 0) -> Any:
    """Bytes become hex; numbers that JSON cannot say become text; deep nesting is cut off."""
    if depth >= DEPTH_MAX:
        return "…"
    if isinstance(value, str):
        # Nearly everything is a short ASCII word, and a fleet brings millions of them.
        if type(value) is str and value.isascii() and "\0" not in value:
            return value
        return _without_zeros(value)
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        return value if -INTEGER_EXACT_MAX <= value <= INTEGER_EXACT_MAX else str(value)
    if isinstance(value, dict):
        return {str(plain(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def storable_text(value: str) -> str:
    """As `plain`, of a text column."""
    return value if value.isascii() and "\0" not in value else _without_zeros(value)


def storable_json(value: Any) -> Any:
    """A document of JSON's own types, its text as of `storable_text` and all else as it is."""
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, dict):
        return {storable_text(key): storable_json(item) for key, item in value.items()}
    return [storable_json(item) for item in value] if isinstance(value, list) else value


def storable_document(text: str) -> str:
    """As `storable_json`, of a document that is written already; nearly all stay as they are."""
    if "\\u0000" not in text and "\\ud" not in text.lower():
        return text
    return json.dumps(storable_json(json.loads(text)))


def _without_zeros(value: str) -> str:
    # PostgreSQL takes neither the zero character nor half of a surrogate pair: in text not at all,
    # and a JSON document with one breaks every query that looks into it.
    return value.replace("\0", "").encode("utf-8", "replace").decode()
