"""A pending change, made again on the roles in force, because somebody else was faster.

What it does is worked out from what it builds on and what it would have signed: keys added, keys
taken away, thresholds, models begun, expiries put off. The same is then drafted anew, so that what
the other change did stays. Nobody's signature is carried over: what gets signed is something else.
"""

from collections.abc import Mapping
from datetime import datetime

from securesystemslib.signer import Key
from tuf.api.metadata import Role, Root, Targets

from mailboat_controller.authority.changes import Draft
from mailboat_controller.authority.description import quorums_of
from mailboat_controller.authority.pending import Pending
from mailboat_controller.authority.roles import APPROVAL_PREFIX, RELEASE_PREFIX
from mailboat_schemas.errors import Conflict
from mailboat_schemas.trust import approval_role, release_role

_Quorum = tuple[Role, Mapping[str, Key]]


def rebase(pending: Pending, held: Mapping[str, bytes], now: datetime) -> Draft:
    """
    Args:
        held: the newest signed bytes of every role, the root's too.

    Raises:
        Conflict: it changes what is released or approved, or begins a model that is there by now.
        NotFound, ConfigurationInvalid: it cannot be made on these roles, see `Draft`.
    """
    draft = Draft(held, now)
    for role in sorted(pending.roles, key=_delegators_first):
        new = pending.roles[role].signed
        old = pending.held[role].signed if role in pending.held else None
        _require_same_contents(role, old, new)
        if old is None:
            continue  # the first version of a role that targets begins to delegate to
        before, after = quorums_of(old), quorums_of(new)
        for name in sorted(before.keys() & after.keys()):
            _change_keys(draft, name, before[name], after[name])
        _add_models(draft, {name: after[name] for name in after.keys() - before.keys()})
        if _unchanged(before, after):
            draft.renew(role)
    return draft


def _delegators_first(role: str) -> tuple[int, str]:
    return {"root": 0, "targets": 1}.get(role, 2), role


def _require_same_contents(role: str, old: Root | Targets | None, new: Root | Targets) -> None:
    before = old.targets if isinstance(old, Targets) else {}
    if isinstance(new, Targets) and new.targets != before:
        raise Conflict(
            f"This changes what role {role} lists, which was decided on other grounds.",
            next_step="look at the release again and make the approval or withdrawal anew with "
            "`mailboat release`.",
        )


def _change_keys(draft: Draft, name: str, before: _Quorum, after: _Quorum) -> None:
    (old, old_keys), (new, new_keys) = before, after
    if set(old_keys) == set(new_keys) and old.threshold == new.threshold:
        return
    gone = old_keys.keys() - new_keys.keys()
    keys = {keyid: key for keyid, key in draft.keys_of(name).items() if keyid not in gone}
    keys |= {keyid: key for keyid, key in new_keys.items() if keyid not in old_keys}
    same = old.threshold == new.threshold
    draft.set_keys(name, list(keys.values()), draft.threshold_of(name) if same else new.threshold)


def _add_models(draft: Draft, begun: Mapping[str, _Quorum]) -> None:
    for name in sorted(begun):
        model = name.removeprefix(RELEASE_PREFIX)
        if name != release_role(model) or approval_role(model) not in begun:
            if name.startswith(APPROVAL_PREFIX):
                continue  # comes with its release role
            raise Conflict(
                f"This begins role {name}, which is not half of a model.",
                next_step="make the change again with `mailboat trust`.",
            )
        _, release_keys = begun[name]
        approval, approval_keys = begun[approval_role(model)]
        draft.add_model(
            model,
            release_keys=list(release_keys.values()),
            approval_keys=list(approval_keys.values()),
            threshold=approval.threshold,
        )


def _unchanged(before: Mapping[str, _Quorum], after: Mapping[str, _Quorum]) -> bool:
    """Whether it only puts off an expiry."""
    return {name: _told(each) for name, each in before.items()} == {
        name: _told(each) for name, each in after.items()
    }


def _told(quorum: _Quorum) -> tuple[int, frozenset[str]]:
    role, keys = quorum
    return role.threshold, frozenset(keys)
