"""Verification: TUF metadata out of a bundle, and what it says about a release.

python-tuf's ``Updater`` does the work (root chain, thresholds, expiry, rollback, freeze,
mix-and-match) over an in-memory fetcher that reads the bundle. Bytes in, bytes out: the caller
hands in the metadata files it holds and gets back the files to hold from now on; making them
durable is the caller's business. Only ``scratch`` is written, and it may be thrown away.

Source: The Update Framework specification 1.0.34, section 5 (client workflow).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from mailboat_schemas.codec import decode
from mailboat_schemas.desired import DesiredState, ManifestBundle
from mailboat_schemas.envelope import Envelope, PayloadType
from mailboat_schemas.errors import RootChainGap, SignatureInvalid, WrongClass, WrongFleet
from mailboat_schemas.names import approval_path, release_path
from mailboat_schemas.plan import Plan
from mailboat_schemas.trust_refusals import Scene, refusals, refuse_root_gap

DIRECTOR_ROLE = "director"
POLICY_ROLE, CONFIG_ROLE = "policy", "config"
FLEET_ROLES = (
    POLICY_ROLE,
    CONFIG_ROLE,
)  # documents for a class, a site or a device: fleet_documents.py
ROOT_ROTATIONS_MAX = 256  # from the factory root on, in all; each costs about a millisecond
ROLE_BYTES_MAX = 2 << 20
_ROOT_HISTORY = "root_history/"
_BASE = "mem:/"

HeldFiles = Mapping[str, bytes]  # by path below the metadata directory, as python-tuf lays it out


def release_role(model: str) -> str:
    return f"release-{model}"


def approval_role(model: str) -> str:
    return f"approval-{model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the newest verified metadata says about one release."""

    model: str
    version: str
    released_digest: str | None  # by the release role; None: it does not list it
    approved_digest: str | None  # by the approval role; None: not approved, or withdrawn
    plan: Plan | None

    def may_serve(self, digest: str) -> bool:
        """Withdrawn means absent from the approval role, and only that."""
        return self.approved_digest == digest

    def may_install(self, digest: str) -> bool:
        return self.approved_digest == digest and self.released_digest == digest


