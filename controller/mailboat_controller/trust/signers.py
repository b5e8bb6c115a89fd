"""Whose signatures stand on a role: the keys its delegation names, with what people call them."""

from dataclasses import dataclass

from tuf.api.metadata import Metadata, Targets

from mailboat_controller.authority.public_keys import name_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBy:
    keyid: str
    name: str  # "" when nobody gave the key one


def signers_of(targets: bytes, role: str, content: bytes) -> tuple[SignedBy, ...]:
    """Of the keys that ``targets`` names for a role, those whose signature on ``content`` holds.

    Both must be metadata that has been verified, or read as such, before.
    """
    parent = Metadata[Targets].from_bytes(targets).signed
    metadata = Metadata[Targets].from_bytes(content)
    result = parent.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    signed = sorted(result.signed.items())
    return tuple(SignedBy(keyid=keyid, name=name_of(key)) for keyid, key in signed)
