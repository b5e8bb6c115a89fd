"""What a desired state names, and how it counts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from mailboat_schemas.codec import decode
from mailboat_schemas.desired import Assignment, DesiredState, ManifestBundle, ReleaseRef
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.trust import DIRECTOR_ROLE, TrustView


@dataclass(frozen=True, slots=True)
class Counter:
    """The newest counter accepted, and the director key whose counter it is."""

    value: int
    director_keyid: str

    def is_behind(self, held: Self | None) -> bool:
        """A director with a new key counts anew."""
        if held is None or self.director_keyid != held.director_keyid:
            return False
        return self.value < held.value


def named_digests(assignments: Iterable[Assignment]) -> set[str]:
    """The release documents that assignments name."""
    refs: list[ReleaseRef | None] = []
    for each in assignments:
        refs += [each.current, None if each.offer is None else each.offer.release, *each.kept]
    return {ref.digest for ref in refs if ref is not None}


def models_claimed(bundle: ManifestBundle) -> set[str]:
    """The models a desired state names, before its signature is checked: which roles to load.

    The signature is checked against the director of the new targets role, so that has to be
    accepted first. A lie here only loads more, or fewer, roles that prove themselves.
    """
    desired = decode(DesiredState, decode(Envelope, bundle.desired).payload)
    return {assignment.model for assignment in desired.assignments}


def director_keyid(view: TrustView) -> str:
    delegations = None if view.targets is None else view.targets.delegations
    roles = {} if delegations is None else delegations.roles or {}
    return min(roles[DIRECTOR_ROLE].keyids, default="") if DIRECTOR_ROLE in roles else ""
