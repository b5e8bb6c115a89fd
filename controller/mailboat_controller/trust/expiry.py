"""When every role expires, how urgent that is, and what to do about it.

Devices go on serving whatever expires (DESIGN section 4); what stops is every install, and with
the approval role the delivery of withdrawals. So people hear of it long before: a role's warning
comes early enough for the ceremony that renews it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from cryptography import x509
from tuf.api.metadata import Metadata
from tuf.api.serialization import DeserializationError

from mailboat_controller.authority.public_keys import label_of
from mailboat_controller.authority.roles import APPROVAL_PREFIX, RELEASE_PREFIX
from mailboat_schemas.errors import ConfigurationInvalid

_log = structlog.get_logger(__name__)

_TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")


class Level(StrEnum):
    """In the order of urgency."""

    OK = "ok"
    SOON = "soon"
    URGENT = "urgent"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """``soon`` and ``urgent`` begin this long before the end."""

    soon: timedelta
    urgent: timedelta

    def level(self, left: timedelta) -> Level:
        if left <= timedelta(0):
            return Level.EXPIRED
        if left <= self.urgent:
            return Level.URGENT
        return Level.SOON if left <= self.soon else Level.OK


# Root and targets need people in one room; approvals one person a month; the rest happens by
# itself, so that a warning there means that it has stopped happening.
_CEREMONY = Notice(soon=timedelta(days=60), urgent=timedelta(days=14))
_APPROVAL = Notice(soon=timedelta(days=10), urgent=timedelta(days=3))
_SNAPSHOT = Notice(soon=timedelta(days=7), urgent=timedelta(days=2))
_TIMESTAMP = Notice(soon=timedelta(days=3), urgent=timedelta(days=1))
_AUTHORITY = Notice(soon=timedelta(days=730), urgent=timedelta(days=180))
_SERVER = Notice(soon=timedelta(days=20), urgent=timedelta(days=5))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleStatus:
    """One role as people see it. ``days_left`` is rounded down, below 0 once it has expired."""

    role: str
    version: int
    expires: datetime
    days_left: int
    level: Level
    threshold: int
    keys: tuple[str, ...]  # name and beginning of the id
    keyids: tuple[str, ...]
    next_step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    certificate: str
    expires: datetime
    days_left: int
    level: Level
    next_step: str


def role_statuses(roles: Mapping[str, bytes], now: datetime) -> tuple[RoleStatus, ...]:
    """Every role with an expiry, those that end first at the top.

    Args:
        roles: newest signed bytes by role name; root and targets say who signs the others.

    Raises:
        ConfigurationInvalid: root or targets is missing, or something is not TUF metadata.
    """
    read = {role: _read(role, content) for role, content in roles.items()}
    if not {"root", "targets"} <= read.keys():
        raise ConfigurationInvalid(
            "There is no root or no targets role here.",
            next_step="name the ceremony's `controller/trust` directory, or ask the controller.",
        )
    found = [_role_status(role, signed, read, now) for role, signed in read.items()]
    return tuple(sorted(found, key=lambda each: (each.expires, each.role)))


def expires_at(roles: Mapping[str, bytes]) -> dict[str, datetime]:
    """By role, for the metric."""
    return {role: _read(role, content).expires for role, content in roles.items()}


def certificate_statuses(
    certificates: Mapping[str, bytes], now: datetime
) -> tuple[CertificateStatus, ...]:
    """Args: certificates: PEM by ``ca`` or ``server``."""
    found: list[CertificateStatus] = []
    for name, content in certificates.items():
        expires = x509.load_pem_x509_certificate(content).not_valid_after_utc
        left = expires - now.astimezone(UTC)
        level = (_AUTHORITY if name == "ca" else _SERVER).level(left)
        found.append(
            CertificateStatus(
                certificate=name,
                expires=expires,
                days_left=left.days,
                level=level,
                next_step="" if level is Level.OK else _certificate_step(name),
            )
        )
    return tuple(found)


def warn(roles: Mapping[str, bytes], now: datetime) -> None:
    """A line in the log for every role that needs somebody."""
    for each in role_statuses(roles, now):
        if each.level is not Level.OK:
            _log.warning(
                "trust metadata runs out",
                role=each.role,
                level=each.level.value,
                days_left=each.days_left,
                next_step=each.next_step,
            )


def _role_status(role: str, signed: Any, read: Mapping[str, Any], now: datetime) -> RoleStatus:
    delegator = read["root" if role in _TOP_LEVEL else "targets"]
    try:
        named = delegator.get_delegated_role(role)
        threshold, keyids = named.threshold, tuple(named.keyids)
        keys = tuple(label_of(delegator.get_key(keyid)) for keyid in keyids)
    except ValueError:
        threshold, keyids, keys = 0, (), ()  # nobody delegates to it any more
    left = signed.expires - now.astimezone(UTC)
    level = _warning(role).level(left)
    return RoleStatus(
        role=role,
        version=signed.version,
        expires=signed.expires,
        days_left=left.days,
        level=level,
        threshold=threshold,
        keys=keys,
        keyids=keyids,
        next_step="" if level is Level.OK else _role_step(role),
    )


def _warning(role: str) -> Notice:
    if role.startswith(APPROVAL_PREFIX):
        return _APPROVAL
    return {"snapshot": _SNAPSHOT, "timestamp": _TIMESTAMP}.get(role, _CEREMONY)


def _role_step(role: str) -> str:
    if role in ("snapshot", "timestamp"):
        return "the controller signs this by itself: see that it runs and look at its log"
    if role.startswith((APPROVAL_PREFIX, RELEASE_PREFIX)):
        return f"mailboat trust renew {role} --key KEY"
    return f"mailboat trust renew {role} --out PENDING, then `trust sign` and `trust submit`"


def _certificate_step(name: str) -> str:
    if name == "ca":
        return "a new CA means enrolling every device again: plan it now"
    return "restart the controller: it makes a new one within 30 days of the end"


def _read(role: str, content: bytes) -> Any:
    try:
        return Metadata.from_bytes(content).signed
    except (DeserializationError, ValueError) as error:
        raise ConfigurationInvalid(
            f"The {role} role is not TUF metadata.",
            next_step="copy it again from where the roles are signed.",
        ) from error


def worst(statuses: Iterable[RoleStatus | CertificateStatus]) -> Level:
    """The most urgent of them."""
    order = list(Level)
    return max((each.level for each in statuses), key=order.index, default=Level.OK)


def needs_attention(statuses: tuple[RoleStatus | CertificateStatus, ...]) -> bool:
    return any(each.level is not Level.OK for each in statuses)
