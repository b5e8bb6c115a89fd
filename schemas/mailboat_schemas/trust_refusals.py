"""Which attack it is that python-tuf refuses.

Its errors are few, so they are told apart by what was being looked at and by what those bytes are,
never by the wording of a message. Nothing here makes a refusal an acceptance: a diagnosis that
cannot be made is the branch itself, `TrustRefused`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Signed, Targets
from tuf.api.serialization import DeserializationError

from mailboat_schemas.errors import (
    MetadataMalformed,
    MetadataMissing,
    MetadataTooLarge,
    MixedMetadata,
    RollbackRefused,
    RootChainGap,
    SignatureInvalid,
    ThresholdNotMet,
    TrustRefused,
    TrustStale,
)

_FILE_NAME = re.compile(r"(?:(?P<version>[0-9]{1,18})\.)?(?P<role>[^.]+)\.json")
_TOP_LEVEL = frozenset({"timestamp", "snapshot", "targets"})


@dataclass(slots=True)
class Scene:
    """What the updater works with. ``asked`` is the file of the bundle it looked at last."""

    offered: Mapping[str, bytes]
    scratch: Path
    asked: str = ""

    @property
    def content(self) -> bytes | None:
        return self.offered.get(self.asked)

    @property
    def role(self) -> str:
        found = _FILE_NAME.fullmatch(self.asked)
        return "" if found is None else found["role"]

    @property
    def version(self) -> int | None:
        """Which version was asked for; None: whatever there is."""
        found = _FILE_NAME.fullmatch(self.asked)
        return None if found is None or found["version"] is None else int(found["version"])


@contextmanager
def refusals(scene: Scene | None = None) -> Iterator[None]:
    """Turns python-tuf's errors into ours, by what the caller does next and by cause."""
    try:
        yield
    except exceptions.ExpiredMetadataError as error:
        raise TrustStale(
            f"Trust metadata has expired: {error}.",
            next_step="check the device's clock and that the controller signs its timestamp "
            "daily; the device keeps serving what it has.",
        ) from error
    except (
        exceptions.RepositoryError,
        exceptions.DownloadError,
        DeserializationError,
        ValueError,
    ) as error:
        raise _named(error, scene) from error


def refuse_root_gap(scene: Scene) -> None:
    """Refuse a root that is not reached step by step from the one this device trusts.

    Raises:
        RootChainGap: the bundle has a root beyond the newest that its chain leads to.
    """
    offered = [_FILE_NAME.fullmatch(name) for name in scene.offered]
    versions = [int(each["version"]) for each in offered if each and each["role"] == "root"]
    trusted = _trusted_root(scene)
    if trusted is not None and max(versions, default=0) > trusted.version:
        raise _root_gap(f"the chain ends at {trusted.version}, {max(versions)} is offered")


def _named(error: Exception, scene: Scene | None) -> TrustRefused:
    match error:
        case exceptions.UnsignedMetadataError():
            return _unsigned(error, scene)
        case exceptions.BadVersionNumberError():
            return _bad_version(error, scene)
        case exceptions.LengthOrHashMismatchError():
            return _mixed(error)
        case exceptions.DownloadLengthMismatchError():
            return MetadataTooLarge(
                f"Trust metadata is over its bound: {_asked(scene)}: {error}.",
                next_step="look at who publishes; honest metadata never comes near this size.",
            )
        case exceptions.DownloadHTTPError():
            return MetadataMissing(
                f"Trust metadata is incomplete: {error}.",
                next_step="publish the complete set of roles again; if it was, somebody in "
                "between hides a part of it.",
            )
        case DeserializationError():
            return _unreadable(error, scene)
        case exceptions.RepositoryError() if scene is not None and scene.content is not None:
            return _left_out(error, scene)
    return TrustRefused(
        f"Trust metadata does not hold: {error}.",
        next_step="publish the complete set of roles again.",
    )


def _unsigned(error: Exception, scene: Scene | None) -> TrustRefused:
    if scene is not None and scene.role != "root":
        with suppress(RootChainGap):
            refuse_root_gap(scene)
            return _too_few(error, scene)
        return _root_gap("a later role is signed by keys of a root that is not in the chain")
    return _too_few(error, scene)


