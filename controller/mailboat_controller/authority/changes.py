"""What to change about keys and roles, drafted as the next unsigned versions.

A `Draft` builds on the roles that are in force. Whatever follows from a change is drafted with it:
when a role's keys change so far that its newest signatures count no more, the same contents are
drafted again for the new keys, so that no role is ever left without a signature.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Role, Root, Targets

from mailboat_controller.authority import roles
from mailboat_controller.authority.public_keys import labels
from mailboat_schemas.errors import ConfigurationInvalid, Conflict, MalformedPayload, NotFound
from mailboat_schemas.names import is_label
from mailboat_schemas.trust import DIRECTOR_ROLE, approval_role, release_role

KEYS_PER_ROLE_MAX = 16
KEYID_PREFIX_CHARS_MIN = 8
TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")
# One signature makes a desired state, and the device asks for no more.
SINGLE_KEY_ROLES = (DIRECTOR_ROLE,)


@dataclass
class Draft:
    """The next versions of some roles. ``held`` are the newest signed bytes, the root's too."""

    held: Mapping[str, bytes]
    now: datetime
    changed: dict[str, Root | Targets] = field(default_factory=dict)

    def root(self) -> Root:
        """The following root, made on the first call."""
        found = self._next("root")
        assert isinstance(found, Root)  # noqa: S101  `read_role` saw to it
        return found

    def targets(self) -> Targets:
        found = self._next("targets")
        assert isinstance(found, Targets)  # noqa: S101
        return found

    def keys_of(self, role: str) -> dict[str, Key]:
        """Of a role as the draft would have it, by id.

        Raises:
            NotFound: there is no such role.
        """
        delegator = self.delegator(role)
        keyids = delegator.get_delegated_role(role).keyids
        return {keyid: delegator.get_key(keyid) for keyid in keyids}

    def threshold_of(self, role: str) -> int:
        threshold: int = self.delegator(role).get_delegated_role(role).threshold
        return threshold

    def delegator(self, role: str) -> Root | Targets:
        """Who names the keys of a role: as drafted, or as held."""
        name = "root" if role in TOP_LEVEL else "targets"
        found = self.changed.get(name) or read_role(name, self.held[name])
        try:
            found.get_delegated_role(role)
        except ValueError:
            raise NotFound(
                f"There is no role {role}.",
                next_step="`mailboat trust status` lists the roles; `mailboat trust add-model` "
                "makes those of a model.",
            ) from None
        return found

    def set_keys(self, role: str, keys: Sequence[Key], threshold: int | None = None) -> None:
        """Let these keys, and no others, sign a role from now on.

        Raises:
            NotFound: no such role. ConfigurationInvalid: a quorum that cannot be.
        """
        self.delegator(role)
        threshold = self.threshold_of(role) if threshold is None else threshold
        _require_quorum(role, keys, threshold)
        named = self.delegator(role).get_delegated_role(role)
        if {key.keyid for key in keys} == set(named.keyids) and threshold == named.threshold:
            return
        if role in TOP_LEVEL:
            root = self.root()
            root.roles[role] = Role([key.keyid for key in keys], threshold)
            root.keys.update({key.keyid: key for key in keys})
            wanted = {keyid for each in root.roles.values() for keyid in each.keyids}
            root.keys = {keyid: key for keyid, key in root.keys.items() if keyid in wanted}
            return
        targets = self.targets()
        roles.delegate(targets, role, keys, threshold)
        _forget_unused(targets)

    def add_model(
        self,
        model: str,
        *,
        release_keys: Sequence[Key],
        approval_keys: Sequence[Key],
        threshold: int,
    ) -> None:
        """Delegate to the two roles of a model that is new, and draft their empty version 1.

        Raises:
            ConfigurationInvalid: not a name, or a quorum that cannot be. Conflict: it is there.
        """
        if not is_label(model):
            raise ConfigurationInvalid(
                f"{model!r} cannot be a model name.",
                next_step="use lower-case letters, digits and inner hyphens.",
            )
        targets = self.targets()
        wanted = (
            (release_role(model), release_keys, 1),
            (approval_role(model), approval_keys, threshold),
        )
        for role, keys, needed in wanted:
            if role in self.held or role in _delegated(targets):
                raise Conflict(
                    f"There is a role {role} already.",
                    next_step="change its keys with `mailboat trust add-key` or `rotate`.",
                )
            _require_quorum(role, keys, needed)
            roles.delegate(targets, role, keys, needed)
            self.changed[role] = roles.empty_role(self.now, roles.valid_for(role))

    def renew(self, role: str) -> None:
        """The same contents with a later expiry.

        Raises:
            NotFound: no such role. ConfigurationInvalid: the controller signs it by itself.
        """
        if role in ("snapshot", "timestamp", DIRECTOR_ROLE):
            raise ConfigurationInvalid(
                f"Nobody renews {role} by hand.",
                next_step="the controller signs with it by itself; see that it runs.",
            )
        self.delegator(role)
        self._next(role)

    def finish(self) -> dict[str, Root | Targets]:
        """Everything drafted, with the roles that have to be signed again because of it.

        Raises:
            ConfigurationInvalid: nothing would change.
        """
        for role in sorted(self.held.keys() - {"root", "snapshot", "timestamp"}):
            if role not in self.changed and not self._still_signed(role):
                self._next(role)
        if not self.changed:
            raise ConfigurationInvalid("Nothing would change.", next_step="look at the options.")
        return dict(self.changed)

    def _still_signed(self, role: str) -> bool:
        metadata = read_metadata(role, self.held[role])
        try:
            delegator = self.delegator(role)
        except NotFound:
            return True  # a role that nobody delegates to has no signature to lose
        return bool(
            delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        )

    def _next(self, role: str) -> Root | Targets:
        if role not in self.changed:
            if role not in self.held:
                raise NotFound(
                    f"There is no {role} role to build on.",
                    next_step="name the directory with all roles, or ask the controller.",
                )
            signed = read_role(role, self.held[role])
            roles.move_on(signed, self.now, roles.valid_for(role))
            self.changed[role] = signed
        return self.changed[role]


