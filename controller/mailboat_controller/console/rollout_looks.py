"""Looks at rollouts, shared by all pages that show them: one reads every device of its classes,
with 100,000 of them for seconds.

As with the metrics, no more than a twentieth of the time goes into looking. What the rollout's own
row says is always of now, and one that has moved is looked at anew.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from mailboat_controller.console.turns import Turns
from mailboat_controller.rollout_look import RolloutLook, look
from mailboat_controller.store import rollouts
from mailboat_controller.store.engine import Store
from mailboat_controller.store.rollouts import RolloutRow

KEPT_MAX = 32  # rollouts; who looks at more of them at once waits longer
REST_FACTOR = 19.0  # kept for so many times as long as it took
KEPT_SECONDS_MAX = 120.0


class _Kept(NamedTuple):
    look: RolloutLook
    until: float


class RolloutLooks:
    """From any thread. Whoever asks while somebody looks is shown what was seen before, if the
    rollout has not moved since; else they wait for the same look."""

    def __init__(self, elapsed_seconds: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed_seconds
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._looking = Turns("Its devices are counted")

    def of(self, store: Store, name: str, now: datetime) -> RolloutLook:
        """
        Raises:
            NotFound: no such rollout.
            TooManyWait: many ask just now, and nobody has counted it as it stands.
        """
        with store.read() as tx:
            row = rollouts.get(tx, name)
        old = self._kept.get(name)
        if self._looking.taken and old is not None and not _moved(old.look.row, row):
            return replace(old.look, row=row)  # says of when it is
        with self._looking.turn():
            kept = self._kept.get(name)
            if kept is not None and self._elapsed() < kept.until and not _moved(kept.look.row, row):
                return replace(kept.look, row=row)
            started = self._elapsed()
            with store.read() as tx:
                found = look(tx, name, now)
            took_seconds = self._elapsed() - started
            rest = min(REST_FACTOR * took_seconds, KEPT_SECONDS_MAX)
            self._kept[name] = _Kept(found, self._elapsed() + rest)
            self._kept.move_to_end(name)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
            return found


def _moved(seen: RolloutRow, row: RolloutRow) -> bool:
    """In what its orders depend on. With every verdict its words change, and so they are read."""
    return _place(seen) != _place(row)


def _place(row: RolloutRow) -> tuple[object, ...]:
    rollout = row.rollout
    return rollout.phase, rollout.opened, rollout.plan, rollout.retry_epoch, row.started_at
