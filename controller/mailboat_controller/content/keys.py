"""Keys of encrypted releases: taken from publishers, kept wrapped, given to devices wrapped.

Nothing here, and no route, gives a content key to a person or a pipeline. A device is given the key
of a release that its class is told about and that is still approved, wrapped to the key of the
certificate it asks with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mailboat_controller.config import ControllerSettings
from mailboat_controller.content.kek import KekUnusable, KeyEncryptionKey, open_kek
from mailboat_controller.store import audit, content_keys, devices, manifests, trust_roles
from mailboat_controller.store.content_keys import ContentKeyRow
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import held_trust
from mailboat_controller.trust.held_trust import HeldTrust
from mailboat_schemas.codec import decode
from mailboat_schemas.content_key import (
    CONTENT_KEY_BYTES,
    WrappedContentKey,
    device_key_id,
    require_key,
    require_length,
    wrap_to_device,
)
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.documents.among import releases_among
from mailboat_schemas.errors import ArtifactMissing, Conflict, NotPermitted

CONTENT_KEYS_MAX = 100_000  # a release a minute for two months; about 20 MB
KEK_FILE = "content-keys/kek"  # in the data directory


class ContentKeyMissing(ArtifactMissing):
    """Nobody has handed this key over (yet)."""

    code = "E-CONTENT-KEY-MISSING"


class ContentKeyNotAssigned(NotPermitted):
    """A device asks for the key of a release that is not for it, or not any more."""

    code = "E-CONTENT-KEY-NOT-ASSIGNED"


@dataclass(frozen=True, slots=True)
class _Told:
    """A release that a class is told about, and the content keys of that class's variant."""

    model: str
    version: str
    digest: str
    keys: frozenset[str]


