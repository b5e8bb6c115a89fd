"""Config and Policy documents as people sign them, and as a class is brought them.

The roles list them by place; a manifest brings the documents themselves. A signature is the name of
a key here as everywhere in the simulator, so the listing stands for a verified role.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import cast

from mailboat_schemas.documents.fleet_document import FleetDocument, document_digest
from mailboat_schemas.fleet_documents import CONFIG_ROLE, POLICY_ROLE, Listed, Place
from mailboat_schemas.overlays import places_of
from mailboat_schemas.signed_policy import NO_POLICY, SignedPolicy, signed_policy
from mailboat_schemas.trust import TrustView

_READ_AT_ONCE = 64  # policies of classes and sites; a fleet asks for the same ones again and again


@dataclass(frozen=True)
class _Targets:
    """The part of a TUF role that is read."""

    targets: Mapping[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class SignedDocuments:
    """Compared by identity: whoever signs makes another one.

    ``content`` has the bytes by digest, also of documents that are listed no more.
    """

    listed: Mapping[Place, Listed] = field(default_factory=lambda: MappingProxyType({}))
    content: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))

    def with_document(self, role: str, document: FleetDocument, epoch: int) -> "SignedDocuments":
        """With this one in the place that it is for."""
        about, content = document.metadata, document.canonical_bytes()
        place, digest = Place(role, about.level, about.target), document_digest(content)
        listed = Listed(place=place, digest=digest, length=len(content), epoch=epoch)
        return SignedDocuments({**self.listed, place: listed}, {**self.content, digest: content})

    def without(self, place: Place) -> "SignedDocuments":
        listed = {each: one for each, one in self.listed.items() if each != place}
        return SignedDocuments(listed, self.content)

    def delegated(self, role: str) -> _Targets | None:
        """As `TrustView.delegated`."""
        found = {p.path: one.target() for p, one in self.listed.items() if p.role == role}
        return _Targets(found) if found else None

    def config_for(self, hardware_class: str, site: str, device: str) -> dict[Place, Listed]:
        """As `overlays.documents.FleetDocuments.listed`."""
        places = places_of(CONFIG_ROLE, hardware_class=hardware_class, site=site, device=device)
        return {place: self.listed[place] for place in places if place in self.listed}

    def brought(self) -> Mapping[str, bytes]:
        """What travels beside a manifest: what is listed now."""
        digests: Iterable[str] = {one.digest for one in self.listed.values()}
        return {digest: self.content[digest] for digest in sorted(digests)}


NO_DOCUMENTS = SignedDocuments()


class Brought:
    """The documents that came with one manifest. Compared by identity."""

    __slots__ = ("documents",)

    def __init__(self, documents: Mapping[str, bytes]) -> None:
        self.documents = documents


NOTHING_BROUGHT = Brought({})


@lru_cache(maxsize=_READ_AT_ONCE)
def policy_for(
    signed: SignedDocuments, brought: Brought, hardware_class: str, site: str
) -> SignedPolicy:
    """As `device_rules.policy_of`."""
    if not any(place.role == POLICY_ROLE for place in signed.listed):
        return NO_POLICY
    view = cast("TrustView", signed)
    return signed_policy(view, brought.documents, hardware_class=hardware_class, site=site)
