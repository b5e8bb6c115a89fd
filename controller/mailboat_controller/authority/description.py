"""What a new version of a role changes, in sentences: for whoever is asked to sign it."""

from collections.abc import Iterator, Mapping

from securesystemslib.signer import Key
from tuf.api.metadata import Role, Root, Targets

from mailboat_controller.authority.public_keys import label_of, labels


def describe(role: str, old: Root | Targets | None, new: Root | Targets) -> Iterator[str]:
    """The version and its life first, then every difference."""
    until = f"valid until {new.expires:%Y-%m-%d}"
    if old is None:
        yield f"{role} begins with version {new.version}, {until}."
    else:
        yield f"{role} version {old.version} becomes {new.version}, {until}."
    before, after = quorums_of(old), quorums_of(new)
    for name in sorted(before.keys() | after.keys()):
        yield from _role_changes(name, before.get(name), after.get(name))
    if isinstance(new, Targets):
        yield from _listed(old, new)


def _role_changes(
    name: str,
    before: tuple[Role, Mapping[str, Key]] | None,
    after: tuple[Role, Mapping[str, Key]] | None,
) -> Iterator[str]:
    if after is None:
        yield f"Nobody may sign {name} any more."
        return
    role, keys = after
    if before is None:
        yield f"{role.threshold} of {labels(keys.values())} may sign {name} from now on."
        return
    old_role, old_keys = before
    for keyid in sorted(keys.keys() - old_keys.keys()):
        yield f"{label_of(keys[keyid])} may sign {name} from now on."
    for keyid in sorted(old_keys.keys() - keys.keys()):
        yield f"{label_of(old_keys[keyid])} may not sign {name} any more."
    for keyid in sorted(keys.keys() & old_keys.keys()):
        if label_of(keys[keyid]) != label_of(old_keys[keyid]):
            yield f"{label_of(old_keys[keyid])} is called {label_of(keys[keyid])} from now on."
    if (old_role.threshold, len(old_keys)) != (role.threshold, len(keys)):
        yield (
            f"{name} takes {role.threshold} of {len(keys)} keys, "
            f"it took {old_role.threshold} of {len(old_keys)}."
        )
    if getattr(old_role, "paths", None) != getattr(role, "paths", None):
        yield f"{name} may list other paths than before: {getattr(role, 'paths', None)}."


def _listed(old: Root | Targets | None, new: Targets) -> Iterator[str]:
    before = old.targets if isinstance(old, Targets) else {}
    for path in sorted(before.keys() | new.targets.keys()):
        if path not in before:
            yield f"{path} is listed."
        elif path not in new.targets:
            yield f"{path} is listed no more."
        elif before[path] != new.targets[path]:
            yield f"{path} is listed with other contents or another plan."


def quorums_of(signed: Root | Targets | None) -> dict[str, tuple[Role, Mapping[str, Key]]]:
    """Whom it lets sign what: role to its quorum and keys."""
    named: Mapping[str, Role] = {}
    keys: Mapping[str, Key] = {}
    if isinstance(signed, Root):
        named, keys = signed.roles, signed.keys
    elif signed is not None and signed.delegations is not None:
        named, keys = signed.delegations.roles or {}, signed.delegations.keys
    return {
        name: (role, {keyid: keys[keyid] for keyid in role.keyids if keyid in keys})
        for name, role in named.items()
    }
