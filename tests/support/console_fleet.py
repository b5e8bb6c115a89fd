"""Devices for the console's grid, put into the registry as if they had enrolled and reported."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import insert

from mailboat_controller.store import tables
from mailboat_controller.store.engine import Store
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.reports import ModelPhase, ReportedFacts, ReportedModel, ReportedState

DIGEST = "ab" * 32
ROWS_AT_ONCE = 5000
CLASSES = ("kiosk", "camera", "gateway")


@cache
def report(model: str, version: str, phase: str = "committed") -> dict[str, Any]:
    """As a device would send it."""
    serving = ReportedModel(
        model=model, phase=ModelPhase(phase), serving_version=version, serving_digest=DIGEST
    )
    state = ReportedState(
        fleet="demo",
        device="any",
        hardware_class="kiosk",
        site="-",
        session=1,
        observed_at=0,
        manifest_counter=0,
        models=(serving,),
        facts=ReportedFacts(labels={"ring": "stable"}, disk_free_bytes=8 << 30),
    )
    return state.model_dump(mode="json")


def fleet_rows(count: int, now: datetime, *, prefix: str, sites: int) -> Iterator[dict[str, Any]]:
    """A few of each kind: every 50th offline, every 400th never heard of, every 90th under way."""
    for n in range(count):
        offline, never, moving = n % 50 == 7, n % 400 == 11, n % 90 == 13
        seen = None if never else to_ms(now - timedelta(seconds=n % 50 + 3600 * 30 * offline))
        yield {
            "device": f"{prefix}-{n:06d}",
            "hardware_class": CLASSES[n % 7 % 3],
            "site": f"site-{n % sites:03d}" if sites else "-",
            "labels": {"ring": "stable"},
            "public_key": b"",
            "certificate_serial": "",
            "certificate_expires_at": 0,
            "revoked": n % 1000 == 17,
            "enrolled_at": to_ms(now - timedelta(days=90)),
            "last_seen_at": seen,
            "online": None if never else not offline,
            "presence_at": seen,
            "session": 1,
            "manifest_counter": 0,
            "report": None
            if never
            else report("vad", "1.3.0" if n % 4 else "1.2.0", "soak" if moving else "committed"),
        }


def enrol_fleet(
    store: Store, count: int, now: datetime, *, prefix: str = "dev", sites: int = 0
) -> None:
    rows = list(fleet_rows(count, now, prefix=prefix, sites=sites))
    for first in range(0, count, ROWS_AT_ONCE):
        with store.transaction() as tx:
            tx.execute(insert(tables.devices), rows[first : first + ROWS_AT_ONCE])


def enrol_one(store: Store, device: str, now: datetime, **columns: Any) -> None:
    """One device, online, of class kiosk, unless said otherwise."""
    row = next(fleet_rows(1, now, prefix="x", sites=0))
    with store.transaction() as tx:
        tx.execute(insert(tables.devices), [{**row, "device": device, **columns}])
