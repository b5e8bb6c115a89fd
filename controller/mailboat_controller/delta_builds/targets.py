"""Which releases deltas are for: those that a class is told to run. Pure."""

from collections.abc import Iterator

from mailboat_controller.delta_builds.wanted import Target
from mailboat_controller.releases.publication import ClassWish


def targets_of(wish: ClassWish) -> Iterator[Target]:
    """The releases that a class is told to run, each with the one before it."""
    for assignment in wish.assignments:
        current, offer = assignment.current, assignment.offer
        previous = wish.previous.get(assignment.model)
        if current is not None:
            yield Target(
                hardware_class=wish.hardware_class,
                release=current.digest,
                predecessor=None if previous is None else previous.digest,
            )
        if offer is not None:
            yield Target(
                hardware_class=wish.hardware_class,
                release=offer.release.digest,
                predecessor=None if current is None else current.digest,
            )
