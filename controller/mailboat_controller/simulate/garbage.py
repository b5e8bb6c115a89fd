"""What of a device's files is still needed: as `ModelView.keep_digests` names them."""

from collections.abc import Mapping

from mailboat_agent.update.situation import Known
from mailboat_agent.update.state import ModelState
from mailboat_controller.simulate.releases import SimulatedRelease
from mailboat_schemas.desired import Assignment


def files_to_keep(
    state: ModelState,
    assignment: Assignment | None,
    known: Mapping[str, Known],
    releases: Mapping[str, SimulatedRelease],
) -> frozenset[str]:
    """Of all releases that the record or the assignment names, and of what these fall back to."""
    named = {each.digest for each in (state.active, state.previous, state.spare) if each}
    if assignment is not None:
        named |= {ref.digest for ref in (assignment.current, *assignment.kept) if ref}
        if assignment.offer is not None:
            named.add(assignment.offer.release.digest)
    declared = {releases[digest].document.fallback for digest in named} - {None}
    if declared:
        named |= {digest for digest, one in known.items() if one.standing.version in declared}
    return frozenset().union(*(releases[digest].files for digest in named))
