"""A change on its way between the people who must sign it: one JSON file, no network.

```text
{"mailboat_pending": 1,
 "changes": ["root version 1 becomes 2, …"],      in words; worked out again wherever it is read
 "missing": ["root: 1 more of root 2 (8f…), …"],  likewise
 "held":  {"root": …, "targets": …},              what the change builds on, signed
 "roles": {"root": …}}                            the next versions, with the signatures so far
```
The words in the file are for whoever opens it in an editor. Commands compute them from the
metadata that gets signed, and refuse a file whose words say something else.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError

from mailboat_controller.authority import roles
from mailboat_controller.authority.changes import TOP_LEVEL, read_metadata
from mailboat_controller.authority.description import describe, quorums_of
from mailboat_controller.authority.public_keys import label_of, labels
from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    Conflict,
    MalformedPayload,
    NotPermitted,
    TrustRefused,
)

FORMAT = 1
PENDING_BYTES_MAX = 8 << 20  # every role of a large fleet; the largest single one has 2 MiB
ROLES_MAX = 64


class PendingEdited(TrustRefused):
    """A pending file was changed by something else than these commands."""

    code = "E-PENDING-EDITED"


class KeyNotNamed(NotPermitted):
    """A key that no role of the change lets sign."""

    code = "E-KEY-NOT-NAMED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """Who must sign one role: ``threshold`` of ``keys``. A new root has two: its old, its new."""

    role: str
    whose: str  # "new" or "old" for roots, otherwise empty
    threshold: int
    keys: Mapping[str, Key]
    signed: frozenset[str]  # ids of those whose signature holds

    @property
    def missing(self) -> int:
        return max(0, self.threshold - len(self.signed))

    def sentence(self) -> str:
        name = f"{self.role} ({self.whose} keys)" if self.whose else self.role
        others = labels(key for keyid, key in self.keys.items() if keyid not in self.signed)
        return f"{name}: {self.missing} more of {others}"


@dataclass(slots=True)
class Pending:
    """``held``: what the change builds on; ``roles``: what is to be signed."""

    held: dict[str, Metadata[Any]]
    roles: dict[str, Metadata[Any]]

    @classmethod
    def of(cls, held: Mapping[str, bytes], changed: Mapping[str, Root | Targets]) -> Self:
        """A new pending change, unsigned. Of what is held only what the signers need is kept."""
        needed = {"root", "targets", *changed} & held.keys()
        return cls(
            held={role: read_metadata(role, held[role]) for role in sorted(needed)},
            roles={role: Metadata(signed) for role, signed in sorted(changed.items())},
        )

    def changes(self) -> list[str]:
        """What would change, in sentences."""
        return [
            sentence
            for role, metadata in self.roles.items()
            for sentence in describe(
                role, self.held[role].signed if role in self.held else None, metadata.signed
            )
        ]

    def quorums(self) -> list[str]:
        """Who may sign what afterwards, in full: nothing can hide among what did not change."""
        return [
            f"{name}: {role.threshold} of {labels(keys.values())}"
            for metadata in self.roles.values()
            for name, (role, keys) in quorums_of(metadata.signed).items()
        ]

    def require_root(self, trusted: bytes) -> None:
        """Whether the file builds on the root that the signer knows.

        Raises:
            PendingEdited: it builds on another one, whatever its words say.
        """
        known = read_metadata("root", trusted)
        held = self.held.get("root")
        if held is None or held.signed_bytes != known.signed_bytes:
            raise PendingEdited(
                f"The file does not build on the root you named, version {known.signed.version}.",
                next_step="fetch the newest root yourself; if the file still differs, find out "
                "who made it, and sign nothing.",
            )

    def requirements(self) -> list[Requirement]:
        """
        Raises:
            PendingEdited: the file has no delegation for one of its roles.
        """
        return [each for role in self.roles for each in self._requirements_of(role)]

    def missing(self) -> list[str]:
        return [each.sentence() for each in self.requirements() if each.missing]

    def signers(self) -> list[str]:
        """Whose signatures are there and hold."""
        found = {keyid: each.keys[keyid] for each in self.requirements() for keyid in each.signed}
        return sorted(label_of(key) for key in found.values())

    def sign(self, signer: Signer) -> list[str]:
        """Add one key's signature to every role that it may sign; returns their names.

        Raises:
            PendingEdited: what is there already does not belong together.
            KeyNotNamed: no role names this key. Conflict: it has signed already.
        """
        self.require_whole()
        keyid = signer.public_key.keyid
        may = [each for each in self.requirements() if keyid in each.keys]
        if not may:
            raise KeyNotNamed(
                f"Key {keyid[:8]} may sign none of {', '.join(self.roles)}.",
                next_step="sign with a key that `mailboat trust show` lists as missing.",
            )
        todo = sorted({each.role for each in may if keyid not in each.signed})
        if not todo:
            raise Conflict(
                f"Key {label_of(may[0].keys[keyid])} has signed this already; it counts once.",
                next_step="another key must sign: `mailboat trust show` lists those missing.",
            )
        for role in todo:
            self.roles[role].sign(signer, append=True)
        return todo

    def require_whole(self) -> None:
        """
        Raises:
            PendingEdited: a signature is not over what stands here, or of a key nobody named.
        """
        for role in ("root", "targets"):
            if role in self.held:
                self._require_held(role)
        for role, metadata in self.roles.items():
            held = {keyid for each in self._requirements_of(role) for keyid in each.signed}
            strange = metadata.signatures.keys() - held
            if strange:
                raise PendingEdited(
                    f"The signature of key {min(strange)[:8]} is not over this {role} role: it "
                    "was changed after somebody had signed it.",
                    next_step="ask whoever made the request for the file, and who changed it; "
                    "sign nothing until that is clear.",
                )

    def _require_held(self, role: str) -> None:
        held, root = self.held[role], self.held["root"]
        if not root.signed.get_verification_result(role, held.signed_bytes, held.signatures):
            raise PendingEdited(
                f"The {role} role that the file builds on is not signed as it must be.",
                next_step="ask whoever made the request for the file, and sign nothing.",
            )

    def submission(self) -> dict[str, bytes]:
        """The signed bytes of every role.

        Raises:
            PendingEdited: see `require_whole`. ConfigurationInvalid: signatures are missing.
        """
        self.require_whole()
        missing = self.missing()
        if missing:
            raise ConfigurationInvalid(
                f"Signatures are missing. {'. '.join(missing)}.",
                next_step="let those sign with `mailboat trust sign`, then submit.",
            )
        return {role: metadata.to_bytes(roles.SERIALIZER) for role, metadata in self.roles.items()}

    def _requirements_of(self, role: str) -> Iterator[Requirement]:
        if role == "root":
            if role not in self.held:
                raise _no_signers(role, "the old root is not in it")
            yield self._requirement(role, self.held[role].signed, "old")
            yield self._requirement(role, self.roles[role].signed, "new")
            return
        name = "root" if role in TOP_LEVEL else "targets"
        delegator = self.roles.get(name) or self.held.get(name)
        if delegator is None:
            raise _no_signers(role, f"{name} is not in it")
        yield self._requirement(role, delegator.signed, "")

    def _requirement(self, role: str, delegator: Root | Targets, whose: str) -> Requirement:
        metadata = self.roles[role]
        try:
            named = delegator.get_delegated_role(role)
            keys = {keyid: delegator.get_key(keyid) for keyid in named.keyids}
            result = delegator.get_verification_result(
                role, metadata.signed_bytes, metadata.signatures
            )
        except (ValueError, RepositoryError) as error:
            raise _no_signers(role, str(error)) from error
        return Requirement(
            role=role,
            whose=whose,
            threshold=named.threshold,
            keys=keys,
            signed=frozenset(result.signed),
        )


def write_pending(path: Path, pending: Pending) -> None:
    """
    Raises:
        ConfigurationInvalid: the file cannot be written.
    """
    content = {
        "mailboat_pending": FORMAT,
        "changes": pending.changes(),
        "missing": pending.missing(),
        "held": {role: metadata.to_dict() for role, metadata in pending.held.items()},
        "roles": {role: metadata.to_dict() for role, metadata in pending.roles.items()},
    }
    try:
        replace_durably(path, json.dumps(content, indent=1).encode() + b"\n", mode=PUBLIC_MODE)
    except OSError as error:
        raise ConfigurationInvalid(
            f"{path} cannot be written: {error.strerror}.", next_step="name another file."
        ) from error


def read_pending(path: Path) -> Pending:
    """
    Raises:
        ConfigurationInvalid: the file cannot be read.
        MalformedPayload: it is too large, or not a pending change.
        PendingEdited: its words are not those of its metadata, or a signature does not hold.
    """
    try:
        with path.open("rb") as file:
            content = file.read(PENDING_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationInvalid(
            f"{path} cannot be read: {error.strerror}.", next_step="check the path."
        ) from error
    if len(content) > PENDING_BYTES_MAX:
        raise _malformed(path, f"over {PENDING_BYTES_MAX} bytes")
    try:
        parsed = json.loads(content)
        known = parsed["mailboat_pending"] == FORMAT and 0 < len(parsed["roles"]) <= ROLES_MAX
        pending = Pending(held=_metadata(parsed["held"]), roles=_metadata(parsed["roles"]))
        said = list(parsed["changes"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _malformed(path, "not a pending change") from error
    if not known:
        raise _malformed(path, "of another format, or has too many roles")
    if said != pending.changes():
        raise PendingEdited(
            f"What {path} says in words is not what its metadata would do.",
            next_step="ask whoever made the request for the file; sign nothing until it is clear.",
        )
    pending.require_whole()
    return pending


def _metadata(content: Mapping[str, Any]) -> dict[str, Metadata[Any]]:
    found: dict[str, Metadata[Any]] = {}
    for role, part in content.items():
        try:
            encoded = json.dumps(part, allow_nan=False).encode()
            found[role] = read_metadata(role, encoded)
        except (DeserializationError, MalformedPayload) as error:
            raise ValueError(str(error)) from error
    return found


def _no_signers(role: str, problem: str) -> PendingEdited:
    return PendingEdited(
        f"The file does not say who may sign {role}: {problem}.",
        next_step="ask whoever made the request for the file again.",
    )


def _malformed(path: Path, problem: str) -> MalformedPayload:
    return MalformedPayload(
        f"{path} is {problem}.",
        next_step="make the request again with `mailboat trust`, or copy the file again.",
    )
