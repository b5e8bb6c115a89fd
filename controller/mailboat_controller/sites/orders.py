"""The rules by which sites are made, changed and removed, each audited in the same transaction."""

from datetime import datetime
from typing import Any

from mailboat_controller.data_directory import refuse_taken_name
from mailboat_controller.sites.fields import SiteFields
from mailboat_controller.sites.policy import Policy
from mailboat_controller.store import audit, credentials, sites
from mailboat_controller.store.sites import SiteRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import ConfigurationInvalid, Conflict
from mailboat_schemas.names import RESERVED_NAMES

SITES_MAX = 10_000  # each is a section of the broker's rules, and series of metrics


def refuse_past(fields: SiteFields, now: datetime) -> None:
    """
    Raises:
        ConfigurationInvalid: a cut is expected until an instant that has gone by.
    """
    until = fields.expected_until
    if until is not None and until <= now:
        raise ConfigurationInvalid(
            f"A cut cannot be expected until {until.isoformat()}: it is {now.isoformat()}.",
            next_step="give an instant to come, in UTC or with its offset (…+01:00).",
        )


def refuse_new(tx: Transaction, name: str) -> None:
    """
    Raises:
        Conflict: no site may be made under this name, or none any more.
    """
    if sites.by_name(tx, name) is not None:
        raise Conflict(
            f"There is a site {name} already.",
            next_step="change it with `mailboat site change`, or choose another name.",
        )
    if name in RESERVED_NAMES:
        raise Conflict(
            f"The name {name} has a meaning of its own.",
            next_step="give the site another name.",
        )
    refuse_taken_name(tx, Kind.SITE, name)
    if len(sites.every(tx)) >= SITES_MAX:
        raise Conflict(
            f"There are {SITES_MAX} sites, which is as many as one controller takes.",
            next_step="remove sites that are gone, or split the fleet.",
        )


def put(
    tx: Transaction,
    name: str,
    fields: SiteFields,
    *,
    action: str,
    actor: str,
    reason: str,
    now: datetime,
) -> None:
    """Make or change a site.

    Raises:
        ConfigurationInvalid: the fields contradict each other.
    """
    if fields.policy is not Policy.EXPECTED and (fields.windows or fields.expected_until):
        raise ConfigurationInvalid(
            f"Windows and an end of an expected cut say nothing with policy {fields.policy}.",
            next_step="set the policy to expected, or leave them out.",
        )
    content: dict[str, Any] = {each: getattr(fields, each) for each in SiteFields.model_fields}
    before = sites.by_name(tx, name)
    sites.put(tx, name, **content, at=now)
    audit.append(
        tx,
        at=now,
        actor=actor,
        action=action,
        subject=f"site:{name}",
        reason=reason,
        details={"before": _plain(before), "after": fields.model_dump(mode="json")},
    )


def refuse_inhabited(name: str, devices: int) -> None:
    """
    Raises:
        Conflict: the site has devices; it cannot be forgotten.
    """
    if devices:
        raise Conflict(
            f"{devices} devices are enrolled at site {name}.",
            next_step="enrol them again with a kit of another site, or revoke them; "
            f"`mailboat device list --site {name}` shows them.",
        )


def remove(tx: Transaction, name: str, *, actor: str, reason: str, now: datetime) -> None:
    """Forget a site and cut its bridge off.

    Raises:
        NotFound: no such site. Conflict: it has devices.
    """
    refuse_inhabited(name, sites.standing(tx, name, now).devices)
    before = sites.by_name(tx, name)
    revoked = credentials.revoke(tx, name=name, kind=Kind.SITE)
    sites.remove(tx, name)
    audit.append(
        tx,
        at=now,
        actor=actor,
        action="site.remove",
        subject=f"site:{name}",
        reason=reason,
        details={"before": _plain(before), "certificates_revoked": revoked},
    )


def _plain(row: SiteRow | None) -> dict[str, Any] | None:
    """What people set of a site, as the audit log keeps it."""
    if row is None:
        return None
    content = {each: getattr(row, each) for each in SiteFields.model_fields}
    return SiteFields.model_construct(**content).model_dump(mode="json")
