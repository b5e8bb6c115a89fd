"""The deltas in what each class is told: those of the releases that it is told to run."""

from collections.abc import Iterable
from dataclasses import replace

from mailboat_controller.delta_builds.offering import deltas_for
from mailboat_controller.delta_builds.targets import targets_of
from mailboat_controller.delta_builds.wanted import memory_of
from mailboat_controller.releases.publication import ClassWish
from mailboat_controller.store import classes, deltas, releases
from mailboat_controller.store.transaction import Transaction


def with_deltas(tx: Transaction, wishes: Iterable[ClassWish]) -> tuple[ClassWish, ...]:
    """A release that is withdrawn, or whose offer ended, takes its deltas along."""
    wishes = tuple(wishes)
    offered = deltas.offered(tx)
    if not offered:
        return wishes
    budgets = {each.metadata.name: each.spec.memory_budget for each in classes.every(tx)}
    return tuple(
        replace(
            wish,
            deltas=deltas_for(
                offered,
                hardware_class=wish.hardware_class,
                memory_bytes_max=memory_of(budgets[wish.hardware_class]),
                files=_files(tx, wish),
            ),
        )
        for wish in wishes
    )


def _files(tx: Transaction, wish: ClassWish) -> frozenset[str]:
    """Digests of the files that devices of the class may have to fetch."""
    found: set[str] = set()
    for target in targets_of(wish):
        row = releases.by_digest(tx, target.release)
        variant = None if row is None else row.parsed().variant_for(wish.hardware_class)
        if variant is not None:
            found |= {file.sha256 for file in variant.files if file.sealed is None}
    return frozenset(found)
