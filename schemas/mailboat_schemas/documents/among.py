"""Which documents of a manifest bundle are releases: the fleet's own travel among them."""

from collections.abc import Mapping

from mailboat_schemas.documents.fleet_document import is_fleet_document
from mailboat_schemas.documents.release import ReleaseDocument


def releases_among(documents: Mapping[str, bytes]) -> dict[str, ReleaseDocument]:
    """By digest, as the bundle names them; no digest is checked here.

    Raises:
        PayloadTooLarge, MalformedPayload: a release's document that does not hold.
    """
    return {
        digest: ReleaseDocument.parse(content)
        for digest, content in documents.items()
        if not is_fleet_document(content)
    }
