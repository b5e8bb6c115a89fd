"""The answers that `decide` gives, as data. Each says why."""

from dataclasses import dataclass

from mailboat_agent.update.state import Installed
from mailboat_schemas.eligibility import Candidate, Check
from mailboat_schemas.events import EventKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A release that was offered and may not run here, with the check that said no."""

    candidate: Candidate
    check: Check


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Nothing changes."""

    because: str
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Fetch what is missing of this release."""

    candidate: Candidate
    because: str
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTrial:
    """Everything is on disk: record it as the candidate. The device is exposed from here on."""

    candidate: Candidate
    because: str
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrial:
    """One attempt at the recorded candidate."""

    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunShadow:
    """The candidate passed its trial; live requests are mirrored to it before it may serve."""

    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate:
    """The candidate passed, is still approved and still wanted: let it serve and soak."""

    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginSoak:
    """One attempt at the soak, from its beginning."""

    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSoak:
    """The soak goes on; judge it by what has been measured."""

    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GoBack:
    """To a release that was here before, or to nothing. ``kind`` is the event that tells of it."""

    to: Installed | None
    kind: EventKind
    code: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend:
    """Stop serving without forgetting: what is needed to vouch for the release is missing."""

    because: str


Step = (
    Keep
    | Stage
    | StartTrial
    | RunTrial
    | RunShadow
    | Activate
    | BeginSoak
    | WatchSoak
    | GoBack
    | Suspend
)
