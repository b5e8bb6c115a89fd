"""Sites: what they are, and how the link to each stands."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field

from mailboat_controller.api import etags
from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import OptionalReason, Reason
from mailboat_controller.api.pages import Paged
from mailboat_controller.api.preconditions import IfMatch, refuse_another, tag_of
from mailboat_controller.sites import orders
from mailboat_controller.sites.fields import Host, SiteFields
from mailboat_controller.sites.link_state import Link
from mailboat_controller.sites.policy import Policy, Window
from mailboat_controller.store import credentials, site_orders, sites
from mailboat_controller.store.sites import SiteRow, SiteStanding
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.names import Label

router = APIRouter(prefix="/v1/sites", tags=["sites"])

SiteLabel = Annotated[Label, Path()]


class SiteChange(SiteFields):
    """What is not given stays as it is."""

    reason: OptionalReason = ""


class SiteOrder(SiteChange):
    name: Label
    broker_host: Host = Field(description="by which the site's devices reach its broker")


class SiteRemoval(BaseModel):
    reason: Reason


class SiteShown(BaseModel):
    name: str
    link: Link
    link_since: datetime | None
    link_because: str
    policy: Policy
    expected_until: datetime | None
    windows: tuple[Window, ...]
    cut_is_expected: bool  # now
    devices: int
    last_heard_at: datetime | None  # of any of its devices
    fetched_at: datetime | None  # its access rules, by the site
    broker_host: str
    broker_port: int
    cache_url: str
    labels: dict[str, str]
    certificate_expires_at: datetime | None  # of the newest kit; null: none was made
    created_at: datetime


class SiteInFull(SiteShown):
    """``ordered``: by the site itself, as its devices told last; empty: nothing ever was."""

    ordered: str
    ordered_at: datetime | None


@router.get("")
def list_sites(_reader: Reader, paging: Paged, context: Context) -> list[SiteShown]:
    """Every site, by name."""
    with context.store.read() as tx:
        rows = paging.cut(sites.standings(tx, context.now()), lambda each: (each.row.name,))
        return _all_shown(tx, rows)


@router.get("/{name}")
def get_site(name: SiteLabel, _reader: Reader, context: Context, response: Response) -> SiteInFull:
    """One site, and how the link to it stands. The ETag is of what can be changed."""
    with context.store.read() as tx:
        shown = _one_shown(tx, name, context)
        held = _fields(sites.get(tx, name))
    response.headers["ETag"] = etags.quoted(tag_of(held.model_dump(mode="json")))
    return shown


@router.post("", status_code=201)
def add_site(order: SiteOrder, operator: Operator, context: Context) -> SiteInFull:
    """Make a site known. Its kit comes from the controller's disk: `mailboat site kit`."""
    orders.refuse_past(order, context.now())
    with context.store.transaction() as tx:
        orders.refuse_new(tx, order.name)
        _put(tx, order.name, order, "site.add", str(operator), context)
        shown = _one_shown(tx, order.name, context)
    context.access_changed()  # its bridge is let in before it has a certificate
    return shown


@router.patch("/{name}")
def change_site(
    name: SiteLabel,
    change: SiteChange,
    operator: Operator,
    context: Context,
    if_match: IfMatch = None,
) -> SiteInFull:
    """Change what is given. Devices and kits know the old addresses until they get new ones."""
    orders.refuse_past(change, context.now())
    with context.store.transaction() as tx:
        held = _fields(sites.get(tx, name))
        refuse_another(if_match, held.model_dump(mode="json"), f"The site {name}")
        given = change.model_dump(exclude_unset=True)
        merged = SiteChange.model_validate({**held.model_dump(), **given})
        _put(tx, name, merged, "site.change", str(operator), context)
        return _one_shown(tx, name, context)


@router.post("/{name}/remove")
def remove_site(
    name: SiteLabel, removal: SiteRemoval, operator: Operator, context: Context
) -> SiteInFull:
    """Forget a site and cut its bridge off. Its devices go first."""
    now = context.now()
    with context.store.transaction() as tx:
        shown = _one_shown(tx, name, context)
        orders.remove(tx, name, actor=str(operator), reason=removal.reason, now=now)
    context.access_changed()
    return shown


def _fields(row: SiteRow) -> SiteFields:
    return SiteFields.model_validate(
        {field: getattr(row, field) for field in SiteFields.model_fields}
    )


def _put(
    tx: Transaction, name: str, order: SiteChange, action: str, actor: str, context: ApiContext
) -> None:
    now, reason = context.now(), order.reason
    orders.put(tx, name, order, action=action, actor=actor, reason=reason, now=now)


def _one_shown(tx: Transaction, name: str, context: ApiContext) -> SiteInFull:
    shown = _all_shown(tx, [sites.standing(tx, name, context.now())])[0]
    told = site_orders.newest(tx, name)
    return SiteInFull(
        **shown.model_dump(),
        ordered="" if told is None else told.reason,
        ordered_at=None if told is None else told.at,
    )


def _all_shown(tx: Transaction, standings: Sequence[SiteStanding]) -> list[SiteShown]:
    ends = credentials.ends_by_name(tx, Kind.SITE)
    return [
        SiteShown(
            name=each.row.name,
            link=each.state.link,
            link_since=each.state.since,
            link_because=each.state.because,
            policy=each.row.policy,
            expected_until=each.row.expected_until,
            windows=each.row.windows,
            cut_is_expected=each.cut_is_expected,
            devices=each.devices,
            last_heard_at=each.last_heard_at,
            fetched_at=each.row.fetched_at,
            broker_host=each.row.broker_host,
            broker_port=each.row.broker_port,
            cache_url=each.row.cache_url,
            labels=dict(each.row.labels),
            certificate_expires_at=ends.get(each.row.name),
            created_at=each.row.created_at,
        )
        for each in standings
    ]
