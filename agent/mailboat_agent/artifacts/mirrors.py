"""Which mirror is asked for a file, and which one is left alone for a while. Pure.

Mirrors are untrusted, so nothing they do may cost more than time, and never much of it: a mirror
that fails is left out for some minutes, one that brought wrong bytes is not asked for that file for
an hour, and the controller, which is no mirror, is always asked in the end.
"""

from collections import OrderedDict
from collections.abc import Sequence

STRIKE_SECONDS_MIN = 15.0  # after the first failure in a row; doubles with each
STRIKE_SECONDS_MAX = 900.0  # a site's cache is back within a quarter of an hour
LIE_SECONDS = 3600.0  # it may have been repaired since, and nobody tells a device
# Doubles with each lie about a file: a slow link needs longer than an hour for one, and begins
# anew each time.
LIE_SECONDS_MAX = 7 * 86_400.0
LACK_SECONDS = 60.0  # a file it does not have (yet)
WAIT_SECONDS_MAX = 120.0  # for a mirror that asks to wait; then the next one is asked
FILES_MAX = 256  # files that mirrors are left out for; the oldest is forgotten


class Mirrors:
    """Times are seconds of a monotonic clock."""

    def __init__(self, names: Sequence[str]) -> None:
        """``names`` in the order in which they are to be asked."""
        self._names = tuple(names)
        self._strikes: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._waited: set[str] = set()  # who has been waited for, since it last did well
        self._not_for: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._lies: dict[tuple[str, str], int] = {}  # of those

    def to_ask(self, digest: str, now: float) -> list[str]:
        """Who may be asked for this file now; may be nobody."""
        return [name for name in self._names if self.may_ask(name, digest, now)]

    def may_ask(self, name: str, digest: str, now: float) -> bool:
        kept_out_until = self._not_for.get((name, digest), now)
        return now >= max(kept_out_until, self._not_before.get(name, now))

    def did_well(self, name: str) -> None:
        self._strikes.pop(name, None)
        self._not_before.pop(name, None)
        self._waited.discard(name)

    def failed(self, name: str, now: float) -> None:
        """Unreachable, too slow, or talking nonsense."""
        strikes = self._strikes[name] = self._strikes.get(name, 0) + 1
        # The exponent is bounded, so that the arithmetic stays in range.
        seconds = min(STRIKE_SECONDS_MAX, STRIKE_SECONDS_MIN * (1 << min(strikes - 1, 10)))
        self._not_before[name] = now + seconds

    def lacks(self, name: str, digest: str, now: float) -> None:
        self._keep_out(name, digest, now + LACK_SECONDS)

    def lied(self, name: str, digest: str, now: float) -> None:
        """It brought other bytes than were signed, or more, or may have."""
        lies = self._lies.get((name, digest), 0)
        self._keep_out(name, digest, now + min(LIE_SECONDS_MAX, LIE_SECONDS * (1 << min(lies, 10))))
        self._lies[name, digest] = lies + 1

    def waits(self, name: str, seconds: float, now: float) -> float:
        """It asks to wait ``seconds``: how long to do so, or 0 if the next one is to be asked.

        A cache that sheds load is waited for, else a site would turn to the controller all at
        once; but once only, because anything can say "later" for ever.
        """
        if name not in self._waited and seconds <= WAIT_SECONDS_MAX:
            self._waited.add(name)
            return seconds
        self._not_before[name] = now + min(max(seconds, STRIKE_SECONDS_MIN), STRIKE_SECONDS_MAX)
        return 0.0

    def _keep_out(self, name: str, digest: str, until: float) -> None:
        self._not_for[name, digest] = max(until, self._not_for.pop((name, digest), until))
        while len(self._not_for) > FILES_MAX:
            oldest, _ = self._not_for.popitem(last=False)
            self._lies.pop(oldest, None)