class ContentKeys:
    def __init__(
        self, store: Store, kek: KeyEncryptionKey, fleet: str, *, named: bool = False
    ) -> None:
        """Args: named: the key-encryption key is one that an operator brought, so it must exist."""
        self._store = store
        self._kek = kek
        self._named = named
        self._fleet = fleet
        self._told: dict[str, tuple[str, tuple[_Told, ...]]] = {}  # by class, with the etag read
        self._held: tuple[Mapping[str, int], HeldTrust] | None = None

    @classmethod
    def of(cls, settings: ControllerSettings, store: Store) -> "ContentKeys":
        """
        Raises:
            ConfigurationInvalid: the setting content_kek is not one.
        """
        kek = open_kek(settings.content_kek, settings.data_dir / KEK_FILE)
        return cls(store, kek, settings.fleet, named=bool(settings.content_kek))

    def check(self) -> None:
        """Whether what is kept here can be opened, by opening the newest of it.

        Raises:
            KekUnusable: it cannot, or the key-encryption key that an operator named is not there.
        """
        with self._store.read() as tx:
            row = content_keys.newest(tx)
        if row is not None:
            self._open(row)
        elif self._named:
            self._kek.wrap(bytes(CONTENT_KEY_BYTES), self._binding("check"))

    def _open(self, row: ContentKeyRow) -> bytes:
        if row.kek != self._kek.id():
            raise KekUnusable(f"key {row.key_id} is wrapped under another one, {row.kek}")
        return require_length(self._kek.unwrap(row.wrapped, self._binding(row.key_id)))

    def take(self, key_id: str, key: bytes, *, actor: str, now: datetime) -> bool:
        """Keep a key; False if it was here already, so that it may be handed over again.

        Raises:
            WrongContentKey: the id is not the one of this key.
            Conflict: no room for more keys. KekUnusable: it cannot be wrapped now.
        """
        require_key(key_id, key)
        with self._store.transaction() as tx:
            if content_keys.has(tx, key_id):
                return False
            held = content_keys.count(tx)
            if held >= CONTENT_KEYS_MAX:
                raise Conflict(
                    f"There are {held} content keys here already.",
                    next_step="release several versions with one key: --content-key.",
                )
            if held == 0:  # later a missing file is a lost one, and another would not open these
                self._kek.make_if_ours()
            wrapped = self._kek.wrap(key, self._binding(key_id))
            content_keys.add(
                tx, key_id, wrapped=wrapped, kek=self._kek.id(), handed_over_by=actor, at=now
            )
            audit.append(
                tx,
                at=now,
                actor=actor,
                action="content-key.take",
                subject=key_id,
                reason="handed in for the releases that are encrypted with it",
            )
        return True

    def give(
        self, key_id: str, device: str, public_key: bytes, *, now: datetime
    ) -> WrappedContentKey:
        """The key for one device.

        Args:
            public_key: of the certificate that the device asks with (SubjectPublicKeyInfo, DER).

        Raises:
            ContentKeyNotAssigned: no release its class is told about has it, or none in force.
            ContentKeyMissing: nobody handed it over yet. KekUnusable: it cannot be opened now.
        """
        to = load_der_public_key(public_key)
        if not isinstance(to, ec.EllipticCurvePublicKey):
            raise _not_assigned(key_id, device, "its key is not a P-256 key")
        device_key = device_key_id(to)
        # Nothing slow while we are the writer: a device may ask a hundred times a second, a token
        # takes its time, and everybody's events wait for the writer.
        with self._store.read() as tx:
            self._require_assigned(tx, key_id, device)
            row = content_keys.find(tx, key_id)
            noted = content_keys.is_granted(tx, key_id, device=device, device_key=device_key)
        if row is None:
            raise missing_content_key(key_id)
        key = self._open(row)
        if not noted:
            self._note(key_id, device, device_key, now)
        wrapped = wrap_to_device(key, to, fleet=self._fleet, device=device)
        return WrappedContentKey.of(key_id, device_key, wrapped)

    def _note(self, key_id: str, device: str, device_key: str, now: datetime) -> None:
        """Who is given which key is written down before it is given."""
        with self._store.transaction() as tx:
            _refuse_revoked(devices.get(tx, device), key_id)  # a token may have taken seconds
            if content_keys.grant(tx, key_id, device=device, device_key=device_key, at=now):
                audit.append(
                    tx,
                    at=now,
                    actor=f"device:{device}",
                    action="content-key.give",
                    subject=key_id,
                    reason="a release that its class is told about is encrypted with it",
                    details={"device": device, "device_key": device_key},
                )

    def _require_assigned(self, tx: Transaction, key_id: str, device: str) -> None:
        known = devices.get(tx, device)
        _refuse_revoked(known, key_id)
        told = self._told_to(tx, known.hardware_class)
        having = [release for release in told if key_id in release.keys]
        if not having:
            because = f"no release of class {known.hardware_class} has it"
            raise _not_assigned(key_id, device, because)
        trust = self._trust(tx)
        if not any(trust.approved(each.model, each.version, each.digest) for each in having):
            raise _not_assigned(key_id, device, "its release is not approved any more")

    def _trust(self, tx: Transaction) -> HeldTrust:
        """Verified once for each state of the metadata: whoever asks often must not cost us that.
        A version of a role never changes, so versions say which state it is."""
        versions = trust_roles.versions(tx)
        held = self._held
        if held is None or held[0] != versions:
            held = self._held = (versions, held_trust.read(tx))
        return held[1]

    def _told_to(self, tx: Transaction, hardware_class: str) -> tuple[_Told, ...]:
        """From the newest manifest of a class, which is read once for the whole class."""
        row = manifests.of_class(tx, hardware_class)
        if row is None:
            return ()
        etag, told = self._told.get(hardware_class, ("", ()))
        if etag != row.etag:
            told = _read(hardware_class, row.bundle)
            self._told[hardware_class] = (row.etag, told)
        return told

    def _binding(self, key_id: str) -> bytes:
        return f"mailboat/content-key/1 kept {self._fleet} {key_id}".encode()


def _read(hardware_class: str, bundle: bytes) -> tuple[_Told, ...]:
    """What the manifest of a class says about encrypted releases."""
    documents = decode(ManifestBundle, bundle).documents
    parsed = releases_among(documents)
    return tuple(
        _Told(each.model, each.version, digest, keys)
        for digest, each in parsed.items()
        if (variant := each.variant_for(hardware_class)) and (keys := variant.content_keys)
    )


def _refuse_revoked(device: DeviceRow, key_id: str) -> None:
    """Since the door was passed."""
    if device.revoked:
        raise _not_assigned(key_id, device.device, "it is revoked")


def missing_content_key(key_id: str) -> ContentKeyMissing:
    return ContentKeyMissing(
        f"The content key {key_id} has not been handed over.",
        next_step="run `mailboat content-key put BUILD` where the release was built; "
        "devices try again by themselves.",
    )


def _not_assigned(key_id: str, device: str, because: str) -> ContentKeyNotAssigned:
    return ContentKeyNotAssigned(
        f"The content key {key_id} is not given to device {device}: {because}.",
        next_step="nothing, if the release was withdrawn; else see what its class is told with "
        "`mailboat device show`.",
    )
