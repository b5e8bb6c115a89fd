"""What of a device's files is kept: as `what_is_kept` names them where there is room enough."""

from collections.abc import Mapping
from operator import is_
from typing import TYPE_CHECKING

from mailboat_agent.update.keeping import gives_way
from mailboat_agent.update.situation import Known
from mailboat_agent.update.state import ModelState
from mailboat_controller.simulate.releases import SimulatedRelease
from mailboat_schemas.desired import Assignment
from mailboat_schemas.reports import ModelPhase

if TYPE_CHECKING:
    from mailboat_controller.simulate.device import SimulatedDevice


def collect(device: "SimulatedDevice", tidy: tuple[object, ...]) -> tuple[object, ...]:
    """Take away what is not needed, unless things stand as when that was done last, ``tidy``."""
    state = device.state
    if device.work.download.digest or state.phase not in (ModelPhase.COMMITTED, ModelPhase.ABSENT):
        return tidy
    seen = (device.record, device.manifest, device.roles, device.disk.held)
    if tidy and all(map(is_, seen, tidy)):
        return tidy
    assignment = None if device.manifest is None else device.manifest.assignment
    known, releases = device.roles.known, device.around.releases
    device.disk.keep_only(files_to_keep(state, assignment, known, releases))
    return (device.record, device.manifest, device.roles, device.disk.held)


def files_to_keep(
    state: ModelState,
    assignment: Assignment | None,
    known: Mapping[str, Known],
    releases: Mapping[str, SimulatedRelease],
) -> frozenset[str]:
    """Of all releases that the record or the assignment names, and of what these fall back to; of
    what gives way only what may serve."""
    named = {each.digest for each in (state.active, *state.predecessors) if each}
    for may_go in gives_way(state):
        standing = known[may_go.digest].standing if may_go.digest in known else None
        if standing is None or not standing.may_serve(may_go.digest):
            named.discard(may_go.digest)
    if assignment is not None:
        named |= {ref.digest for ref in (assignment.current, *assignment.kept) if ref}
        if assignment.offer is not None:
            named.add(assignment.offer.release.digest)
    declared = {releases[digest].document.fallback for digest in named} - {None}
    if declared:
        named |= {digest for digest, one in known.items() if one.standing.version in declared}
    return frozenset().union(*(releases[digest].files for digest in named))