def add_key(draft: Draft, role: str, key: Key, threshold: int | None = None) -> None:
    """
    Raises:
        Conflict: the role has it already. ConfigurationInvalid: the quorum cannot be.
    """
    keys = draft.keys_of(role)
    if key.keyid in keys:
        raise Conflict(f"{labels([key])} may sign {role} already.", next_step="nothing to do.")
    draft.set_keys(role, [*keys.values(), key], threshold)


def remove_key(draft: Draft, role: str, keyid: str, threshold: int | None = None) -> None:
    """Take one key from a role, named by its id or the beginning of it.

    Raises:
        NotFound: the role has no such key. ConfigurationInvalid: too short, or too few would stay.
    """
    if len(keyid) < KEYID_PREFIX_CHARS_MIN:
        raise ConfigurationInvalid(
            f"{keyid!r} is too short for the id of a key.",
            next_step=f"write at least its first {KEYID_PREFIX_CHARS_MIN} characters.",
        )
    keys = draft.keys_of(role)
    found = [each for each in keys if each.startswith(keyid)]
    if len(found) != 1:
        raise NotFound(
            f"Role {role} has no such key; it has {labels(keys.values())}.",
            next_step="`mailboat trust status --json` lists the keys of every role.",
        )
    draft.set_keys(role, [key for each, key in keys.items() if each != found[0]], threshold)


def read_role(role: str, content: bytes) -> Root | Targets:
    """What the signed bytes of a role say; nothing is verified.

    Raises:
        MalformedPayload: not TUF metadata of that role's type.
    """
    signed = read_metadata(role, content).signed
    assert isinstance(signed, Root | Targets)  # noqa: S101  `read_metadata` saw to it
    return signed


def read_metadata(role: str, content: bytes) -> Metadata[Any]:
    """
    Raises:
        MalformedPayload: not TUF metadata of that role's type.
    """
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(content)
        _ = metadata.signed_bytes  # JSON with numbers that have no canonical form gets this far
    except (RepositoryError, ValueError, RecursionError) as error:
        raise _malformed(role, "not TUF metadata") from error
    # from_bytes reads whatever type of role the bytes claim to be.
    if not isinstance(metadata.signed, Root if role == "root" else Targets):
        raise _malformed(role, f"of type {metadata.signed.type}")
    return metadata


def _malformed(role: str, problem: str) -> MalformedPayload:
    return MalformedPayload(
        f"The {role} role is {problem}.",
        next_step="fetch it again from the controller or the ceremony's directory.",
    )


def _delegated(targets: Targets) -> Mapping[str, Any]:
    delegations = targets.delegations
    return {} if delegations is None else delegations.roles or {}


def _forget_unused(targets: Targets) -> None:
    """Only the keys that some role names stay: what is gone is gone."""
    if targets.delegations is not None:
        wanted = {keyid for each in _delegated(targets).values() for keyid in each.keyids}
        keys = targets.delegations.keys
        targets.delegations.keys = {keyid: keys[keyid] for keyid in keys if keyid in wanted}


def _require_quorum(role: str, keys: Iterable[Key], threshold: int) -> None:
    keyids = [key.keyid for key in keys]
    if len(set(keyids)) != len(keyids):
        raise ConfigurationInvalid(
            f"A key is named twice for {role}.", next_step="name every key once."
        )
    most = 1 if role in SINGLE_KEY_ROLES else KEYS_PER_ROLE_MAX
    if not 1 <= threshold <= len(keyids) <= most:
        raise ConfigurationInvalid(
            f"{threshold} of {len(keyids)} keys cannot be the quorum of {role}.",
            next_step=f"name 1 to {most} keys and a threshold that they can meet; "
            "--threshold sets it.",
        )
