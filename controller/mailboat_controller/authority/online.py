"""The controller's online keys: snapshot, timestamp, director. They assign, never approve."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from mailboat_controller.authority.keys import load_key
from mailboat_controller.authority.roles import (
    SNAPSHOT_VALID,
    expiry,
    make_timestamp,
    sign,
)
from mailboat_schemas.codec import encode
from mailboat_schemas.desired import DesiredState
from mailboat_schemas.envelope import (
    Envelope,
    EnvelopeSignature,
    PayloadType,
    pre_authentication_encoding,
)

ONLINE_ROLES = ("snapshot", "timestamp", "director")


@dataclass(frozen=True, slots=True)
class OnlineKeys:
    """Three Ed25519 signers, one a role."""

    snapshot: CryptoSigner
    timestamp: CryptoSigner
    director: CryptoSigner

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read ``snapshot.pem``, ``timestamp.pem`` and ``director.pem``.

        Raises:
            ConfigurationInvalid: one is missing or cannot be opened.
        """
        return cls(*(load_key(directory / f"{role}.pem") for role in ONLINE_ROLES))

    @property
    def director_keyid(self) -> str:
        keyid: str = self.director.public_key.keyid
        return keyid

    def sign_snapshot(
        self, previous: bytes, versions: Mapping[str, int], *, now: datetime
    ) -> bytes:
        """The following snapshot with these role versions. Entries are never removed, and a
        version never goes down: clients refuse both as a rollback."""
        snapshot = Metadata[Snapshot].from_bytes(previous).signed
        for role, version in versions.items():
            held = snapshot.meta.get(f"{role}.json")
            if held is not None and held.version > version:
                raise ValueError(f"{role} would go from version {held.version} to {version}")
            snapshot.meta[f"{role}.json"] = MetaFile(version=version)
        snapshot.version += 1
        snapshot.expires = expiry(now, SNAPSHOT_VALID)
        return sign(snapshot, [self.snapshot])

    def sign_timestamp(self, previous: bytes, snapshot: bytes, *, now: datetime) -> bytes:
        """The following timestamp, pinning this snapshot."""
        version = Metadata[Timestamp].from_bytes(previous).signed.version + 1
        return sign(make_timestamp(snapshot, version, now), [self.timestamp])

    def sign_desired(self, desired: DesiredState) -> bytes:
        """An encoded `Envelope` of the desired state, signed by the director key."""
        payload = encode(desired)
        kind = PayloadType.DESIRED_STATE
        signature = self.director.sign(pre_authentication_encoding(kind, payload))
        sealed = EnvelopeSignature(keyid=signature.keyid, sig=bytes.fromhex(signature.signature))
        return encode(Envelope(payload_type=kind, payload=payload, signatures=(sealed,)))
