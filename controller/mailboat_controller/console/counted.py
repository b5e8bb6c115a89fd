"""What costs a pass over the fleet to know, counted now and then and shown with its age."""

import shutil
import time
from dataclasses import dataclass
from datetime import datetime

import structlog

from mailboat_controller.api import trust
from mailboat_controller.api.context import ApiContext
from mailboat_controller.console.turns import Turns
from mailboat_controller.content.kek import KekUnusable
from mailboat_controller.sites.link_state import Link
from mailboat_controller.store import (
    enrolment_requests,
    fleet_counts,
    overview_rows,
    quarantine,
    sites,
)
from mailboat_controller.trust.expiry import CertificateStatus, Level, RoleStatus
from mailboat_schemas.errors import MailboatError

_log = structlog.get_logger(__name__)

# Counting takes a twentieth of the time at most; a page that is asked for meanwhile shows what was
# counted before, and when.
KEPT_SECONDS_MIN = 3.0
REST_FACTOR = 19.0
# Older than this nobody is shown: the page waits for a new count.
OLD_SECONDS_MAX = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSite:
    name: str
    since: datetime | None
    devices: int
    expected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """``online + offline + unknown + revoked == enrolled``; the rest are of those in force."""

    read_at: datetime
    online: int
    offline: int
    unknown: int
    revoked: int
    silent_a_day: int
    silent_a_week: int
    disk_low: int
    clock_wrong: int
    doubled: int
    pending: int  # enrolments that wait for a person
    sites: int
    cut: tuple[CutSite, ...]
    quarantined: int
    expiring: tuple[RoleStatus | CertificateStatus, ...]
    artifacts: str  # ok | damaged | unreachable
    content_keys_usable: bool
    free_bytes: int
    total_bytes: int

    @property
    def enrolled(self) -> int:
        return self.online + self.offline + self.unknown + self.revoked


class Counter:
    """Safe to use from many threads: one counts, the others show what was counted before."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._counting = Turns("The fleet is counted")
        self._held: Counted | None = None
        self._counted_at = self._fresh_until = 0.0

    def latest(self) -> Counted:
        """What was counted last. Waits for a count only where there is none, or an old one."""
        held = self._held
        if held is not None and time.monotonic() - self._counted_at < OLD_SECONDS_MAX:
            return held
        with self._counting.turn():
            if self._held is held or self._held is None:
                self._count()
            assert self._held is not None  # noqa: S101  a line above
            return self._held

    @property
    def due(self) -> bool:
        """Whether it is time to count again; somebody who looks must not wait for it."""
        return time.monotonic() >= self._fresh_until

    def refresh(self) -> None:
        """Count again, unless somebody does. For after an answer has been sent."""
        if not self.due or self._counting.taken:
            return
        try:
            with self._counting.turn():
                if self.due:
                    self._count()
        except MailboatError as error:
            _log.warning("the fleet cannot be counted", problem=str(error))

    def _count(self) -> None:
        began = time.monotonic()
        self._held = count(self._context)
        self._counted_at = time.monotonic()
        took_seconds = self._counted_at - began
        self._fresh_until = self._counted_at + max(KEPT_SECONDS_MIN, REST_FACTOR * took_seconds)


def count(context: ApiContext) -> Counted:
    now = context.now()
    with context.store.read() as tx:
        by_site = fleet_counts.by_site(tx, now)
        standings = sites.standings(tx, now)
        doubled = overview_rows.doubled_since(tx, now)
        pending = enrolment_requests.count_pending(tx, now)
        quarantined = quarantine.count(tx)
    roles, certificates = trust.statuses(context)
    every: tuple[RoleStatus | CertificateStatus, ...] = (*roles, *certificates)
    disk = shutil.disk_usage(context.settings.data_dir)
    _hour, day, week = range(len(fleet_counts.UNSEEN))
    return Counted(
        read_at=now,
        online=sum(each.online for each in by_site),
        offline=sum(each.offline for each in by_site),
        unknown=sum(each.unknown for each in by_site),
        revoked=sum(each.revoked for each in by_site),
        silent_a_day=sum(each.unseen[day] for each in by_site),
        silent_a_week=sum(each.unseen[week] for each in by_site),
        disk_low=sum(each.disk_low for each in by_site),
        clock_wrong=sum(each.clock_wrong for each in by_site),
        doubled=doubled,
        pending=pending,
        sites=len(standings),
        cut=tuple(
            CutSite(
                name=each.row.name,
                since=each.state.since,
                devices=each.devices,
                expected=each.cut_is_expected,
            )
            for each in standings
            if each.state.link is Link.CUT
        ),
        quarantined=quarantined,
        expiring=tuple(each for each in every if each.level is not Level.OK),
        artifacts=context.artifact_care.health(),
        content_keys_usable=_usable(context),
        free_bytes=disk.free,
        total_bytes=disk.total,
    )


def _usable(context: ApiContext) -> bool:
    try:
        context.content_keys.check()
    except KekUnusable:
        return False
    return True
