"""What a new version of the ``config`` or ``policy`` role brings. Pure.

Signature, version and expiry of the role itself were judged already (`intake`). Here is what every
device would stumble over in the documents that it lists.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tuf.api.metadata import Targets

from mailboat_controller.authority.roles import ISSUED_FIELD
from mailboat_controller.trust.refusal import Refusal
from mailboat_schemas.documents.config import ConfigDocument
from mailboat_schemas.documents.fleet_document import FleetDocument, Level
from mailboat_schemas.documents.policy import PolicyDocument
from mailboat_schemas.fleet_documents import (
    CONFIG_ROLE,
    POLICY_ROLE,
    Listed,
    Place,
    content_of,
    is_older,
    listed_in,
)

# Every bundle carries the whole role: so many places, at about 45 bytes each once compressed.
PLACES_MAX: Mapping[Level, int] = MappingProxyType(
    {Level.CLASS: 64, Level.SITE: 64, Level.DEVICE: 256}
)
# Every bundle carries the documents of all sites; those of a device go to it alone, in its order.
SITE_DOCUMENTS_BYTES_MAX = 128 * 1024
DEVICE_DOCUMENT_BYTES_MAX = 8 * 1024

# By role: who reads its documents, and for whom they may be.
PARSERS: Mapping[str, type[FleetDocument]] = MappingProxyType(
    {CONFIG_ROLE: ConfigDocument, POLICY_ROLE: PolicyDocument}
)
LEVELS: Mapping[str, frozenset[Level]] = MappingProxyType(
    # What one device alone shall do is said with a pin or a hold.
    {CONFIG_ROLE: frozenset(Level), POLICY_ROLE: frozenset({Level.CLASS, Level.SITE})}
)

KnownTarget = Callable[[Level, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A document that held for a place once, or does now."""

    epoch: int  # the highest it was listed under
    version: str
    digest: str


History = Callable[[Place], Iterable[Earlier]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetChange:
    """``documents``: new ones, or such as hold again; ``changed``: every place whose document is
    another one now, or none any more."""

    role: str
    documents: tuple[tuple[Listed, FleetDocument], ...]
    changed: tuple[Place, ...]


def judge_fleet_role(
    role: str,
    old: Targets,
    new: Targets,
    *,
    offered: Mapping[str, bytes],
    known: Mapping[str, bytes],
    has_target: KnownTarget,
    history: History,
) -> FleetChange:
    """
    Args:
        offered, known: documents by digest, from the submission and from the store.
        has_target: whether there is such a class, site or device.
        history: what was accepted for a place before, also if nothing holds there now.

    Raises:
        Refusal: nothing is taken. MailboatError: a document does not hold.
    """
    if role not in PARSERS:
        raise Refusal("E-ROLE-UNKNOWN", f"This controller reads no documents of role {role}.")
    before, after = listed_in(role, old), listed_in(role, new)
    _require_nothing_else(role, new, after)
    _require_room(role, after)
    contents = {**known, **offered}
    documents = []
    for place, listed in after.items():
        if before.get(place) == listed:
            continue
        document = _read(role, listed, contents)
        _require_target(place, has_target)
        _require_no_rollback(listed, document, tuple(history(place)))
        documents.append((listed, document))
    changed = before.keys() | after.keys()
    return FleetChange(
        role=role,
        documents=tuple(documents),
        changed=tuple(sorted(p for p in changed if before.get(p) != after.get(p))),
    )


def _require_nothing_else(role: str, new: Targets, listed: Mapping[Place, Listed]) -> None:
    """Every bundle carries the role: filled up, it would keep withdrawals from every class."""
    plain = {each.place.path: each.target() for each in listed.values()}
    if dict(new.targets) != plain or not new.unrecognized_fields.keys() <= {ISSUED_FIELD}:
        raise Refusal(
            "E-ROLE-SHAPE",
            f"Role {role} carries more than a list of documents. Sign it with "
            f"`mailboat {role} approve`.",
        )


def _require_room(role: str, listed: Mapping[Place, Listed]) -> None:
    for level, places_max in PLACES_MAX.items():
        found = [each for each in listed.values() if each.place.level is level]
        if found and level not in LEVELS[role]:
            raise Refusal("E-FLEET-DOCUMENT", f"A {role} is not signed for a single {level}.")
        if len(found) > places_max:
            raise Refusal(
                "E-FLEET-DOCUMENTS",
                f"{len(found)} {role} documents of level {level}, at most {places_max}: every "
                "device is sent the list. Take back what is over, or say it for the class.",
            )
        for each in found:
            if level is Level.DEVICE and each.length > DEVICE_DOCUMENT_BYTES_MAX:
                raise Refusal(
                    "E-FLEET-DOCUMENTS",
                    f"The {role} for {each.place} has {each.length} bytes; it travels in the "
                    f"device's own order, where {DEVICE_DOCUMENT_BYTES_MAX} fit. "
                    "Say for the class what is the same for many.",
                )
    of_sites = sum(each.length for p, each in listed.items() if p.level is Level.SITE)
    if of_sites > SITE_DOCUMENTS_BYTES_MAX:
        raise Refusal(
            "E-FLEET-DOCUMENTS",
            f"All {role} documents of sites together have {of_sites} bytes; in the one message "
            f"of a class there is room for {SITE_DOCUMENTS_BYTES_MAX}. "
            "Say for the class what is the same for many.",
        )


def _read(role: str, listed: Listed, contents: Mapping[str, bytes]) -> FleetDocument:
    content = content_of(listed, contents)
    if content is None:
        raise Refusal(
            "E-DOCUMENT-MISSING", f"The {role} for {listed.place} is not in the submission."
        )
    document = PARSERS[role].parse(content)
    about = document.metadata
    if Place(role, about.level, about.target) != listed.place:
        raise Refusal(
            "E-PATH", f"The {role} for {about.level} {about.target} is listed for {listed.place}."
        )
    return document


def _require_target(place: Place, has_target: KnownTarget) -> None:
    if not has_target(place.level, place.target):
        raise Refusal(
            "E-FLEET-TARGET",
            f"There is no {place.level} {place.target}: nobody would ever read it. "
            "Check its name; make the class, site or device known first.",
        )


def _require_no_rollback(
    listed: Listed, document: FleetDocument, history: Iterable[Earlier]
) -> None:
    """Devices refuse the same."""
    name, version = document.metadata.name, document.metadata.version
    for each in history:
        if each.version == version and each.digest != listed.digest:
            raise Refusal(
                "E-IMMUTABLE",
                f"Version {version} for {listed.place} was signed with other contents; "
                "versions never change.",
            )
        if is_older((listed.epoch, version), (each.epoch, each.version)):
            raise Refusal(
                "E-FLEET-ROLLBACK",
                f"{name} {version} for {listed.place} is older than {each.version}, which was "
                "accepted before. Going back is signed as such: "
                f"`mailboat {listed.place.role} rollback`.",
            )
