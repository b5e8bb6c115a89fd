"""What a device accepted in an earlier life, compared with what its disk says of it now."""

from collections.abc import Iterable, Mapping

from mailboat_agent.trust.trust_store import TrustStore, Verified
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.errors import MailboatError, TrustRefused
from mailboat_schemas.trust import newer_timestamp

TIMESTAMP = "timestamp.json"


def newer_in_bundle(
    trust: TrustStore, held: Mapping[str, bytes], bundle: ManifestBundle, models: Iterable[str]
) -> Verified | None:
    """The metadata that the kept manifest brought, if the set on the disk is an older one.

    A manifest is kept only after its metadata was, so an older set is a copy that somebody put
    there, or that a file system brought back; it may vouch for what was withdrawn since. The
    timestamps are compared first: to verify a whole bundle is not for every start.
    """
    ours, theirs = held.get(TIMESTAMP), bundle.trust.get(TIMESTAMP)
    if ours is None or theirs is None or newer_timestamp(ours, theirs) is ours:
        return None
    try:
        verified = trust.verify(bundle.trust, models)
    except MailboatError:
        return None
    return verified if verified.is_news else None


def gone() -> TrustRefused:
    return TrustRefused(
        "The trust metadata on this device is gone.",
        next_step="nothing, if the next manifest repairs it; otherwise look at the disk.",
    )


def older() -> TrustRefused:
    return TrustRefused(
        "The trust metadata on this device was older than the manifest it had accepted.",
        next_step="nothing: the manifest brought the newer; find out who put the older one there.",
    )
