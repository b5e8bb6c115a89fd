"""The fleet, a cell a device: the page, the columns it draws, and what stands behind a cell."""

import hashlib
import threading
from collections import OrderedDict
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.background import BackgroundTask

from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.etags import answer
from mailboat_controller.api.limits import NUMBER_MAX
from mailboat_controller.console import words
from mailboat_controller.console.auth import Viewer
from mailboat_controller.console.fleet_picture import DEVICES_MAX, Cell, FleetPicture, Picture
from mailboat_controller.console.grid_columns import Grouping, chosen, counts, encode
from mailboat_controller.console.render import page, query
from mailboat_controller.console.session import PREFIX
from mailboat_controller.explaining.selection import select
from mailboat_schemas import selectors
from mailboat_schemas.errors import NotFound
from mailboat_schemas.selectors import Selector, SelectorInvalid

ROWS_A_PAGE = 50
COLUMNS_KEPT = 8  # answers, each half a megabyte for a hundred thousand devices
COLUMNS_TYPE = "application/octet-stream"

router = APIRouter()

SelectorText = Annotated[str, Query(max_length=selectors.SELECTOR_CHARS_MAX)]
After = Annotated[int, Query(ge=0, le=NUMBER_MAX)]


class Columns:
    """Encoded answers by what they answer; several people look at the same. Safe to use from many
    threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, str, Grouping], tuple[bytes, str]] = OrderedDict()

    def of(
        self, picture: Picture, text: str, grouping: Grouping, cells: list[Cell], *, keep: bool
    ) -> tuple[bytes, str]:
        """``keep``: the same picture and selector always choose the same cells."""
        if not keep:
            return _encoded(picture, grouping, cells)
        key = (picture.revision, text, grouping)
        with self._lock:
            found = self._held.get(key)
        if found is None:
            found = _encoded(picture, grouping, cells)
            with self._lock:
                self._held[key] = found
                while len(self._held) > COLUMNS_KEPT:
                    self._held.popitem(last=False)
        return found


@router.get("/fleet")
def fleet(
    request: Request,
    _viewer: Viewer,
    context: Context,
    selector: SelectorText = "",
    group: Grouping = Grouping.CLASS,
    after: After = 0,
) -> Response:
    picture = _picture(request, context)
    problem, cells = "", list[Cell]()
    try:
        cells = _chosen(picture, selectors.parse(selector), context)
    except SelectorInvalid as error:
        problem = f"{error.what} Next: {error.next_step}"
    rows = [cell for cell in cells if cell.number > after][: ROWS_A_PAGE + 1]
    shown, more = rows[:ROWS_A_PAGE], len(rows) > ROWS_A_PAGE
    kept = {"selector": selector, "group": group.value}
    last = shown[-1].number if shown else 0
    response = page(
        request,
        "fleet.html",
        status_code=422 if problem else 200,
        selector=selector,
        group=group.value,
        groupings=[each.value for each in Grouping],
        problem=problem,
        counts=counts(cells),
        chosen=len(cells),
        total=len(picture.cells),
        left_out=picture.left_out,
        devices_max=DEVICES_MAX,
        read_at=picture.read_at,
        rows=shown,
        running=_running,
        columns=f"{PREFIX}/fleet/columns{query(**kept)}",
        first=f"{PREFIX}/fleet{query(**kept)}" if after else None,
        next=f"{PREFIX}/fleet{query(**kept, after=last)}" if more else None,
    )
    response.background = _refresh(request, context)
    return response


@router.get("/fleet/columns")
def columns(
    request: Request,
    _viewer: Viewer,
    context: Context,
    selector: SelectorText = "",
    group: Grouping = Grouping.CLASS,
) -> Response:
    """What the grid draws (`grid_columns.py`); 304 for who has it."""
    picture, parsed = _picture(request, context), selectors.parse(selector)
    held: Columns = request.app.state.columns
    cells = _chosen(picture, parsed, context)
    content, digest = held.of(picture, selector, group, cells, keep=not asks_policy(parsed))
    response = answer(request, content, digest, media_type=COLUMNS_TYPE, cache="private, no-cache")
    response.headers["Mailboat-Read-At"] = picture.read_at.isoformat()
    response.background = _refresh(request, context)
    return response


@router.get("/fleet/cells/{number}")
def cell(
    request: Request,
    _viewer: Viewer,
    context: Context,
    number: Annotated[int, Path(ge=0, le=NUMBER_MAX)],
) -> Response:
    """What stands behind a cell, in words."""
    found = _picture(request, context).cells.get(number)
    if found is None:
        raise NotFound(
            f"There is no device with the number {number}.", next_step="reload the page."
        )
    return JSONResponse(
        {
            "device": found.subject.device,
            "hardware_class": found.subject.hardware_class,
            "site": found.subject.site,
            "state": found.state.name.lower(),
            "because": found.because,
            "running": _running(found),
            "seen": words.ago(found.seen_at, context.now()),
            "href": f"{PREFIX}/devices/{found.subject.device}",
        }
    )


def _picture(request: Request, context: ApiContext) -> Picture:
    fleet: FleetPicture = request.app.state.fleet
    return fleet.latest(context.now())


def _refresh(request: Request, context: ApiContext) -> BackgroundTask:
    fleet: FleetPicture = request.app.state.fleet
    return BackgroundTask(lambda: fleet.refresh(context.now()))


def _chosen(picture: Picture, wanted: Selector, context: ApiContext) -> list[Cell]:
    if not asks_policy(wanted):
        return chosen(picture, wanted)
    with context.store.read() as tx:
        found = select(tx, wanted, context.reach(), context.now(), limit=DEVICES_MAX)
    numbers = (row.enrolment_number for row in found)
    return [picture.cells[number] for number in numbers if number in picture.cells]


def asks_policy(wanted: Selector) -> bool:
    """What policy says of a device is worked out from documents, and its condition from the hour:
    no picture holds them."""
    return any(each.key in ("stale", "condition") for each in wanted.requirements)


def _encoded(picture: Picture, grouping: Grouping, cells: list[Cell]) -> tuple[bytes, str]:
    content = encode(picture, cells, grouping)
    return content, hashlib.sha256(content).hexdigest()


def _running(cell: Cell) -> str:
    """``vad@1.2.0, wake@3.0.1``"""
    return ", ".join(sorted(each for each in cell.subject.running if "@" in each))
