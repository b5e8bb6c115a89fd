"""Whether what people signed for classes and sites still fits into the one message of each class.

Asked before it is taken: afterwards the class would go on with its old manifest, and miss
withdrawals with it.
"""

from collections.abc import Mapping

from mailboat_controller.store import fleet_documents, manifests
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust.bundle import TooManyDocuments
from mailboat_controller.trust.refusal import Refusal
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.desired import DOCUMENTS_MAX, DesiredState, ManifestBundle
from mailboat_schemas.documents.fleet_document import Level, is_fleet_document
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.errors import PayloadTooLarge
from mailboat_schemas.fleet_documents import Listed, Place, listed_in_bytes
from mailboat_schemas.trust import FLEET_ROLES

GROWTH_BYTES = 16 * 1024  # kept free for the next releases and for snapshots that name them


def require_room(tx: Transaction, roles: Mapping[str, bytes], offered: Mapping[str, bytes]) -> None:
    """
    Args:
        roles: verified bytes of what was handed in, by role.
        offered: documents that came along, by digest.

    Raises:
        Refusal: a class could be told nothing more.
    """
    changed = {role: roles[role] for role in FLEET_ROLES if role in roles}
    if not changed:
        return
    listed = {
        role: listed_in_bytes(role, roles[role])
        if role in changed
        else fleet_documents.in_force(tx, role)
        for role in FLEET_ROLES
    }
    for row in manifests.every(tx):
        held = decode(ManifestBundle, row.bundle)
        wanted = _of_class(listed, row.hardware_class)
        contents = fleet_documents.documents_of(tx, wanted) | {
            each.digest: offered[each.digest] for each in wanted if each.digest in offered
        }
        try:
            _require_room_in(held, changed, contents)
        except PayloadTooLarge as error:
            raise Refusal(
                "E-FLEET-DOCUMENTS",
                f"With it the one message of class {row.hardware_class} would be too large "
                f"({error.what}), and its devices would hear of nothing any more. Say for the "
                "class what configs and policies of sites say alike, or take back those that "
                "nobody needs.",
            ) from error


def _require_room_in(
    held: ManifestBundle, roles: Mapping[str, bytes], contents: Mapping[str, bytes]
) -> None:
    """
    Raises:
        PayloadTooLarge
    """
    others = {d: each for d, each in held.documents.items() if not is_fleet_document(each)}
    documents = others | dict(contents)
    if DOCUMENTS_MAX < len(documents) > len(held.documents):
        raise TooManyDocuments(len(documents))
    trust = {
        name: content
        for name, content in held.trust.items()
        if not any(name.endswith(f".{role}.json") for role in roles)
    }
    trust |= {f"0.{role}.json": content for role, content in roles.items()}
    plain = held.model_copy(update={"desired": _without_hints(held.desired)})
    size_bytes = len(encode(plain.model_copy(update={"documents": documents, "trust": trust})))
    room_bytes = ManifestBundle.wire_bytes_max - GROWTH_BYTES
    if room_bytes < size_bytes > len(encode(plain)):  # what makes it smaller is welcome
        raise PayloadTooLarge(ManifestBundle.__name__, size_bytes, room_bytes)


def _without_hints(desired: bytes) -> bytes:
    """Patches are left out where they do not fit, so they count for nothing here."""
    envelope = decode(Envelope, desired)
    told = decode(DesiredState, envelope.payload)
    if not told.deltas:
        return desired
    payload = encode(told.model_copy(update={"deltas": ()}))
    return encode(envelope.model_copy(update={"payload": payload}))


def _of_class(listed: Mapping[str, Mapping[Place, Listed]], hardware_class: str) -> list[Listed]:
    """As `fleet_documents.documents_for_class` chooses."""
    return [
        each
        for role, places in listed.items()
        for place, each in places.items()
        if place.level is Level.SITE or place == Place(role, Level.CLASS, hardware_class)
    ]
