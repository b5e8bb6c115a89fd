"""What Config and Policy documents have in common: whom they are for, their version, their bytes.

People write YAML (`apiVersion`, `kind`, `metadata`, `spec`). What is signed is the canonical JSON
of the same; its sha256 stands in the ``config`` or ``policy`` role, under a path that says whom it
is for (`fleet_documents.Place`). One document holds for one place; a newer one replaces it.
"""

import hashlib
import json
from collections import Counter
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, StringConstraints, ValidationError

from mailboat_schemas.documents.document import Document, Strict
from mailboat_schemas.errors import MalformedPayload, PayloadTooLarge
from mailboat_schemas.names import Label

# Three numbers and nothing behind them: documents have no pre-releases, so that a range such as
# ``>=6,<7`` leaves no room for two readings.
PLAIN_VERSION_PATTERN = r"^(?:0|[1-9][0-9]{0,8})\.(?:0|[1-9][0-9]{0,8})\.(?:0|[1-9][0-9]{0,8})$"

# Context of the validation of signed bytes: what the writer was asked is not asked again.
SIGNED = {"signed": True}

PlainVersion = Annotated[str, StringConstraints(pattern=PLAIN_VERSION_PATTERN)]


class Level(StrEnum):
    """Whom a document is for, from the many to the one."""

    CLASS = "class"
    SITE = "site"
    DEVICE = "device"


class FleetMetadata(Strict):
    name: Label
    version: PlainVersion
    level: Level = Level.CLASS
    target: Label = Field(description="the class, site or device it is for")
    description: str = Field(default="", max_length=1000)


class FleetDocument(Document):
    """Base of `ConfigDocument` and `PolicyDocument`. Read signed bytes with `parse`."""

    bytes_max: ClassVar[int] = 64 * 1024

    kind: str
    metadata: FleetMetadata

    def canonical_bytes(self) -> bytes:
        """The bytes that are hashed and signed: sorted keys, no spaces, ASCII, one newline.

        What is not given stays out, so that later fields leave the digest of older documents be.
        """
        content = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        content |= {"apiVersion": self.api_version, "kind": self.kind}
        content["metadata"]["level"] = self.metadata.level.value
        return canonical_json(content)

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read a document whose bytes have been verified already.

        Raises:
            PayloadTooLarge: over ``bytes_max``.
            MalformedPayload: not JSON, a name twice in one object, or not such a document.
        """
        if len(content) > cls.bytes_max:
            raise PayloadTooLarge(f"{cls.__name__} document", len(content), cls.bytes_max)
        try:
            found = cls.model_validate(strict_json(content), context=SIGNED)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise malformed(f"{place[:200]}: {first['msg'][:200]}") from error
        if found.canonical_bytes() != content:
            raise malformed("it is not in canonical form")
        return found


def canonical_json(content: Any) -> bytes:
    """
    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.encode() + b"\n"


def strict_json(content: bytes) -> Any:
    """Without what JSON readers disagree about: duplicate names, NaN, infinities.

    Raises:
        MalformedPayload
    """
    try:
        return json.loads(content, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise malformed(str(error)[:200] or "nested too deeply") from error


def document_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def version_order(version: str) -> tuple[int, ...]:
    """Plain versions by size: 1.10.0 is above 1.9.0."""
    return tuple(int(part) for part in version.split("."))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = Counter(names).most_common(1)[0][0]
        raise ValueError(f"{twice[:80]!r} stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def malformed(problem: str) -> MalformedPayload:
    return MalformedPayload(
        f"The document does not hold: {problem}.",
        next_step="write it as YAML and sign it with `mailboat config approve` or "
        "`mailboat policy approve`, which make the canonical form.",
    )


def is_fleet_document(content: bytes) -> bool:
    """Whether it is one of these, and no release's: those name no ``apiVersion``.

    Both travel among the documents of a manifest bundle.
    """
    return content.startswith(b'{"apiVersion":')
