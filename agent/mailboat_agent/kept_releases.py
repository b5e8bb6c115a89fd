"""What of the store is needed by whom, over all models: files are shared between releases."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailboat_agent.artifacts.giving_way import KeptRelease
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.model_view import ModelView
from mailboat_agent.trust.counter import named_digests
from mailboat_agent.trust.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """``needed`` are digests that stay whatever happens; ``gives_way`` are releases that stay while
    there is room, the first to go first."""

    needed: frozenset[str]
    gives_way: tuple[KeptRelease, ...]

    @property
    def all(self) -> frozenset[str]:
        return self.needed.union(*(each.files for each in self.gives_way))


def what_is_kept(manifest: Manifest, store: ReleaseStore, views: Iterable[ModelView]) -> Keeping:
    """Of the desired state, the record, and the patches of what is lacking."""
    views = list(views)
    desired = manifest.desired
    needed = set() if desired is None else named_digests(desired.assignments)
    deltas = manifest.offered_deltas().deltas
    needed |= {delta.patch for delta in deltas if not store.has(delta.target)}
    for view in views:
        needed |= view.needed_digests()
    return Keeping(needed=frozenset(needed), gives_way=tuple(_gives_way(views, needed)))


def _gives_way(views: Sequence[ModelView], needed: set[str]) -> Iterable[KeptRelease]:
    for view in views:
        for release, files in view.kept_releases().items():
            yield KeptRelease(model=view.model, version=release.version, files=files - needed)
