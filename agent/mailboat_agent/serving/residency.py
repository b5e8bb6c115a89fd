"""Whose worker may be in memory: every model's declared peak, counted against one budget.

Who needs room has the one unloaded that nobody has asked for longest. First go spare workers, which
only make a way back quicker; pinned models never go. An unloaded model is loaded again by its next
request. What a worker really takes is bounded elsewhere, by the kernel.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from mailboat_agent.serving.process_usage import available_memory_bytes
from mailboat_schemas.errors import Transient

ROOM_SECONDS_MAX = 20.0  # for others to finish what they have begun, and go
SPARE_SECONDS_MAX = 5.0  # for spare workers to be gone: they have nothing to finish
_MIB = 1 << 20


class NoRoom(Transient):
    """The memory budget is taken by models that do not give way now."""

    code = "E-SERVING-MEMORY"

    def __init__(
        self, what: str, needed_bytes: int, held_bytes: int, budget_bytes: int | None
    ) -> None:
        of = "" if budget_bytes is None else f" of {budget_bytes / _MIB:.0f} MiB"
        super().__init__(
            f"{what} needs {needed_bytes / _MIB:.0f} MiB of memory; models that stay loaded take "
            f"{held_bytes / _MIB:.0f} MiB{of}.",
            next_step="raise serving_memory_budget, pin fewer models, or wait.",
            retry_after=timedelta(seconds=ROOM_SECONDS_MAX),
        )


@dataclass(slots=True, eq=False, kw_only=True)
class Claim:
    """Memory that somebody holds. ``used_at`` is monotonic; its holder keeps it up to date."""

    size_bytes: int
    give_way: Callable[[], None]  # asked to go; must return at once
    pinned: bool = False
    spare: bool = False
    used_at: float = 0.0
    asked: bool = False  # to go


class Residency:
    """Thread-safe. Without a budget there is room for all."""

    def __init__(
        self,
        budget_bytes: int | None = None,
        *,
        available_bytes: Callable[[], int | None] = available_memory_bytes,
    ) -> None:
        self.budget_bytes = budget_bytes
        self._available_bytes = available_bytes
        self._claims: list[Claim] = []
        self._waiting: list[Claim] = []  # to be claims, in the order in which they came
        self._changed = threading.Condition()

    @property
    def held_bytes(self) -> int:
        with self._changed:
            return self._held()

    def claim(
        self,
        what: str,
        size_bytes: int,
        give_way: Callable[[], None],
        *,
        pinned: bool = False,
        seconds_max: float = ROOM_SECONDS_MAX,
    ) -> Claim:
        """Take memory, once those that have to go for it are gone. ``what`` is for messages.

        First come, first served: else one that is asked to go would take its memory again before
        whoever it went for.

        Raises:
            NoRoom: they did not go in time, or nobody can be asked to.
        """
        wanted = Claim(size_bytes=size_bytes, give_way=give_way, pinned=pinned)
        give_up = time.monotonic() + seconds_max
        with self._changed:
            self._waiting.append(wanted)
            try:
                while not self._has_room(wanted):
                    left = give_up - time.monotonic()
                    if left <= 0 or not self._will_have_room(wanted):
                        raise self.no_room(what, size_bytes)
                    self._changed.wait(left)
            finally:
                self._waiting.remove(wanted)
                self._changed.notify_all()
            wanted.used_at = time.monotonic()
            self._claims.append(wanted)
        return wanted

    def claim_free(
        self, what: str, size_bytes: int, give_way: Callable[[], None], *, leave_bytes: int = 0
    ) -> Claim:
        """Take memory that nobody has: nobody goes for it, and it is the first to go for others.
        ``leave_bytes`` of the machine stay free beside it.

        Raises:
            NoRoom: there is none.
        """
        available = self._available_bytes()
        with self._changed:
            scarce = available is not None and available < size_bytes + leave_bytes
            if scarce or self._waiting or self._lacking(size_bytes) > 0:
                raise self.no_room(what, size_bytes)
            claim = Claim(size_bytes=size_bytes, give_way=give_way, spare=True)
            self._claims.append(claim)
        return claim

    def fits_beside(self, size_bytes: int) -> bool:
        """Whether so much more may be loaded with nobody but spare workers going for it."""
        with self._changed:
            if self._lacking(size_bytes) > 0:
                if not self._ask_to_go(self._lacking(size_bytes), spare_only=True):
                    return False
                end = SPARE_SECONDS_MAX
                if not self._changed.wait_for(lambda: self._lacking(size_bytes) <= 0, end):
                    return False
        available = self._available_bytes()
        return available is None or available >= size_bytes

    def change_hands(
        self, claim: Claim, give_way: Callable[[], None], *, pinned: bool = False, spare: bool
    ) -> None:
        """Another holder has it from now on. One that was asked to go is asked again: whoever had
        it may not get to it any more, and somebody waits for that memory."""
        with self._changed:
            claim.give_way, claim.pinned, claim.spare = give_way, pinned, spare
            if claim.asked:
                claim.give_way()

    def release(self, claim: Claim) -> None:
        with self._changed:
            if claim in self._claims:
                self._claims.remove(claim)
            self._changed.notify_all()

    def no_room(self, what: str, size_bytes: int) -> NoRoom:
        return NoRoom(what, size_bytes, self._held(), self.budget_bytes)

    def _held(self) -> int:
        return sum(claim.size_bytes for claim in self._claims)

    def _lacking(self, size_bytes: int) -> int:
        return 0 if self.budget_bytes is None else self._held() + size_bytes - self.budget_bytes

    def _has_room(self, wanted: Claim) -> bool:
        before = self._waiting[: self._waiting.index(wanted)]
        return self._lacking(wanted.size_bytes + sum(each.size_bytes for each in before)) <= 0

    def _will_have_room(self, wanted: Claim) -> bool:
        lacking = self._lacking(wanted.size_bytes)
        if lacking > self._held():  # more than all there is
            return False
        # Who waits before it may be asked to go as soon as it has come.
        return lacking <= 0 or self._ask_to_go(lacking) or self._waiting[0] is not wanted

    def _ask_to_go(self, lacking_bytes: int, *, spare_only: bool = False) -> bool:
        """Whether enough of them go, now or asked before; otherwise nobody is asked in vain."""
        may_go = [c for c in self._claims if c.spare or not (c.pinned or spare_only)]
        if sum(claim.size_bytes for claim in may_go) < lacking_bytes:
            return False
        for claim in sorted(may_go, key=lambda c: (not c.asked, not c.spare, c.used_at)):
            if lacking_bytes <= 0:
                break
            lacking_bytes -= claim.size_bytes
            if not claim.asked:
                claim.asked = True
                claim.give_way()
        return True
