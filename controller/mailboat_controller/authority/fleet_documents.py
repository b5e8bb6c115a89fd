"""The next version of the ``config`` or ``policy`` role, unsigned: one place with another document,
or with none.
"""

from collections.abc import Mapping
from datetime import datetime

from tuf.api.metadata import TargetFile, Targets

from mailboat_controller.authority import roles
from mailboat_controller.authority.changes import read_metadata
from mailboat_controller.authority.pending import Pending
from mailboat_schemas.errors import Conflict, NotFound
from mailboat_schemas.fleet_documents import Listed, Place, listed_in


def listed(held: Mapping[str, bytes], role: str) -> dict[Place, Listed]:
    """What a role lists now.

    Args:
        held: the newest signed bytes of ``root``, ``targets`` and of the role.
    """
    return listed_in(role, _targets(held[role], role))


def put(held: Mapping[str, bytes], document: Listed, now: datetime) -> Pending:
    """
    Raises:
        Conflict: it is listed like this already.
    """
    role, path = document.place.role, document.place.path
    targets = dict(_targets(held[role], role).targets)
    if listed(held, role).get(document.place) == document:
        raise Conflict(
            f"This very {role} holds for {document.place} already.",
            next_step="nothing; raise its version if it should say something else.",
        )
    return _pending(held, role, {**targets, path: document.target()}, now)


def take_away(held: Mapping[str, bytes], place: Place, now: datetime) -> Pending:
    """
    Raises:
        NotFound: nothing is listed there.
    """
    targets = dict(_targets(held[place.role], place.role).targets)
    if targets.pop(place.path, None) is None:
        raise NotFound(
            f"No {place.role} holds for {place}.",
            next_step=f"`mailboat {place.role} list` shows those there are.",
        )
    return _pending(held, place.role, targets, now)


def _pending(
    held: Mapping[str, bytes], role: str, targets: Mapping[str, TargetFile], now: datetime
) -> Pending:
    following = roles.next_version(held[role], targets, now, roles.valid_for(role))
    return Pending.of({name: held[name] for name in ("root", "targets", role)}, {role: following})


def _targets(content: bytes, role: str) -> Targets:
    signed: Targets = read_metadata(role, content).signed
    return signed
