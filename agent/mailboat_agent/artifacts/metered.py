"""What a day may cost on a metered link: a bucket that leaks a day's budget in a day.

What was fetched goes into the bucket. A whole file may be fetched if it still fits, or if the
bucket is empty: one that is larger than the budget comes all the same and is paid for by the days
after. ``metered.json`` keeps the level over restarts. In between nobody knows how long the device
was off: its clock may have jumped, so a restart credits one day at most, and the level is bounded,
so nothing waits for ever.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from mailboat_agent.artifacts.arrivals import Arrivals
from mailboat_agent.atomic_file import replace_durably
from mailboat_schemas.deltas import Source
from mailboat_schemas.errors import MailboatError, Transient

DAY_SECONDS = 86_400.0
DAYS_OWED_MAX = 31  # more is forgiven
SAVE_BYTES = 4 << 20  # so much may be forgotten by a crash
# A file of so much does not wait: golden samples come beside the patch that spares the rest.
SMALL_BYTES = 256 << 10
LOOK_AGAIN_SECONDS_MAX = 900.0  # a delta may have been offered since, or the setting changed
FILE_BYTES_MAX = 4096
# What does not come over the metered link.
FREE = frozenset({Source.SITE_CACHE, Source.IMPORT})

MeteredSetting = Literal["class", "yes", "no"]


class MeteredWait(Transient):
    """Nothing is wrong: a whole file has to wait for the budget of its link."""

    code = "E-METERED"

    def __init__(self, length: int, budget_bytes: int, wait_seconds: float) -> None:
        super().__init__(
            f"a metered link: {length} bytes at once are beyond the budget of {budget_bytes} "
            "bytes a day, so it waits",
            next_step="nothing, it comes when the budget allows or a patch is offered; a release "
            "of a higher security_version does not wait.",
            retry_after=timedelta(seconds=min(wait_seconds, LOOK_AGAIN_SECONDS_MAX)),
        )


class TooMuchForPolicy(MeteredWait):
    """A whole file is larger than policy lets over a metered link; it waits for another way."""

    def __init__(self, length: int, length_max: int) -> None:
        Transient.__init__(
            self,
            f"a metered link: policy lets whole files of up to {length_max} bytes come over it, "
            f"this one has {length}, so it waits",
            next_step="bring it by a USB stick, or offer a patch; an emergency, or a "
            "release of a higher security_version, does not wait.",
            retry_after=timedelta(seconds=LOOK_AGAIN_SECONDS_MAX),
        )


class Meter:
    """Not for threads: the event loop's alone."""

    def __init__(
        self,
        data_dir: Path,
        *,
        setting: MeteredSetting,
        bytes_per_day: int | None,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._path = data_dir / "metered.json"
        self._setting = setting
        self.bytes_per_day = bytes_per_day
        self._now = now
        self._monotonic = monotonic
        self._level = 0.0  # bytes
        self._leaked_at = monotonic()
        self._unsaved = 0
        self._load()

    def applies(self, *, class_is_metered: bool) -> bool:
        """Whether this device's link is metered."""
        return self._setting == "yes" or (self._setting == "class" and class_is_metered)

    @property
    def used_bytes(self) -> int:
        """Of the budget, now."""
        self._leak()
        return round(self._level)

    def require(self, length: int) -> None:
        """
        Raises:
            MeteredWait: so many bytes are not for now.
        """
        if self.bytes_per_day is None or length <= SMALL_BYTES:
            return
        self._leak()
        surplus = self._level + min(length, self.bytes_per_day) - self.bytes_per_day
        if surplus > 0:
            seconds = surplus / self.bytes_per_day * DAY_SECONDS
            raise MeteredWait(length, self.bytes_per_day, seconds)

    def spend(self, size_bytes: int) -> None:
        """So much came over the link. A disk that refuses to keep it makes it forgotten at the
        next start."""
        if self.bytes_per_day is None:
            return
        self._leak()
        self._level = min(self._level + size_bytes, self.bytes_per_day * DAYS_OWED_MAX)
        self._unsaved += size_bytes
        if self._unsaved >= SAVE_BYTES:
            self.save()

    def save(self) -> None:
        if self.bytes_per_day is None or not self._unsaved:
            return
        content = {"used_bytes": round(self._level), "at": self._now().timestamp()}
        with suppress(MailboatError):
            replace_durably(self._path, json.dumps(content).encode())
            self._unsaved = 0

    def _leak(self) -> None:
        at = self._monotonic()
        if self.bytes_per_day is not None:
            leaked = (at - self._leaked_at) / DAY_SECONDS * self.bytes_per_day
            self._level = max(0.0, self._level - max(0.0, leaked))
        self._leaked_at = at

    def _load(self) -> None:
        # Whatever is wrong with the file costs a day's budget, and nothing else.
        with suppress(OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
            if self.bytes_per_day is None or self._path.stat().st_size > FILE_BYTES_MAX:
                return
            found = json.loads(self._path.read_bytes())
            level = float(found["used_bytes"])
            passed = (self._now().astimezone(UTC).timestamp()) - float(found["at"])
            credited = min(max(passed, 0.0), DAY_SECONDS) / DAY_SECONDS * self.bytes_per_day
            bound = float(self.bytes_per_day * DAYS_OWED_MAX)
            if level >= 0:  # NaN is not
                self._level = max(0.0, min(level, bound) - credited)


class Spending:
    """What of one download has been spent so far."""

    def __init__(self, meter: Meter, arrivals: Arrivals) -> None:
        self._meter = meter
        self._arrivals = arrivals
        self._counted = self._metered_bytes()

    def settle(self) -> None:
        total = self._metered_bytes()
        if total > self._counted:
            self._meter.spend(total - self._counted)
            self._counted = total

    def _metered_bytes(self) -> int:
        return sum(n for source, n in self._arrivals.source_bytes.items() if source not in FREE)
