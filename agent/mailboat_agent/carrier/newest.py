"""The carried timestamp, unless the device has heard of a newer one."""

from mailboat_agent.trust.trust_store import TrustStore
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.desired import FreshTimestamp
from mailboat_schemas.errors import TrustRefused
from mailboat_schemas.trust import newer_timestamp

_TIMESTAMP = "timestamp.json"


def with_newest_timestamp(trust: TrustStore, carried: bytes) -> bytes:
    """A `FreshTimestamp` to go with the carried manifest. What a stick brings may be days old: its
    releases are not worse for that, but a device goes back to no older timestamp.

    Raises:
        MalformedPayload: it is none.
    """
    fresh = decode(FreshTimestamp, carried)
    try:
        held = trust.held().get(_TIMESTAMP)
    except TrustRefused:  # damaged; what comes now repairs it
        held = None
    if held is None:
        return carried
    newest = newer_timestamp(held, fresh.timestamp)
    return encode(fresh.model_copy(update={"timestamp": newest}))
