"""What was heard, verified and taken up, in one transaction; then the controller may publish."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from mailboat_controller.authority.online import OnlineKeys
from mailboat_controller.recovery import counters, rollouts_again
from mailboat_controller.recovery.behind import witnesses_of
from mailboat_controller.recovery.hearsay import Hearsay
from mailboat_controller.releases import fleet_documents, standing
from mailboat_controller.releases.approved_plans import take_approval
from mailboat_controller.store import (
    audit,
    devices,
    manifests,
    overrides,
    recoveries,
    releases,
    trust_roles,
)
from mailboat_controller.store.overrides import HOLD, PIN, OverrideRow
from mailboat_controller.store.recoveries import RecoveryRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import adopting
from mailboat_controller.trust.adopting import Adopted
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import DesiredState
from mailboat_schemas.device_orders import DeviceDesired
from mailboat_schemas.envelope import Envelope, PayloadType
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.trust import TrustView, open_desired

ACTOR = "controller"
ACTION = "recovery.finish"
REASON = "learned from retained topics and device reports, before anything was published"
NAMED_MAX = 50  # of a kind, in the audit entry


@dataclass(slots=True)
class Learned:
    """As it is recorded: what was taken up, what was lifted, and what stays lost."""

    roles: dict[str, tuple[int, int]] = field(default_factory=dict)
    releases: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    unclear: list[dict[str, Any]] = field(default_factory=list)
    manifests: dict[str, tuple[int, int]] = field(default_factory=dict)
    online: dict[str, tuple[int, int]] = field(default_factory=dict)
    orders: int = 0
    unsent: int = 0
    reports: int = 0
    behind: dict[str, dict[str, int]] = field(default_factory=dict)  # by role, who holds which

    def as_json(self) -> dict[str, Any]:
        content = asdict(self)
        return {
            name: value[:NAMED_MAX] if isinstance(value, list) else value
            for name, value in content.items()
        }


def learn(
    tx: Transaction,
    recovery: RecoveryRow,
    heard: Hearsay,
    keys: OnlineKeys,
    *,
    reports: int,
    now: datetime,
) -> Learned:
    """
    Args:
        reports: of devices, taken into the database already.

    Raises:
        OnlineKeyNotNamed: the newest metadata names keys that this controller does not have; the
            recovery stays open.
        TrustRefused: what is stored does not verify.
    """
    learned = Learned(reports=reports, unsent=counters.forget_unsent(tx))
    before = {row.hardware_class: row.counter for row in manifests.every(tx)}
    adopted = _adopt_roles(tx, heard, now)
    learned.roles = {
        role: (adopted.before.get(role, 0), version) for role, version in adopted.versions.items()
    }
    _adopt_releases(tx, adopted, heard, now)
    learned.releases = [f"{each.model}@{each.version}" for each in adopted.accepted.releases]
    learned.missing = list(adopted.missing)
    told = _told(heard, adopted.view)
    moved, unclear = rollouts_again.stand_again(tx, told, now)
    learned.rollouts = [asdict(each) for each in moved]
    learned.unclear = [asdict(each) for each in unclear]
    room = counters.margin(recovery.backup_at, now)
    learned.manifests = counters.lift_manifests(
        tx,
        {name: (desired.counter, heard.bundles[name]) for name, desired in told.items()},
        before,
        room=room,
        now=now,
    )
    learned.online = counters.lift_roles(tx, keys, room=room, now=now)
    _adopt_orders(tx, heard, adopted.view, now)
    learned.orders = counters.lift_orders(tx, keys, fleet=heard.fleet, now=now)
    learned.behind = witnesses_of(tx)
    content = learned.as_json()
    recoveries.finish(tx, learned=content, at=now)
    audit.append(
        tx,
        at=now,
        actor=ACTOR,
        action=ACTION,
        subject=f"database:{recovery.kind}",
        reason=REASON,
        details={"begun_by": recovery.actor, "begun_for": recovery.reason, **content},
    )
    return learned


def _adopt_roles(tx: Transaction, heard: Hearsay, now: datetime) -> Adopted:
    adopted = adopting.adopt(
        heard.roles(),
        heard.documents(),
        roots=trust_roles.roots(tx),
        held={role: each for role, each in trust_roles.newest(tx).items() if role != "root"},
        known=[row.digest for row in releases.every(tx)],
    )
    for root in adopted.roots:
        trust_roles.put(tx, "root", adopting.version_of(root), root, now)
    for role, content in adopted.roles.items():
        trust_roles.put(tx, role, adopted.versions[role], content, now)
    return adopted


def _adopt_releases(tx: Transaction, adopted: Adopted, heard: Hearsay, now: datetime) -> None:
    accepted = adopted.accepted
    for digest, content in accepted.documents.items():
        document = next(d for d in accepted.releases if d.canonical_bytes() == content)
        releases.put(
            tx,
            digest=digest,
            model=document.model,
            version=document.version,
            document=content,
            at=now,
        )
    standing.record(tx, accepted, REASON, ACTOR, now)
    for approval in accepted.approvals:
        try:
            take_approval(tx, approval, ACTOR, now)
        except MailboatError:
            continue  # a rollout of that name is of another release: what is offered counts
    fleet_documents.take_again(
        tx, adopted.roles, heard.documents(), by=ACTOR, reason=REASON, now=now
    )


def _told(heard: Hearsay, view: TrustView) -> dict[str, DesiredState]:
    """By class, what the director signed; a bundle that does not hold says nothing."""
    found: dict[str, DesiredState] = {}
    for name, bundle in heard.decoded().items():
        try:
            found[name] = open_desired(bundle, view, fleet=heard.fleet, hardware_class=name)
        except MailboatError:
            continue
    return found


def _adopt_orders(tx: Transaction, heard: Hearsay, view: TrustView, now: datetime) -> None:
    """Holds and pins as the fleet was last told: later than the backup, or it would not differ."""
    for device, message in sorted(heard.orders.items()):
        row = devices.by_name(tx, device)
        if row is None or row.revoked:
            continue
        try:
            envelope = decode(Envelope, message)
            payload = view.open_from_director(envelope, PayloadType.DEVICE_DESIRED)
            order = decode(DeviceDesired, payload)
        except MailboatError:
            continue
        newest = overrides.newest_counter(tx, device)
        if (order.fleet, order.device) != (heard.fleet, device) or order.counter < newest:
            continue
        for old in overrides.of_device(tx, device):
            overrides.remove(tx, device, old.kind, old.model)
        for each in _overrides(order, now):
            overrides.put(tx, each)
        overrides.note_counter(tx, device, order.counter)


def _overrides(order: DeviceDesired, now: datetime) -> list[OverrideRow]:
    rows = [
        OverrideRow(
            device=order.device,
            kind=HOLD,
            model=hold.model or "",
            version=None,
            digest=None,
            by=hold.by,
            reason=hold.reason,
            at=now,
            expires_at=_instant(hold.expires),
        )
        for hold in order.holds
    ]
    return rows + [
        OverrideRow(
            device=order.device,
            kind=PIN,
            model=pin.model,
            version=pin.version,
            digest=pin.digest,
            by=pin.by,
            reason=pin.reason,
            at=now,
            expires_at=_instant(pin.expires),
        )
        for pin in order.pins
    ]


EXPIRES_MAX = 253_402_300_799  # the last second of 9999


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(min(seconds, EXPIRES_MAX), UTC)


def summary(learned: Mapping[str, Any]) -> str:
    """In one sentence, for the log and for people."""
    classes = len(learned.get("manifests", {}))
    return (
        f"{learned.get('reports', 0)} reports heard, counters of {classes} classes lifted, "
        f"{len(learned.get('roles', {}))} newer roles and {len(learned.get('releases', ()))} "
        f"releases taken back, {len(learned.get('rollouts', ()))} rollouts moved, "
        f"{len(learned.get('unclear', ()))} things unclear, {len(learned.get('behind', {}))} roles "
        "still behind"
    )
