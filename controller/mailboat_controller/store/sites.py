"""Sites, and what their bridges told."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from mailboat_controller.sites.link_state import LinkState, Told, heard, link_state
from mailboat_controller.sites.policy import Policy, Window, cut_is_expected
from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.site_tables import sites
from mailboat_schemas.errors import NotFound

_devices = tables.devices
_sites = sites
FETCHES_NOTED_EVERY = timedelta(seconds=45)  # `refresh` runs once a minute
_INSTANTS = ("expected_until", "created_at", "changed_at", "unconfirmed_since", "fetched_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRow:
    name: str
    policy: Policy
    expected_until: datetime | None
    windows: tuple[Window, ...]
    broker_host: str
    broker_port: int
    cache_url: str
    labels: Mapping[str, str]
    created_at: datetime
    connected: bool | None
    changed_at: datetime | None
    unconfirmed_since: datetime | None
    fetched_at: datetime | None

    @property
    def told(self) -> Told:
        return Told(
            connected=self.connected,
            changed_at=self.changed_at,
            unconfirmed_since=self.unconfirmed_since,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStanding:
    """A site as it stands at an instant. ``devices`` are those in force."""

    row: SiteRow
    state: LinkState
    devices: int
    last_heard_at: datetime | None
    cut_is_expected: bool


def put(
    tx: Connection,
    name: str,
    *,
    policy: Policy,
    expected_until: datetime | None,
    windows: Sequence[Window],
    broker_host: str,
    broker_port: int,
    cache_url: str,
    labels: Mapping[str, str],
    at: datetime,
) -> bool:
    """Make a site, or change one; returns whether it is new. What its bridge told stays."""
    content = {
        "policy": str(policy),
        "expected_until": None if expected_until is None else to_ms(expected_until),
        "windows": [each.model_dump(mode="json") for each in windows],
        "broker_host": broker_host,
        "broker_port": broker_port,
        "cache_url": cache_url,
        "labels": dict(labels),
    }
    changed = tx.execute(update(_sites).where(_sites.c.name == name).values(content))
    if changed.rowcount:
        return False
    tx.execute(insert(_sites).values(name=name, created_at=to_ms(at), **content))
    return True


def remove(tx: Connection, name: str) -> None:
    tx.execute(delete(_sites).where(_sites.c.name == name))


def by_name(tx: Connection, name: str) -> SiteRow | None:
    row = tx.execute(select(_sites).where(_sites.c.name == name)).first()
    return None if row is None else _read(row)


def get(tx: Connection, name: str) -> SiteRow:
    """
    Raises:
        NotFound: no such site.
    """
    row = by_name(tx, name)
    if row is None:
        raise NotFound(
            f"There is no site {name}.", next_step="`mailboat site list` shows all sites."
        )
    return row


def every(tx: Connection) -> tuple[SiteRow, ...]:
    return tuple(_read(row) for row in tx.execute(select(_sites).order_by(_sites.c.name)))


def note_link(
    tx: Connection, name: str, *, connected: bool, retained: bool, at: datetime
) -> SiteRow | None:
    """Keep what was told of a bridge; returns the site as it was, None if there is no such."""
    row = by_name(tx, name)
    if row is None:
        return None
    told = heard(row.told, connected=connected, retained=retained, at=at)
    if told != row.told:
        tx.execute(
            update(_sites)
            .where(_sites.c.name == name)
            .values(
                connected=told.connected,
                changed_at=_ms(told.changed_at),
                unconfirmed_since=_ms(told.unconfirmed_since),
            )
        )
    return row


def doubt(tx: Connection, at: datetime) -> None:
    """Those that are connected, as far as we knew, are unconfirmed from here on."""
    c = _sites.c
    tx.execute(
        update(_sites)
        .where(c.connected.is_(True), c.unconfirmed_since.is_(None))
        .values(unconfirmed_since=to_ms(at))
    )


def note_fetched(tx: Connection, name: str, at: datetime) -> None:
    """The site asked for its access rules."""
    tx.execute(update(_sites).where(_sites.c.name == name).values(fetched_at=to_ms(at)))


def standings(
    tx: Connection, now: datetime, *, names: Collection[str] | None = None
) -> tuple[SiteStanding, ...]:
    """Every site by name, or those of these names that there are."""
    rows = tuple(row for row in every(tx) if names is None or row.name in names)
    heard_of = _heard_of(tx, [row.name for row in rows])
    return tuple(_standing(row, heard_of, now) for row in rows)


def standing(tx: Connection, name: str, now: datetime) -> SiteStanding:
    """
    Raises:
        NotFound: no such site.
    """
    return _standing(get(tx, name), _heard_of(tx, [name]), now)


def cut_off(tx: Connection, name: str, now: datetime) -> tuple[str, ...]:
    """Its revoked devices, by name, without those whose certificates have ended."""
    c = _devices.c
    here = (c.site == name, c.revoked.is_(True), c.certificate_expires_at > to_ms(now))
    return tuple(tx.execute(select(c.device).where(*here).order_by(c.device)).scalars())


def _heard_of(tx: Connection, names: Sequence[str]) -> dict[str, tuple[int, datetime | None]]:
    c = _devices.c
    rows = tx.execute(
        select(c.site, func.count(), func.max(c.last_seen_at))
        .where(c.site.in_(names), c.revoked.is_(False))
        .group_by(c.site)
    )
    return {site: (count, None if at is None else from_ms(at)) for site, count, at in rows}


def _standing(
    row: SiteRow, heard_of: Mapping[str, tuple[int, datetime | None]], now: datetime
) -> SiteStanding:
    devices, last_heard_at = heard_of.get(row.name, (0, None))
    return SiteStanding(
        row=row,
        state=link_state(row.told, devices=devices, last_heard_at=last_heard_at, now=now),
        devices=devices,
        last_heard_at=last_heard_at,
        cut_is_expected=cut_is_expected(row.policy, row.windows, row.expected_until, now),
    )


def _ms(instant: datetime | None) -> int | None:
    return None if instant is None else to_ms(instant)


def _read(row: Row[Any]) -> SiteRow:
    content = dict(row._mapping)
    for name in _INSTANTS:
        content[name] = None if content[name] is None else from_ms(content[name])
    content["policy"] = Policy(content["policy"])
    content["windows"] = tuple(Window.model_validate(each) for each in content["windows"])
    return SiteRow(**content)
