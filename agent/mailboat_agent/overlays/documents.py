"""The signed documents that this device was brought: beside the manifest, and in its own order."""

from collections.abc import Mapping

from mailboat_agent.facts import Device
from mailboat_agent.trust.manifest import Manifest
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.documents.fleet_document import is_fleet_document
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.fleet_documents import Listed, Place, listed_by
from mailboat_schemas.overlays import places_of


class FleetDocuments:
    """Read again only when a bundle or an order has come."""

    def __init__(self, manifest: Manifest, device: Device) -> None:
        self._manifest = manifest
        self._device = device
        self._seen: tuple[object, ...] = ()
        self._brought: Mapping[str, bytes] = {}

    def token(self) -> tuple[object, ...]:
        """Another one after whatever may change what is listed or brought. Compare by identity."""
        return (self._manifest.view, self._manifest.payload, self._device.order)

    def listed(self, role: str) -> dict[Place, Listed]:
        """What a role lists for this device, in merge order.

        Raises:
            TrustRefused: the role does not verify.
        """
        listed = listed_by(self._manifest.view, role)
        device = self._device
        places = places_of(
            role, hardware_class=device.hardware_class, site=device.site, device=device.device
        )
        return {place: listed[place] for place in places if place in listed}

    def brought(self) -> Mapping[str, bytes]:
        """By the digest that they claim; `fleet_documents.content_of` says whether that is so."""
        token = self.token()
        if not same(token, self._seen):
            self._brought, self._seen = self._read(), token
        return self._brought

    def _read(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        try:
            if self._manifest.payload:
                brought = decode(ManifestBundle, self._manifest.payload).documents
                # Those of releases are kept on the disk; here they would only take up memory.
                found |= {d: each for d, each in brought.items() if is_fleet_document(each)}
        except MailboatError:
            pass  # it was taken once; what is lacking is told as lacking
        order = self._device.order
        return found if order is None else found | order.documents


def same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