class _BundleFetcher(FetcherInterface):
    """Answers the updater from the bundle; what is not there does not exist."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(_BASE)
        self._scene.asked = name
        if name not in self._scene.offered:
            raise exceptions.DownloadHTTPError(f"The bundle has no {name}", 404)
        yield self._scene.offered[name]


class TrustView:
    """Verified metadata files, read without regard to their age.

    Every read goes through ``verify_delegate`` from the factory root down, so files that changed on
    disk are found out; expiry gates installs (see `accept_trust`), never serving.
    """

    def __init__(self, factory_root: bytes, held: HeldFiles) -> None:
        """
        Raises:
            TrustRefused: a file does not verify against the chain from the factory root.
        """
        self._delegated: dict[str, Targets | None] = {}  # verified once: the bytes are these
        with refusals():
            self._held = held
            self.root = _walk_roots(factory_root, held)
            self._versions = {"root": self.root.signed.version}
            for role in ("timestamp", "snapshot"):
                if f"{role}.json" in held:
                    self._read_top(role)
            targets = held.get("targets.json")
            self.targets = None if targets is None else self._read_targets(targets)

    def _read_top(self, role: str) -> None:
        content = self._held[f"{role}.json"]
        kind = Metadata[Timestamp] if role == "timestamp" else Metadata[Snapshot]
        metadata = kind.from_bytes(content)
        self.root.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        self._versions[role] = metadata.signed.version

    def _read_targets(self, content: bytes) -> Targets:
        metadata: Metadata[Targets] = Metadata[Targets].from_bytes(content)
        self.root.signed.verify_delegate("targets", metadata.signed_bytes, metadata.signatures)
        self._versions["targets"] = metadata.signed.version
        return metadata.signed

    def versions(self) -> dict[str, int]:
        """Highest accepted version of each top-level role."""
        return dict(self._versions)

    def roles(self) -> tuple[str, ...]:
        """Names of all delegated roles."""
        if self.targets is None or self.targets.delegations is None:
            return ()
        return tuple(self.targets.delegations.roles or ())

    def delegated(self, role: str) -> Targets | None:
        """One delegated role's verified metadata, or None when it is not held.

        Raises:
            TrustRefused: it is not signed by its delegation's threshold of keys.
        """
        if role not in self._delegated:
            self._delegated[role] = self._read_delegated(role)
        return self._delegated[role]

    def _read_delegated(self, role: str) -> Targets | None:
        content = self._held.get(f"{role}.json")
        if content is None or self.targets is None:
            return None
        with refusals():
            metadata: Metadata[Targets] = Metadata[Targets].from_bytes(content)
            self.targets.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        return metadata.signed

    def standing(self, model: str, version: str) -> Standing:
        released = self._target(release_role(model), release_path(model, version))
        approved = self._target(approval_role(model), approval_path(model, version))
        # Of two lengths the release role's counts for nothing: CI alone can withdraw no release.
        same = released is None or approved is None or released.length == approved.length
        return Standing(
            model=model,
            version=version,
            released_digest=_sha256(released) if same else None,
            approved_digest=_sha256(approved),
            plan=None if approved is None else Plan.from_custom(approved.custom),
        )

    def _target(self, role: str, path: str) -> TargetFile | None:
        metadata = self.delegated(role)
        return None if metadata is None else metadata.targets.get(path)

    def open_from_director(self, envelope: Envelope, payload_type: str) -> bytes:
        """The payload of an envelope that the director delegation signed.

        Raises:
            SignatureInvalid: no such delegation, another payload type, or no valid signature.
        """
        if self.targets is not None and envelope.payload_type == payload_type:
            try:
                signatures = dict(envelope.tuf_signatures())
                self.targets.verify_delegate(DIRECTOR_ROLE, envelope.pae(), signatures)
            except (exceptions.UnsignedMetadataError, ValueError):
                pass
            else:
                return envelope.payload
        raise SignatureInvalid(
            "The desired state is not signed by the controller key this trust root names.",
            next_step="if the director key was rotated, publish the new targets role first; "
            "otherwise somebody else writes to the manifest topic.",
        )


def accept_trust(
    offered: Mapping[str, bytes],
    *,
    factory_root: bytes,
    held: HeldFiles,
    models: Iterable[str],
    scratch: Path,
) -> dict[str, bytes]:
    """Run the TUF client workflow over offered metadata; returns the files to hold from now on.

    Args:
        offered: metadata by file name (``timestamp.json``, ``7.snapshot.json``, …).
        held: what an earlier call returned, or nothing on a new device.
        models: whose release and approval roles must be present and current. The roles of
            `FLEET_ROLES` must be present where targets delegates to them.
        scratch: an empty directory for python-tuf to work in.

    Raises:
        TrustStale: something has expired.
        TrustRefused: it does not hold; its leaves say which attack that would be.
    """
    for name, content in held.items():
        path = scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    config = UpdaterConfig(
        max_root_rotations=ROOT_ROTATIONS_MAX,
        targets_max_length=ROLE_BYTES_MAX,
        snapshot_max_length=ROLE_BYTES_MAX,
    )
    scene = Scene(offered=offered, scratch=scratch)
    with refusals(scene):
        updater = Updater(
            str(scratch),
            _BASE,
            fetcher=_BundleFetcher(scene),
            config=config,
            bootstrap=factory_root,
        )
        updater.refresh()
        for model in sorted(set(models)):
            # Any path of the role makes the updater load it; whether it is listed is asked later.
            updater.get_targetinfo(release_path(model, "0.0.0"))
            updater.get_targetinfo(approval_path(model, "0.0.0"))
        for role in FLEET_ROLES:
            # One that has expired brings nothing new, and keeps no release or withdrawal away.
            try:
                updater.get_targetinfo(f"{role}/none")
            except exceptions.ExpiredMetadataError:
                _keep_the_newest_policy(role, scene)
    refuse_root_gap(scene)
    return {
        str(path.relative_to(scratch)): path.read_bytes()
        for path in sorted(scratch.rglob("*.json"))
        if path.is_file() and not path.is_symlink()
    }


def open_desired(
    bundle: ManifestBundle, view: TrustView, *, fleet: str, hardware_class: str
) -> DesiredState:
    """The bundle's desired state, once the director's signature over its bytes held.

    Raises:
        SignatureInvalid: not signed by the director.
        MalformedPayload: signed, but unreadable by this version.
        WrongFleet, WrongClass: meant for somebody else, whatever topic brought it.
    """
    payload = view.open_from_director(decode(Envelope, bundle.desired), PayloadType.DESIRED_STATE)
    desired = decode(DesiredState, payload)
    for kind, meant, ours in (
        (WrongFleet, desired.fleet, fleet),
        (WrongClass, desired.hardware_class, hardware_class),
    ):
        if meant != ours:
            raise kind(
                f"This desired state is for {meant}, this device is of {ours}.",
                next_step="look at who publishes on this class's manifest topic.",
            )
    return desired


def _keep_the_newest_policy(role: str, scene: Scene) -> None:
    """Of the policy an older version would let in what the newest holds back, and its documents
    come no more. python-tuf looks at the expiry last: signatures, and the version that the
    snapshot names, have held by then.
    """
    if role == POLICY_ROLE and scene.role == role and scene.content is not None:
        (scene.scratch / f"{role}.json").write_bytes(scene.content)


def newer_timestamp(offered: bytes, fresh: bytes) -> bytes:
    """Whichever of two timestamp files claims the higher version; the updater verifies it after.

    A retained bundle keeps the timestamp it was published with while the fresh one advances daily.
    """
    try:
        old: Metadata[Timestamp] = Metadata[Timestamp].from_bytes(offered)
        new: Metadata[Timestamp] = Metadata[Timestamp].from_bytes(fresh)
    except DeserializationError:
        return offered
    return fresh if new.signed.version > old.signed.version else offered


def expires_at(view_files: HeldFiles) -> datetime | None:
    """When the held timestamp role expires: from then on nothing new is accepted."""
    content = view_files.get("timestamp.json")
    if content is None:
        return None
    with refusals():
        metadata: Metadata[Timestamp] = Metadata[Timestamp].from_bytes(content)
    return metadata.signed.expires


def _walk_roots(factory_root: bytes, held: HeldFiles) -> Metadata[Root]:
    current: Metadata[Root] = Metadata[Root].from_bytes(factory_root)
    while True:
        content = held.get(f"{_ROOT_HISTORY}{current.signed.version + 1}.root.json")
        if content is None:
            return current
        following: Metadata[Root] = Metadata[Root].from_bytes(content)
        for signer in (current.signed, following.signed):
            signer.verify_delegate("root", following.signed_bytes, following.signatures)
        if following.signed.version != current.signed.version + 1:
            raise RootChainGap(
                f"Root {following.signed.version} stands where {current.signed.version + 1} must.",
                next_step="nothing, if the next manifest repairs it; otherwise look at the disk.",
            )
        current = following


def _sha256(target: TargetFile | None) -> str | None:
    return None if target is None else target.hashes.get("sha256")
