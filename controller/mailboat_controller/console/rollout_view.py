"""A rollout's counts as its page shows them: who is allowed in, who is exposed, and what is not
known. Pure; every row adds up to its devices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailboat_controller.releases.approval_review import wave_sentence
from mailboat_controller.rollout_look import RolloutLook

PLACES = ("ok", "failed", "in_progress", "waiting", "not_open")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """``devices == ok + failed + in_progress + waiting + not_open + excluded``.

    ``allowed``: let in by the open waves; ``exposed``: of those with any sign of the release.
    """

    name: str
    ok: int
    failed: int
    in_progress: int
    waiting: int
    not_open: int
    excluded: int
    reasons: Mapping[str, int]

    @property
    def devices(self) -> int:
        return self.ok + self.failed + self.unknown + self.not_open + self.excluded

    @property
    def unknown(self) -> int:
        """Without a verdict, let in or exposed: neither good nor bad."""
        return self.in_progress + self.waiting

    @property
    def allowed(self) -> int:
        return self.ok + self.failed + self.unknown

    @property
    def exposed(self) -> int:
        return self.ok + self.failed + self.in_progress

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """As a bar and its legend show them."""
        return (*((place, getattr(self, place)) for place in PLACES), ("excluded", self.excluded))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownWave:
    """``rows`` by class; empty until it opens. ``asks``: what its approver signed, in words."""

    number: int
    asks: str
    is_open: bool
    is_newest: bool
    rows: tuple[Shown, ...]


def shown_whole(look: RolloutLook) -> tuple[Shown, ...]:
    """By class, over all waves; with more than one class their sum as the last."""
    rows = [_shown(name, counts) for name, counts in look.status["classes"].items()]
    return tuple(rows) if len(rows) < 2 else (*rows, _sum(rows))


def shown_waves(look: RolloutLook) -> tuple[ShownWave, ...]:
    rollout, classes = look.row.rollout, look.status["classes"]
    found = []
    for index, approved in enumerate(rollout.plan.waves):
        rows = [
            _shown(name, counts["waves"][index])
            for name, counts in classes.items()
            if index < len(counts["waves"])
        ]
        found.append(
            ShownWave(
                number=index + 1,
                asks=wave_sentence(approved),
                is_open=index < rollout.waves_open,
                is_newest=index + 1 == rollout.waves_open,
                rows=tuple(rows),
            )
        )
    return tuple(found)


def _shown(name: str, counts: Mapping[str, Any]) -> Shown:
    reasons = counts["excluded"]
    return Shown(
        name=name,
        **{place: counts[place] for place in PLACES},
        excluded=sum(reasons.values()),
        reasons=dict(sorted(reasons.items(), key=lambda item: -item[1])),
    )


def _sum(rows: Sequence[Shown]) -> Shown:
    reasons: dict[str, int] = {}
    for row in rows:
        for reason, devices in row.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + devices
    return Shown(
        name="all classes",
        **{place: sum(getattr(row, place) for row in rows) for place in PLACES},
        excluded=sum(row.excluded for row in rows),
        reasons=dict(sorted(reasons.items(), key=lambda item: -item[1])),
    )
