"""Composing the one retained message of a class from held metadata, documents and a signed wish."""

from collections.abc import Iterable, Mapping

from tuf.api.metadata import Metadata, Root, Snapshot, Targets

from mailboat_schemas.codec import encode
from mailboat_schemas.desired import DOCUMENTS_MAX, ManifestBundle
from mailboat_schemas.errors import MalformedPayload, PayloadTooLarge


class TooManyDocuments(PayloadTooLarge):
    """Of releases, of a class and of sites together; what the class was told before stays."""

    def __init__(self, count: int) -> None:
        MalformedPayload.__init__(
            self,
            f"What a class is to be told needs {count} documents, at most {DOCUMENTS_MAX} fit.",
            next_step="say for the class what configs and policies of sites say alike, or take "
            "back those that nobody needs.",
        )


def compose_bundle(
    *,
    fleet: str,
    hardware_class: str,
    counter: int,
    roles: Mapping[str, bytes],
    roots: Iterable[bytes],
    documents: Mapping[str, bytes],
    desired: bytes,
) -> bytes:
    """The encoded `ManifestBundle`.

    Args:
        roles: newest bytes of every role but root, by role name.
        roots: the root chain; a device walks it from whatever root it left the factory with.
        documents: of releases, and of classes and sites, by digest.
        desired: the encoded envelope from `OnlineKeys.sign_desired`.

    Raises:
        PayloadTooLarge: the class has more metadata, or documents, than one message may carry.
    """
    if len(documents) > DOCUMENTS_MAX:
        raise TooManyDocuments(len(documents))
    trust = {trust_file_name(role, content): content for role, content in roles.items()}
    for content in roots:
        version = Metadata[Root].from_bytes(content).signed.version
        trust[f"{version}.root.json"] = content
    return encode(
        ManifestBundle(
            fleet=fleet,
            hardware_class=hardware_class,
            counter=counter,
            trust=trust,
            documents=dict(documents),
            desired=desired,
        )
    )


def trust_file_name(role: str, content: bytes) -> str:
    """The name python-tuf asks for: versioned (consistent snapshots), but for the timestamp."""
    if role == "timestamp":
        return "timestamp.json"
    kind = Metadata[Snapshot] if role == "snapshot" else Metadata[Targets]
    return f"{kind.from_bytes(content).signed.version}.{role}.json"
