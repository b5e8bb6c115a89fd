"""Documents for classes, sites and devices on their way: taken in, and sent along."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime

from mailboat_controller.device_orders import next_counter, queue_order
from mailboat_controller.store import audit, classes, devices, fleet_documents, sites
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust.fleet_intake import PARSERS, Earlier, FleetChange
from mailboat_schemas.device_orders import DeviceDesired
from mailboat_schemas.documents.fleet_document import Level
from mailboat_schemas.errors import MailboatError, NotFound
from mailboat_schemas.fleet_documents import Place, content_of
from mailboat_schemas.trust import FLEET_ROLES

CHANGES_NAMED_MAX = 64  # in one audit entry


def documents_for_class(tx: Transaction, hardware_class: str) -> dict[str, bytes]:
    """What the bundle of a class carries: by digest, of the class itself and of all sites.

    Which sites have devices of the class changes with every enrolment, and a bundle that went with
    that would cost a message for each.
    """
    wanted = [
        listed
        for role in FLEET_ROLES
        for place, listed in fleet_documents.in_force(tx, role).items()
        if place.level is Level.SITE or place == Place(role, Level.CLASS, hardware_class)
    ]
    return fleet_documents.documents_of(tx, wanted)


def in_force_by_digest(tx: Transaction) -> dict[str, bytes]:
    """Every document that holds for somebody."""
    listed = [each for role in FLEET_ROLES for each in fleet_documents.in_force(tx, role).values()]
    return fleet_documents.documents_of(tx, listed)


def history_of(tx: Transaction, place: Place) -> Iterable[Earlier]:
    for epoch, version, digest in fleet_documents.marks(tx, place):
        yield Earlier(epoch=epoch, version=version, digest=digest)


def has_target(tx: Transaction, level: Level, target: str) -> bool:
    """Whether there is such a class, site or device; a revoked device reads nothing any more."""
    match level:
        case Level.CLASS:
            return target in classes.names(tx)
        case Level.SITE:
            return _is_site(tx, target)
        case Level.DEVICE:
            device = devices.by_name(tx, target)
            return device is not None and not device.revoked


def _is_site(tx: Transaction, name: str) -> bool:
    try:
        sites.get(tx, name)
    except NotFound:
        return False
    return True


def take(
    tx: Transaction,
    changes: Iterable[FleetChange],
    *,
    fleet: str,
    sign: Callable[[DeviceDesired], bytes],
    sender: str,
    reason: str,
    now: datetime,
) -> None:
    """Keep the documents, note who changed what, and tell the devices that have one of their own.

    The roles themselves are stored already.
    """
    for change in changes:
        fleet_documents.put(tx, change.documents, at=now, by=sender, reason=reason)
        placed = {
            listed.place: f"{document.metadata.name} {document.metadata.version}"
            for listed, document in change.documents
        }
        audit.append(
            tx,
            at=now,
            actor=sender,
            action=f"{change.role}.change",
            subject=", ".join(map(str, change.changed[:CHANGES_NAMED_MAX])),
            reason=reason,
            details={
                str(place): placed.get(place, "none any more")
                for place in change.changed[:CHANGES_NAMED_MAX]
            },
        )
        for place in change.changed:
            if place.level is Level.DEVICE and has_target(tx, Level.DEVICE, place.target):
                counter = next_counter(tx, place.target, now)
                queue_order(tx, place.target, counter, fleet=fleet, sign=sign, now=now)


def take_again(
    tx: Transaction,
    roles: Mapping[str, bytes],
    documents: Mapping[str, bytes],
    *,
    by: str,
    reason: str,
    now: datetime,
) -> None:
    """Documents that came back with roles which a restored controller had lost; what nobody has
    any more is missing from what is in force until it is signed again."""
    for role in FLEET_ROLES:
        if role not in roles:
            continue
        found = []
        for listed in fleet_documents.in_force(tx, role).values():
            content = documents.get(listed.digest)
            with suppress(MailboatError):
                if content is not None and content_of(listed, documents) is not None:
                    found.append((listed, PARSERS[role].parse(content)))
        fleet_documents.put(tx, found, at=now, by=by, reason=reason)
