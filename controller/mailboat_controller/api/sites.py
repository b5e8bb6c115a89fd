"""Sites: what they are, and how the link to each stands."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import OptionalReason, Reason
from mailboat_controller.data_directory import refuse_taken_name
from mailboat_controller.sites.link_state import Link
from mailboat_controller.sites.policy import WINDOWS_MAX, Policy, Window
from mailboat_controller.store import audit, credentials, sites
from mailboat_controller.store.sites import SiteStanding
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import ConfigurationInvalid, Conflict
from mailboat_schemas.names import RESERVED_NAMES, Label

SITES_MAX = 10_000  # each is a section of the broker's rules, and series of metrics
BROKER_PORT = 8883

router = APIRouter(prefix="/v1/sites", tags=["sites"])

SiteLabel = Annotated[Label, Path()]
Host = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?$")
]
CacheUrl = Annotated[
    str,
    StringConstraints(pattern=r"^(?:https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/?)?$", max_length=512),
]


class SiteChange(BaseModel):
    """What is not given stays as it is."""

    model_config = ConfigDict(extra="forbid")

    policy: Policy = Policy.ERROR
    expected_until: AwareDatetime | None = Field(
        default=None, description="until then a cut is expected, with policy expected"
    )
    windows: tuple[Window, ...] = Field(
        default=(), max_length=WINDOWS_MAX, description="when a cut is expected, UTC"
    )
    broker_host: Host = Field(default="", validate_default=False)
    broker_port: int = Field(default=BROKER_PORT, ge=1, le=65535)
    cache_url: CacheUrl = ""
    labels: dict[Label, Annotated[str, StringConstraints(max_length=256)]] = Field(
        default_factory=dict, max_length=32
    )
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


@router.get("")
def list_sites(_reader: Reader, context: Context) -> list[SiteShown]:
    """Every site, by name."""
    with context.store.read() as tx:
        return _all_shown(tx, sites.standings(tx, context.now()))


@router.get("/{name}")
def get_site(name: SiteLabel, _reader: Reader, context: Context) -> SiteShown:
    with context.store.read() as tx:
        return _one_shown(tx, name, context)


@router.post("", status_code=201)
def add_site(order: SiteOrder, operator: Operator, context: Context) -> SiteShown:
    """Make a site known. Its kit comes from the controller's disk: `mailboat site kit`."""
    _refuse_past(order, context)
    with context.store.transaction() as tx:
        if sites.by_name(tx, order.name) is not None:
            raise Conflict(
                f"There is a site {order.name} already.",
                next_step="change it with `mailboat site change`, or choose another name.",
            )
        if order.name in RESERVED_NAMES:
            raise Conflict(
                f"The name {order.name} has a meaning of its own.",
                next_step="give the site another name.",
            )
        refuse_taken_name(tx, Kind.SITE, order.name)
        if len(sites.every(tx)) >= SITES_MAX:
            raise Conflict(
                f"There are {SITES_MAX} sites, which is as many as one controller takes.",
                next_step="remove sites that are gone, or split the fleet.",
            )
        _put(tx, order.name, order, "site.add", str(operator), context)
        shown = _one_shown(tx, order.name, context)
    context.access_changed()  # its bridge is let in before it has a certificate
    return shown


@router.patch("/{name}")
def change_site(
    name: SiteLabel, change: SiteChange, operator: Operator, context: Context
) -> SiteShown:
    """Change what is given. Devices and kits know the old addresses until they get new ones."""
    _refuse_past(change, context)
    with context.store.transaction() as tx:
        row = sites.get(tx, name)
        given = change.model_dump(exclude_unset=True)
        held = {
            field: getattr(row, field) for field in SiteChange.model_fields if field != "reason"
        }
        merged = SiteChange.model_validate({**held, **given})
        _put(tx, name, merged, "site.change", str(operator), context)
        return _one_shown(tx, name, context)


@router.post("/{name}/remove")
def remove_site(
    name: SiteLabel, removal: SiteRemoval, operator: Operator, context: Context
) -> SiteShown:
    """Forget a site and cut its bridge off. Its devices go first."""
    now = context.now()
    with context.store.transaction() as tx:
        shown = _one_shown(tx, name, context)
        if shown.devices:
            raise Conflict(
                f"{shown.devices} devices are enrolled at site {name}.",
                next_step="enrol them again with a kit of another site, or revoke them; "
                f"`mailboat device list --site {name}` shows them.",
            )
        revoked = credentials.revoke(tx, name=name, kind=Kind.SITE)
        sites.remove(tx, name)
        audit.append(
            tx,
            at=now,
            actor=str(operator),
            action="site.remove",
            subject=f"site:{name}",
            reason=removal.reason,
            details={"certificates_revoked": revoked},
        )
    context.access_changed()
    return shown


def _refuse_past(order: SiteChange, context: ApiContext) -> None:
    until, now = order.expected_until, context.now()
    if until is not None and until <= now:
        raise ConfigurationInvalid(
            f"A cut cannot be expected until {until.isoformat()}: it is {now.isoformat()}.",
            next_step="give an instant to come, in UTC or with its offset (…+01:00).",
        )


def _put(
    tx: Transaction, name: str, order: SiteChange, action: str, actor: str, context: ApiContext
) -> None:
    if order.policy is not Policy.EXPECTED and (order.windows or order.expected_until):
        raise ConfigurationInvalid(
            f"Windows and an end of an expected cut say nothing with policy {order.policy}.",
            next_step="set the policy to expected, or leave them out.",
        )
    sites.put(
        tx,
        name,
        policy=order.policy,
        expected_until=order.expected_until,
        windows=order.windows,
        broker_host=order.broker_host,
        broker_port=order.broker_port,
        cache_url=order.cache_url,
        labels=order.labels,
        at=context.now(),
    )
    audit.append(
        tx,
        at=context.now(),
        actor=actor,
        action=action,
        subject=f"site:{name}",
        reason=order.reason,
        details=order.model_dump(mode="json", exclude={"reason"}),
    )


def _one_shown(tx: Transaction, name: str, context: ApiContext) -> SiteShown:
    return _all_shown(tx, [sites.standing(tx, name, context.now())])[0]


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