def _too_few(error: Exception, scene: Scene | None) -> SignatureInvalid:
    signed = 0 if scene is None else _valid_signatures(scene)
    kind = ThresholdNotMet if signed else SignatureInvalid
    return kind(
        f"Too few valid signatures: {error}.",
        next_step="sign with the keys the delegation names, or rotate the delegation.",
    )


def _valid_signatures(scene: Scene) -> int:
    """How many of the keys that may sign the file looked at have."""
    by_root = scene.role in _TOP_LEVEL | {"root"}
    delegator = _trusted_root(scene) if by_root else _trusted_targets(scene)
    offered = _parsed(scene.content)
    if delegator is None or offered is None:
        return 0
    with suppress(ValueError):
        result = delegator.get_verification_result(
            scene.role, offered.signed_bytes, offered.signatures
        )
        return len(result.signed)
    return 0


def _bad_version(error: Exception, scene: Scene | None) -> TrustRefused:
    if scene is not None and scene.role == "root":
        return _root_gap(str(error))
    if scene is not None and scene.version is not None:
        # A snapshot that is the one asked for, and refused, lists some role in an older version.
        is_itself = scene.version == _version_inside(scene.content)
        if scene.role != "snapshot" or not is_itself:
            return _mixed(error)
    return RollbackRefused(
        f"Trust metadata is older than what has been accepted: {error}.",
        next_step="look for a restored backup or an old retained message.",
    )


def _unreadable(error: Exception, scene: Scene | None) -> TrustRefused:
    if scene is not None and _signs_twice(scene.content):
        return ThresholdNotMet(
            f"One key signed {scene.asked} twice; it counts once.",
            next_step="sign with as many different keys as the delegation asks for.",
        )
    return MetadataMalformed(
        f"This is no trust metadata: {_asked(scene)}: {str(error)[:200]}.",
        next_step="publish the complete set of roles again.",
    )


def _signs_twice(content: bytes | None) -> bool:
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        keyids = [each["keyid"] for each in json.loads(content or b"{}")["signatures"]]
        return len(set(keyids)) < len(keyids)
    return False


def _left_out(error: Exception, scene: Scene) -> TrustRefused:
    """Of a well made snapshot only what it leaves out is refused; else it is another role's file.

    The updater asks for no further file when a snapshot does not list a delegated role at all.
    """
    kind = scene.role if scene.role in _TOP_LEVEL | {"root"} else "targets"
    metadata = _parsed(scene.content)
    if metadata is None or metadata.signed.type != kind:
        return _unreadable(error, scene)
    return MetadataMissing(
        f"A snapshot leaves out a role: {error}.",
        next_step="sign the snapshot with every role in it; entries are never removed.",
    )


def _mixed(error: Exception) -> MixedMetadata:
    return MixedMetadata(
        f"These roles do not go together: {error}.",
        next_step="publish one complete set again; if it was, somebody in between mixes "
        "messages of different days.",
    )


def _root_gap(problem: str) -> RootChainGap:
    return RootChainGap(
        f"The chain of roots has a gap: {problem}.",
        next_step="publish every root from the factory's on; each vouches for the next.",
    )


def _trusted_root(scene: Scene) -> Root | None:
    signed = _trusted(scene.scratch / "root.json")
    return signed if isinstance(signed, Root) else None


def _trusted_targets(scene: Scene) -> Targets | None:
    signed = _trusted(scene.scratch / "targets.json")
    return signed if isinstance(signed, Targets) else None


def _trusted(path: Path) -> Signed | None:
    """What the updater has verified and written so far."""
    with suppress(OSError):
        metadata = _parsed(path.read_bytes())
        if metadata is not None and isinstance(metadata.signed, Signed):
            return metadata.signed
    return None


def _parsed(content: bytes | None) -> Metadata[Any] | None:
    with suppress(ValueError, DeserializationError):
        return Metadata.from_bytes(content or b"")
    return None


def _version_inside(content: bytes | None) -> int | None:
    metadata = _parsed(content)
    return None if metadata is None else int(metadata.signed.version)


def _asked(scene: Scene | None) -> str:
    return "a file" if scene is None or not scene.asked else scene.asked
