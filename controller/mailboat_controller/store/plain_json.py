"""Whatever a device may put into a payload, as JSON that every database and reader takes."""

import math
from typing import Any

DEPTH_MAX = 8
INTEGER_EXACT_MAX = 1 << 53  # beyond it, readers that know only doubles read another number


def plain(value: object, depth: int = 0) -> Any:
    """Bytes become hex; numbers that JSON cannot say become text; deep nesting is cut off."""
    if depth >= DEPTH_MAX:
        return "…"
    if isinstance(value, str):
        # Nearly everything is a short ASCII word, and a fleet brings millions of them.
        if type(value) is str and value.isascii() and "\0" not in value:
            return value
        # PostgreSQL's jsonb takes neither the zero character nor half of a surrogate pair.
        return value.replace("\0", "").encode("utf-8", "replace").decode()
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
