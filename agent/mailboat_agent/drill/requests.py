"""What is to be drilled: by order of the centre, by the schedule, by somebody at the device.

Somebody at the device lays down ``drill-request.json``, which the running agent takes away as it
reads it; who may write there could end the agent just as well.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from mailboat_agent.atomic_file import replace_durably
from mailboat_agent.drill.record import DrillRecord
from mailboat_schemas.device_orders import DeviceDesired

REQUEST_NAME = "drill-request.json"
REQUEST_BYTES_MAX = 4096
REASON_CHARS_MAX = 256
NUMBERS_MAX = 10**15
DUE, LOCAL = "due", "local"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One drill that is asked for. ``expires`` is seconds since 1970 UTC; None: it does not."""

    order: str
    model: str
    reason: str
    expires: int | None = None


def ordered(
    order: DeviceDesired | None, models: Iterable[str], record: DrillRecord
) -> Iterator[Request]:
    """What the centre asks and has not been answered: a repeated order is one drill."""
    known = sorted(models)
    for drill in () if order is None else order.drills:
        for model in known if drill.model is None else [drill.model]:
            if not record.has_answered(drill.order, model):
                reason = f"{drill.by}: {drill.reason}"
                yield Request(order=drill.order, model=model, reason=reason, expires=drill.expires)


# --- somebody at the device ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRequest:
    number: int
    model: str = ""  # empty: every model
    reason: str = ""

    @property
    def order(self) -> str:
        return f"{LOCAL}-{self.number}"


_LOCAL = TypeAdapter(LocalRequest)


def lay_down(data_dir: Path, request: LocalRequest) -> None:
    """
    Raises:
        DiskFull, DiskFailing
    """
    replace_durably(data_dir / REQUEST_NAME, _LOCAL.dump_json(request))


def take_away(data_dir: Path) -> LocalRequest | None:
    """The request that lies there, once. Never raises for what it finds."""
    path = data_dir / REQUEST_NAME
    try:
        with path.open("rb") as file:
            content = file.read(REQUEST_BYTES_MAX + 1)
    except OSError:
        return None
    with suppress(OSError):
        path.unlink()
    try:
        return _decoded(content)
    except ValueError as error:
        _log.warning("A request for a drill cannot be read: %s", str(error)[:200])
        return None


def _decoded(content: bytes) -> LocalRequest:
    """Raises ValueError."""
    if len(content) > REQUEST_BYTES_MAX:
        raise ValueError(f"more than {REQUEST_BYTES_MAX} bytes")
    found = _LOCAL.validate_json(content)
    if not 0 <= found.number < NUMBERS_MAX:
        raise ValueError("its number is out of range")
    return LocalRequest(
        number=found.number, model=found.model[:63], reason=found.reason[:REASON_CHARS_MAX]
    )
