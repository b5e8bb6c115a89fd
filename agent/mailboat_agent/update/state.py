"""What a device remembers of each model: the values that `state_file` makes durable.

One record per model names the release that counts, the one before it, and the phase, which in turn
names the one action that comes next. Staging is not recorded: it happens beside what serves, and
what it leaves behind are files that either hash to their name or do not count.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice

from mailboat_agent.update.time_floor import BUILT_AT
from mailboat_schemas.reports import ModelPhase

FAILED_MAX = 64  # releases of one model that failed here; an older failure may be tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A release on this device, by the digest of its document, which is in the store."""

    version: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """One model. ``phase`` is ABSENT, TRIAL, SOAK or COMMITTED; it names the action to come."""

    phase: ModelPhase = ModelPhase.ABSENT
    active: Installed | None = None  # TRIAL: the candidate; SOAK, COMMITTED: what serves
    previous: Installed | None = None  # what served before; where a rollback goes
    spare: Installed | None = None  # what was before `previous`: the next place to go back to
    oldest: Installed | None = None  # what was before `spare`, until the install has ended
    tries: int = 0  # attempts left of the trial or soak
    stops: int = 0  # attempts of this install that were given back as the agent was told to stop
    install: int = 0  # the number of the last install, never reused: part of event ids
    # What the last install was of. Whatever was left since: its beginning is told of this release.
    install_of: Installed | None = None
    retry_epoch: int = 0  # of the assignment that led to this install
    # How the last install ended, and of which release: the event can be told again from this.
    outcome: str = ""  # "", committed, trial_failed, rolled_back, returned
    outcome_version: str = ""
    outcome_digest: str = ""
    outcome_code: str = ""
    outcome_because: str = ""
    switched_at: int = 0  # last commit, seconds since 1970 UTC; 0: none is known
    security_version: int = 0  # the highest reached
    stale_since: int = 0  # further behind than policy allows, seconds since 1970 UTC; 0: it is not
    stopped: str = ""  # digest of what policy has stopped for that, while it could be known
    failed: Mapping[str, int] = field(default_factory=dict)  # digest -> retry_epoch, oldest first

    def __post_init__(self) -> None:
        surplus = len(self.failed) - FAILED_MAX
        if surplus > 0:
            newest = dict(islice(self.failed.items(), surplus, None))
            object.__setattr__(self, "failed", newest)

    @property
    def serving(self) -> Installed | None:
        """What this record says should serve."""
        return self.previous if self.phase is ModelPhase.TRIAL else self.active

    @property
    def predecessors(self) -> tuple[Installed, ...]:
        """What ran here before, the newest first: where a rollback may go."""
        before = (self.previous, self.spare, self.oldest)
        return tuple(each for each in before if each is not None)

    def before(self, *releases: Installed | None) -> "ModelState":
        """The same with these for predecessors, the newest first; a gap is closed."""
        previous, spare, oldest = ([each for each in releases if each] + [None] * 3)[:3]
        return replace(self, previous=previous, spare=spare, oldest=oldest)

    def with_failed(self, digest: str, retry_epoch: int) -> "ModelState":
        """This release failed here, in this epoch: the newest of at most `FAILED_MAX`."""
        others = {key: epoch for key, epoch in self.failed.items() if key != digest}
        return replace(self, failed={**others, digest: retry_epoch})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    generation: int = 0
    session: int = 0  # counts starts of the agent; orders births and wills
    time_floor: int = 0  # seconds since 1970 UTC; the clock cannot truthfully be before it
    manifest_counter: int = 0
    director_keyid: str = ""  # whose counter that is
    installs_from: int = 0  # no install has a number up to this one
    models: Mapping[str, ModelState] = field(default_factory=dict)

    @property
    def next_install(self) -> int:
        """A number that no install on this device has had, of whatever model."""
        return 1 + max([self.installs_from, *(each.install for each in self.models.values())])


def first_record(now: datetime, rng: random.Random) -> DeviceState:
    """Where a device begins that has no record: a new one, or one that has lost it.

    Its counters must not come again: the controller takes a session below the newest, or an event
    id it knows, for old news. Time goes up faster than restarts and installs do; where the clock is
    wrong, chance keeps two lives of a device apart.
    """
    seconds = max(int(now.timestamp()), BUILT_AT)
    return DeviceState(
        session=seconds, installs_from=seconds * 1_000_000 + rng.randrange(1_000_000)
    )


def after_damage(state: DeviceState) -> DeviceState:
    """The record of one generation ago: what has been counted since is passed over."""
    return replace(state, session=state.session + 1, installs_from=state.next_install)
