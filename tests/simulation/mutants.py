"""Bugs of the protocol, planted one at a time: the simulation has to find each of them.

A mutant takes the place of one name of the production code, or of the shell around it that stands
for the agent's and the controller's own, for as long as a story is played.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from unittest import mock

from tests.simulation.mutants_of_bounds import mutants_of_budgets, mutants_of_stops
from tests.simulation.mutants_of_rules import mutants_of_drills, mutants_of_rules
from tests.simulation.story import Story

from mailboat_agent.journal.outbox import Outbox
from mailboat_agent.trust.counter import Counter
from mailboat_agent.update import decide, moves, refuge
from mailboat_agent.update.soak import Judgement, Verdict
from mailboat_agent.update.state import DeviceState
from mailboat_agent.update.steps import RunTrial
from mailboat_controller.ingest.watermark_rule import DeviceStreams
from mailboat_controller.releases import publication
from mailboat_controller.rollout import decide as rollout_decide
from mailboat_controller.rollout import members
from mailboat_controller.rollout.gate import Gate
from mailboat_controller.rollout.state import Phase
from mailboat_controller.simulate import device as shell
from mailboat_controller.simulate import model_work, registry
from mailboat_controller.simulate.controller import SimulatedController
from mailboat_controller.simulate.device import SimulatedDevice
from mailboat_controller.simulate.disk import Disk
from mailboat_controller.simulate.model_work import ModelWork
from mailboat_controller.simulate.releases import MODEL
from mailboat_controller.simulate.rows import Rows
from mailboat_schemas import cohort, eligibility
from mailboat_schemas.eligibility import Check
from mailboat_schemas.reports import ModelPhase

Plant = tuple[object, str, Any]
_yes = Check("planted", True, "")


def _always(*_: Any, **__: Any) -> bool:
    return True


def _never(*_: Any, **__: Any) -> bool:
    return False


def _pass(*_: Any, **__: Any) -> Check:
    return _yes


def _nothing(*_: Any, **__: Any) -> None:
    return None


# --- trust ----------------------------------------------------------------------------------------


def _without(refusal: str) -> Plant:
    real = SimulatedDevice.refuses

    def refuses(self: SimulatedDevice, manifest: Any) -> str:
        found = real(self, manifest)
        return "" if found == refusal else found

    return (SimulatedDevice, "refuses", refuses)


def _takes_older_roles() -> list[Plant]:
    def take(self: SimulatedDevice, manifest: Any, real: Any = SimulatedDevice.take) -> bool:
        if 0 < manifest.roles.version < self.roles.version and manifest.roles.signer == "authority":
            self.roles = manifest.roles
        return bool(real(self, manifest))

    return [(SimulatedDevice, "take", take)]


def _forgets_at_a_cut(**lost: Any) -> list[Plant]:
    def power_cut(self: SimulatedDevice, real: Any = SimulatedDevice.power_cut) -> Any:
        cut = real(self)
        if cut is not None:
            for name, value in lost.items():
                if name in ("manifest_counter", "director_keyid"):
                    self.record = replace(self.record, **{name: value})
                else:
                    setattr(self, name, value)
        return cut

    return [(SimulatedDevice, "power_cut", power_cut)]


# --- the device -----------------------------------------------------------------------------------


def _goes_back_to_the_withdrawn(situation: Any) -> Any:
    for release in (situation.state.previous, situation.state.spare):
        if release is not None and refuge.at_hand(situation, release):
            return release
    return None


def _went_back(change: Callable[[Any], Any]) -> list[Plant]:
    real = moves.went_back

    def went_back(state: Any, step: Any) -> Any:
        return change(real(state, step))

    return [(moves, "went_back", went_back)]


def _tells_first(self: SimulatedDevice, state: Any) -> None:
    for event in shell.implied_events(MODEL, state, self.now):
        self.post.tell(event)
    self.save(replace(self.record, models={**self.record.models, MODEL: state}))


def _begins_without_telling(self: SimulatedDevice, real: Any = SimulatedDevice.begin) -> None:
    with mock.patch.object(SimulatedDevice, "tell_what_the_state_implies", _nothing):
        real(self)


def _skips_the_trial(situation: Any, now: Any, real: Any = decide.decide) -> Any:
    step = real(situation, now)
    if isinstance(step, RunTrial):
        return model_work.Activate(because="planted")
    return step


def _soak_is_over(*_: Any) -> Judgement:
    return Judgement(Verdict.PASSED, "planted")


def _keeps_only_what_runs(self: Disk, digests: frozenset[str]) -> None:
    self.held = self.held & digests if len(self.held) < 3 else frozenset(sorted(self.held)[:2])


# --- cohorts --------------------------------------------------------------------------------------


def _without_the_roster(wave: Any, facts: Any, place: str) -> bool:
    del facts
    return bool(place <= wave.upto)


def _as_if_not_paused(facts: Any, candidate: Any, *more: Any, real: Any = None) -> Check:
    offer = candidate.offer
    if offer is not None and offer.paused:
        candidate = replace(candidate, offer=offer.model_copy(update={"paused": False}))
    found: Check = (real or _IN_COHORT)(facts, candidate, *more)
    return found


_IN_COHORT = eligibility._in_cohort
_UPTO_FOR = cohort.upto_for


def _one_more(seed: str, devices: Any, count: int) -> str:
    return _UPTO_FOR(seed, devices, count + 1)


def _by_share(seed: str, devices: Any, count: int) -> str:
    """The bare hash rule that DESIGN section 6 warns of."""
    names = list(devices)
    return cohort.upto_of_ppm(count * cohort.PPM // max(1, len(names)) if count > 0 else 0)


# --- the outbox -----------------------------------------------------------------------------------


def _deletes_on_sending(self: Rows, sequence: int, limit: int, bytes_max: int) -> Any:
    events = _EVENTS_AFTER(self, sequence, limit, bytes_max)
    if events:
        self.acknowledge(events[-1].sequence, 0)
    return events


_EVENTS_AFTER = Rows.events_after


def _takes_every_row(self: Any, epoch: str, rows: Any, first: int, reached: int) -> Any:
    del self, epoch, first, reached
    return tuple(rows)


def _takes_over_gaps(self: Any, epoch: str, rows: Any, first: int, reached: int) -> Any:
    del self, epoch, first
    return tuple(row for row in rows if row.sequence > reached)


def _acks_one_more(self: Any, fleet: str, epoch: str, counter: int) -> Any:
    topic, ack = _ACK(self, fleet, epoch, counter)
    return topic, ack.model_copy(update={"events_acked": ack.events_acked + 1})


_ACK = DeviceStreams.ack


def _hears_any_epoch(self: Any, ack: Any, now: float, real: Any = Outbox.on_ack) -> None:
    real(self, ack.model_copy(update={"epoch": self._epoch}), now)


def _acks_before_the_commit(
    self: SimulatedController, device: str, channel: Any, payload: bytes, dies: Any
) -> tuple[bytes, bool]:
    """What dies in the moment before the commit has answered already."""
    if not dies():
        return _TAKE(self, device, channel, payload, _never)
    with mock.patch.object(self.registry, "commit", return_value=[]):
        return _TAKE(self, device, channel, payload, _never)


_TAKE = SimulatedController.take


def _knows_no_doubles(
    self: Any, device: str, payload: bytes, counter: int, now: float
) -> registry.Reached:
    entry = self.devices[device]
    known, entry.told = entry.told, set()
    try:
        found: registry.Reached = _TAKE_EVENTS(self, device, payload, counter, now)
        return found
    finally:
        entry.told = known


_TAKE_EVENTS = registry.Registry.take_events


def _asks_once(self: Any, now: float) -> bool:
    """A hello that was lost is never said again."""
    return bool(self._waits_for_answer and self._hellos == 0 and now >= self._hello_due_at)


# --- the controller -------------------------------------------------------------------------------


def _tells_each_device(self: SimulatedController, hardware_class: str) -> None:
    before = self._network.published
    _PUBLISH(self, hardware_class)
    if self._network.published > before:
        for _ in self.members[hardware_class]:
            self._tell(self.manifests[hardware_class])


_PUBLISH = SimulatedController._publish


def _counts_nothing(self: SimulatedController, hardware_class: str) -> None:
    held = self.manifests.get(hardware_class)
    if held is None:
        _PUBLISH(self, hardware_class)
        return
    lowered = self.manifests[hardware_class] = replace(held, counter=held.counter - 1)
    _PUBLISH(self, hardware_class)
    if self.manifests[hardware_class] is lowered:  # nothing was published
        self.manifests[hardware_class] = held


def _behind_whoever_signs(self: Counter, held: Any) -> bool:
    return held is not None and self.value < held.value


def _silence_is_health(wave: Any, inside: Any, *_: Any) -> Gate:
    del wave
    return Gate(True, f"{len(inside)} good")


def _install_again(self: DeviceState) -> int:
    del self
    return 7


def _mutants() -> Iterator[tuple[str, list[Plant]]]:
    yield (
        "a withdrawn release serves on",
        [
            (decide, "may_serve", _always),
            (refuge, "may_serve", _always),
            (ModelWork, "bar_what_is_withdrawn", _nothing),
        ],
    )
    yield (
        "a rollback lands on a withdrawn release",
        [
            (decide, "fall_back_to", _goes_back_to_the_withdrawn),
            (refuge, "fall_back_to", _goes_back_to_the_withdrawn),
            (ModelWork, "bar_what_is_withdrawn", _nothing),
        ],
    )
    yield "a manifest without a valid signature is taken", [_without("signature")]
    yield "a manifest of another class is taken", [_without("class")]
    yield "a manifest of a director that nobody named is taken", [_without("director")]
    yield "an older manifest is taken", [(Counter, "is_behind", _never)]
    yield "older roles are taken", _takes_older_roles()
    yield "the counter does not outlive a power cut", _forgets_at_a_cut(manifest_counter=0)
    yield "the roles do not outlive a power cut", _forgets_at_a_cut(roles=shell.NOTHING_KNOWN)
    yield "stale trust metadata admits installs", [(eligibility, "_fresh", _pass)]
    yield (
        "a clock before the floor is trusted",
        [
            (shell, "stands_before", _never),
            (shell, "stands_far_ahead", _never),
        ],
    )
    yield (
        "a new director's counter is compared with the old one's",
        [(Counter, "is_behind", _behind_whoever_signs)],
    )
    yield "what failed here is tried again", [(eligibility, "_not_failed_here", _pass)]
    yield "a failure is not remembered", _went_back(lambda moved: replace(moved, failed={}))
    yield (
        "a failed trial leaves nothing behind",
        _went_back(lambda moved: replace(moved, active=None, phase=ModelPhase.ABSENT)),
    )
    yield "every device is in the cohort", [(eligibility, "_wave_admits", _always)]
    yield "the roster is not looked at", [(eligibility, "_wave_admits", _without_the_roster)]
    yield "a paused rollout lets devices in", [(eligibility, "_in_cohort", _as_if_not_paused)]
    yield "a wave is one too wide", [(members.cohort, "upto_for", _one_more)]
    yield "a wave is a share of the hash space", [(members.cohort, "upto_for", _by_share)]
    yield "attempts are not counted", [(moves, "spent_try", lambda state: state)]
    yield "the trial is skipped", [(model_work, "decide", _skips_the_trial)]
    yield "the soak is skipped", [(model_work, "judge_soak", _soak_is_over)]
    yield "garbage collection takes what is needed", [(Disk, "keep_only", _keeps_only_what_runs)]
    yield (
        "bytes are served without being hashed",
        [(Disk, "is_whole", lambda self, digests: digests <= self.held)],
    )
    yield "an event is told before it is recorded", [(SimulatedDevice, "make", _tells_first)]
    yield (
        "what a power cut left untold stays so",
        [(SimulatedDevice, "begin", _begins_without_telling)],
    )
    yield "install numbers come again", [(DeviceState, "next_install", property(_install_again))]
    yield "rows are deleted when they are sent", [(Rows, "events_after", _deletes_on_sending)]
    yield "a hello is said once", [(Outbox, "_hello_is_due", _asks_once)]
    yield "rows that are known are stored again", [(DeviceStreams, "unstored", _takes_every_row)]
    yield "rows behind a gap are stored", [(DeviceStreams, "unstored", _takes_over_gaps)]
    yield "the watermark is one ahead", [(DeviceStreams, "ack", _acks_one_more)]
    yield "an ack of another epoch counts", [(Outbox, "on_ack", _hears_any_epoch)]
    yield (
        "an ack is sent before the commit",
        [(SimulatedController, "take", _acks_before_the_commit)],
    )
    yield (
        "a lost journal tells everything twice",
        [(registry.Registry, "take_events", _knows_no_doubles)],
    )
    yield "silence counts as health", [(rollout_decide, "judge_class", _silence_is_health)]
    yield "a failure does not halt", [(rollout_decide, "_bad_news", _nothing)]
    yield (
        "a halted rollout is still offered",
        [(publication, "OFFERED", publication.OFFERED | {Phase.HALTED})],
    )
    yield (
        "devices stay on a halted release",
        [(decide, "_named", _always), (decide, "_kept", _always)],
    )
    yield (
        "every device gets a message of its own",
        [(SimulatedController, "_publish", _tells_each_device)],
    )
    yield "the counter stands still", [(SimulatedController, "_publish", _counts_nothing)]


MUTANTS: Mapping[str, list[Plant]] = MappingProxyType(
    dict(
        (
            *_mutants(),
            *mutants_of_rules(),
            *mutants_of_drills(),
            *mutants_of_stops(),
            *mutants_of_budgets(),
        )
    )
)
_OF_RULES, _OF_STOPS, _OF_BUDGETS = (
    frozenset(name for name, _ in those())
    for those in (mutants_of_rules, mutants_of_stops, mutants_of_budgets)
)


def can_show(name: str, story: Story) -> bool:
    """Whether the story plays what the bug is in; most of them do not."""
    if name in _OF_RULES:
        return story.signing.on
    if name in _OF_STOPS:
        return story.signing.stops
    return name not in _OF_BUDGETS or story.budgets.on


@contextmanager
def planted(name: str) -> Iterator[None]:
    """One bug, as long as the block lasts; the empty name plants none."""
    with ExitStack() as stack:
        for target, attribute, value in MUTANTS[name] if name else []:
            stack.enter_context(mock.patch.object(target, attribute, value))
        yield
