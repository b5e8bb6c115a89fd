"""What the grid draws, in bytes: a line of JSON that says what follows, then three columns.

    {"revision": …, "shape": …, "total": …, "groups": [["kiosk", 40000], …], "counts": …}\\n
    enrolment numbers   4 bytes each, little endian, in the order they are drawn
    states              1 byte each (`State`)

A hundred thousand devices are half a megabyte; names and the rest are asked for one by one, when
somebody looks at a cell.
"""

import json
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum

from mailboat_controller.console.fleet_picture import Cell, Picture, State
from mailboat_schemas.selectors import Selector


class Grouping(StrEnum):
    NONE = "none"
    CLASS = "class"
    SITE = "site"
    STATE = "state"


# What calls for somebody stands first.
_URGENCY = {
    State.FAILED: 0,
    State.UNKNOWN: 1,
    State.OFFLINE: 2,
    State.IN_PROGRESS: 3,
    State.ONLINE: 4,
    State.REVOKED: 5,
}
_GROUP: dict[Grouping, Callable[[Cell], tuple[int, str]]] = {
    Grouping.NONE: lambda _cell: (0, ""),
    Grouping.CLASS: lambda cell: (0, cell.subject.hardware_class),
    Grouping.SITE: lambda cell: (0, cell.subject.site),
    Grouping.STATE: lambda cell: (_URGENCY[cell.state], cell.state.name.lower()),
}


def chosen(picture: Picture, selector: Selector) -> list[Cell]:
    """Those a selector names, by enrolment number. Not for selectors with ``stale``: what policy
    says is worked out from documents (`selection.select`)."""
    if not selector.requirements:
        cells = list(picture.cells.values())
    else:
        cells = [cell for cell in picture.cells.values() if selector.matches(cell.subject)]
    cells.sort(key=lambda cell: cell.number)
    return cells


def counts(cells: Sequence[Cell]) -> dict[str, int]:
    """By state, all of them; they add up to the cells."""
    found = Counter(cell.state for cell in cells)
    return {state.name.lower(): found[state] for state in sorted(State, key=_URGENCY.__getitem__)}


def encode(picture: Picture, cells: Sequence[Cell], grouping: Grouping) -> bytes:
    of = _GROUP[grouping]
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(of(cell), []).append(cell)
    ordered = sorted(groups.items())
    numbers = array("I", (c.number for _, members in ordered for c in members))
    states = bytes(c.state for _, members in ordered for c in members)
    head = {
        "revision": picture.revision,
        "shape": picture.shape,
        "total": len(picture.cells),
        "left_out": picture.left_out,
        "groups": [[name, len(members)] for (_, name), members in ordered],
        "counts": counts(cells),
    }
    return json.dumps(head).encode() + b"\n" + _little_endian(numbers).tobytes() + states


def _little_endian(numbers: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
