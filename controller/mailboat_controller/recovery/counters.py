"""Counters and versions that must never go back, lifted above every one that was ever given.

The highest that anybody still knows is a lower bound of what was published: a device that is away
may have seen a later one. So there is room above it for everything that can have been published
since the backup was made: manifests are decided on at most about once a second.
"""

import math
from dataclasses import dataclass, field, replace
from datetime import datetime

from mailboat_controller.authority.online import OnlineKeys
from mailboat_controller.device_orders import next_counter, queue_order
from mailboat_controller.releases.counter_lead import COUNTER_LEAD_MAX
from mailboat_controller.store import device_signs, manifests, outbox, overrides, trust_roles
from mailboat_controller.store.manifests import ManifestRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import held_trust
from mailboat_schemas.errors import MailboatError

MARGIN_MIN = 1_000
# Devices take no number that is a million ahead of theirs (`FastForwardRefused`); with a device's
# claim and this together it stays below that.
MARGIN_MAX = 200_000
ROLE_LEAD_MAX = 500_000  # of a device's claim over what we or the broker know
_ONLINE = ("snapshot", "timestamp")


@dataclass(slots=True)
class Lifted:
    """From what to what, by class and by online role."""

    manifests: dict[str, tuple[int, int]] = field(default_factory=dict)
    roles: dict[str, tuple[int, int]] = field(default_factory=dict)
    orders: int = 0  # devices


def margin(backup_at: datetime | None, now: datetime) -> int:
    if backup_at is None:
        return MARGIN_MAX
    elapsed_seconds = math.ceil(max(0.0, (now - backup_at).total_seconds()))
    return min(MARGIN_MAX, MARGIN_MIN + elapsed_seconds)


def lift_manifests(
    tx: Transaction,
    heard: dict[str, tuple[int, bytes]],
    before: dict[str, int],
    *,
    room: int,
    now: datetime,
) -> dict[str, tuple[int, int]]:
    """
    Args:
        heard: by class, the counter that the director signed, and the bundle it came in.
        before: counters of the backup.
        room: to leave above the highest that is known.
    """
    held = {row.hardware_class: row for row in manifests.every(tx)}
    lifted: dict[str, tuple[int, int]] = {}
    for name in sorted(held.keys() | heard.keys()):
        counter, bundle = heard.get(name, (0, b""))
        row = held.get(name)
        known = max(counter, 0 if row is None else row.counter)
        highest = max(known, manifests.highest_reported(tx, name, known + COUNTER_LEAD_MAX))
        if row is None or counter > row.counter:
            row = _row(name, bundle, now)
        # Told again in any case: what it says may be the same, its number is not.
        manifests.put(tx, replace(row, counter=highest + room, content_digest=""))
        lifted[name] = (before.get(name, 0), highest + room)
    return lifted


def _row(name: str, bundle: bytes, now: datetime) -> ManifestRow:
    return ManifestRow(
        hardware_class=name,
        counter=0,
        bundle=bundle,
        etag=manifests.etag_for(bundle),
        content_digest="",
        published_at=now,
    )


def lift_roles(
    tx: Transaction, keys: OnlineKeys, *, room: int, now: datetime
) -> dict[str, tuple[int, int]]:
    """Sign snapshot and timestamp above every version that a device may have seen.

    Raises:
        OnlineKeyNotNamed: the newest metadata names keys that this controller does not have.
    """
    keys = held_trust.named_keys(tx, keys)
    versions = trust_roles.versions(tx)
    known = {role: versions.get(role, 0) for role in _ONLINE}
    highest = dict(known)
    for _device, role, version in device_signs.trust_versions_told(tx, known, ROLE_LEAD_MAX):
        highest[role] = max(highest[role], version)
    above = {role: version + room for role, version in highest.items()}
    signed = held_trust.sign_above(tx, keys, above, now)
    return {role: (versions.get(role, 0), version) for role, version in signed.items()}


def lift_orders(tx: Transaction, keys: OnlineKeys, *, fleet: str, now: datetime) -> int:
    """Say again what stands for single devices, under counters that go with the clock."""
    keys = held_trust.named_keys(tx, keys)
    count = 0
    for device in sorted(overrides.every(tx)):
        try:
            counter = next_counter(tx, device, now)
            queue_order(tx, device, counter, fleet=fleet, sign=keys.sign_order, now=now)
        except MailboatError:
            continue  # such as of a device that was revoked since
        count += 1
    return count


def forget_unsent(tx: Transaction) -> int:
    """What waited for the broker when the backup was made is older than what the fleet has."""
    ids = []
    while rows := outbox.pending(tx, 1000):
        ids += [row.id for row in rows]
        outbox.remove(tx, [row.id for row in rows])
    return len(ids)
