"""Documents that people sign for a class, a site or a device: what the roles list of them.

Each of the delegated roles ``config`` and ``policy`` lists one document for a place, as a TUF
target ``config/class.kiosk-x86.json`` with length and sha256. The role travels in the bundle of
every class; the documents of the class and of sites beside it, those of a device in its own order.
What the role lists is what holds: a document that it lists no more is withdrawn.

``epoch`` orders documents of one place before their version does. It goes up when people sign an
older version on purpose, and only then: without that mark a lower version is refused everywhere.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tuf.api.metadata import Metadata, TargetFile, Targets

from mailboat_schemas.documents.fleet_document import Level, document_digest, version_order
from mailboat_schemas.errors import MailboatError, SignatureInvalid
from mailboat_schemas.names import DIGEST_PATTERN, is_label
from mailboat_schemas.trust import FLEET_ROLES, TrustView

CONFIG_ROLE, POLICY_ROLE = "config", "policy"
EPOCH_KEY = "mailboat_epoch"
EPOCH_MAX = 1 << 20  # rollbacks of one place

_PATH = re.compile(r"(config|policy)/(class|site|device)\.([a-z0-9-]{1,63})\.json")
_DIGEST = re.compile(DIGEST_PATTERN)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Whom a document of a role is for: its name in the TUF name space."""

    role: str
    level: Level
    target: str

    @property
    def path(self) -> str:
        return f"{self.role}/{self.level}.{self.target}.json"

    def __str__(self) -> str:
        return f"{self.level} {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    place: Place
    digest: str
    length: int  # bytes
    epoch: int = 0

    def target(self) -> TargetFile:
        """As it is signed."""
        custom = {"custom": {EPOCH_KEY: self.epoch}} if self.epoch else {}
        return TargetFile(self.length, {"sha256": self.digest}, self.place.path, custom)


def place_of(path: str) -> Place | None:
    found = _PATH.fullmatch(path)
    if found is None or not is_label(found[3]):
        return None
    return Place(found[1], Level(found[2]), found[3])


def listed_in(role: str, targets: Targets) -> dict[Place, Listed]:
    """What a verified role lists.

    Raises:
        SignatureInvalid: signed, but no device could use it: a strange path, no sha256, no epoch.
    """
    found: dict[Place, Listed] = {}
    for path, target in targets.targets.items():
        place, digest = place_of(path), target.hashes.get("sha256", "")
        epoch = _epoch(target.custom)
        if place is None or place.role != role or not _DIGEST.fullmatch(digest) or epoch is None:
            raise SignatureInvalid(
                f"Role {role} lists {path[:120]!r}, which is no document of a place.",
                next_step=f"sign it again with `mailboat {role} approve`.",
            )
        found[place] = Listed(place=place, digest=digest, length=target.length, epoch=epoch)
    return found


def listed_in_bytes(role: str, content: bytes) -> dict[Place, Listed]:
    """As `listed_in`, for the bytes of a role that were verified before."""
    return listed_in(role, Metadata[Targets].from_bytes(content).signed)


def listed_by(view: TrustView | None, role: str) -> dict[Place, Listed]:
    """What the newest verified metadata lists; nothing where the role is not held.

    Raises:
        TrustRefused: the role does not verify.
    """
    targets = None if view is None else view.delegated(role)
    return {} if targets is None else listed_in(role, targets)


def content_of(listed: Listed, documents: Mapping[str, bytes]) -> bytes | None:
    """The document's bytes, if they are there and are what the role lists; otherwise None."""
    content = documents.get(listed.digest)
    if content is None or len(content) != listed.length:
        return None
    return content if document_digest(content) == listed.digest else None


def brings_more(view: TrustView, new: Mapping[str, bytes], old: Mapping[str, bytes]) -> bool:
    """Whether ``new`` has every document of ``old`` that a role lists, and another one besides."""
    listed: list[Listed] = []
    for role in FLEET_ROLES:
        with suppress(MailboatError):  # nothing of it could be gone by
            listed += listed_by(view, role).values()
    here, before = (
        {each.digest for each in listed if content_of(each, brought) is not None}
        for brought in (new, old)
    )
    return here > before


def is_older(one: tuple[int, str], other: tuple[int, str]) -> bool:
    """Of two documents of one place as (epoch, version): whether the first may not follow the
    second."""
    return (one[0], version_order(one[1])) < (other[0], version_order(other[1]))


def _epoch(custom: Any) -> int | None:
    epoch = custom.get(EPOCH_KEY, 0) if isinstance(custom, dict) else 0
    valid = isinstance(epoch, int) and not isinstance(epoch, bool) and 0 <= epoch <= EPOCH_MAX
    return epoch if valid else None
