"""The day that each bound of the simulator is reached."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from pydantic import ValidationError

from mailboat_controller.simulate import model_work, report
from mailboat_controller.simulate.fleet import Fleet
from mailboat_controller.simulate.model_work import ModelWork
from mailboat_controller.simulate.network import HISTORY_MAX
from mailboat_controller.simulate.post import LOOKS_SECONDS_MAX
from mailboat_controller.simulate.reachability import (
    OFFLINE_MAX,
    OFFLINE_OF_THE_OTHERS,
    Reachability,
    habits,
)
from mailboat_controller.simulate.report import ABOVE_SHOWN_MAX
from mailboat_controller.simulate.running import Ran, simulate
from mailboat_controller.simulate.scenario import Simulation
from mailboat_controller.simulate.surroundings import Timing
from mailboat_controller.simulate.told import Manifest
from mailboat_controller.simulate.waiting import LATE_SECONDS, NextLook
from mailboat_controller.simulate.weather import Weather
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.policy_rules import Rules

BEGINS = 1_780_000_000.0


class NobodyLooks:
    def told(self, device: str, hardware_class: str, event: Event, epoch: str) -> None:
        pass

    def exposed(self, device: str, hardware_class: str, digest: str) -> None:
        pass

    def drilled(self, device: str, digest: str) -> None:
        pass


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(
        starts=BEGINS,
        seed=1,
        classes=("kiosk",),
        timing=Timing(),
        watch=NobodyLooks(),
        reconcile_seconds=60.0,
    )


def ran(**spec: object) -> Ran:
    document = {"apiVersion": "mailboat/v1", "kind": "Simulation", "spec": {"devices": 5, **spec}}
    return simulate(Simulation.model_validate({**document, "metadata": {"name": "small"}}))


def test_a_report_shows_some_of_many_exposures_that_are_too_wide_and_says_that_there_are() -> None:
    found = ran(days=0.1, offline=0.0)
    found.exposure.allowed = {"simulated": 0}
    for number in range(ABOVE_SHOWN_MAX + 5):
        found.exposure.exposed(f"stranger-{number}", "simulated", found.rollout.digest)

    shown = report.as_json(found)["exposure"]

    assert len(found.exposure.above) >= ABOVE_SHOWN_MAX + 5
    assert (len(shown["above"]), shown["never_above"]) == (ABOVE_SHOWN_MAX, False)


def test_a_hostile_broker_remembers_the_newest_manifests_and_acks_of_a_story(fleet: Fleet) -> None:
    device = fleet.enrol("d-1", "kiosk")
    fleet.network.acks = {}
    roles = fleet.controller.roles
    first = Manifest(
        hardware_class="kiosk",
        counter=0,
        director="director-1",
        roles=roles,
        assignment=None,
        expires=BEGINS,
    )
    for number in range(HISTORY_MAX + 3):
        fleet.network.publish(replace(first, counter=number))
        fleet.network.ack(device, b"%d" % number)

    counters = [each.counter for each in fleet.network.history["kiosk"]]
    assert counters == list(range(3, HISTORY_MAX + 3))
    assert fleet.network.acks["d-1"][-1] == b"%d" % (HISTORY_MAX + 2)
    assert len(fleet.network.acks["d-1"]) == HISTORY_MAX


def test_a_device_that_nobody_answers_looks_again_at_least_once_in_so_many_seconds(
    fleet: Fleet,
) -> None:
    fleet.set_weather(Weather(drop=1.0))
    device = fleet.enrol("d-1", "kiosk")
    device.boot_for_the_first_time()
    device.connect()
    device.tell_trouble(EventKind.MANIFEST_REFUSED, "refused:1")
    looks: list[float] = []
    ends = BEGINS + 3600
    while fleet.agenda.now < ends:
        if fleet.agenda.step(ends) is device:
            looks.append(fleet.agenda.now)

    apart = [later - earlier for earlier, later in pairwise(looks)]
    assert max(apart) == pytest.approx(LOOKS_SECONDS_MAX)
    assert len(looks) >= 3600 / LOOKS_SECONDS_MAX
    assert device.post.rows.waiting  # nothing of it was forgotten


def test_a_decision_that_leads_to_itself_is_no_endless_loop(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = fleet.enrol("d-1", "kiosk")
    monkeypatch.setattr(ModelWork, "_act", lambda *_: True)

    with pytest.raises(AssertionError, match="d-1 goes round in circles"):
        device.boot_for_the_first_time()


def test_as_many_devices_are_off_the_air_as_was_asked_up_to_the_most_that_can_be() -> None:
    rng = random.Random(1)
    for offline in (OFFLINE_OF_THE_OTHERS, OFFLINE_MAX):
        chosen = habits(20_000, offline, rng)
        away = sum(not Reachability.at_the_start(habit, rng)[0].online for habit in chosen)
        assert away / 20_000 == pytest.approx(offline, abs=0.02)

    with pytest.raises(ValidationError, match="offline"):
        ran(offline=OFFLINE_MAX + 0.01)


def test_a_device_looks_at_the_earliest_of_the_instants_that_it_waits_for(fleet: Fleet) -> None:
    """Whichever it hears of first: a policy that comes later may open a window sooner."""
    device = fleet.enrol("d-1", "kiosk")
    next_look, now = NextLook(device), datetime.fromtimestamp(BEGINS, UTC)

    for hours in (9, 3, 3, 6):
        next_look.not_before([now + timedelta(hours=hours), None])
    looks = []
    while fleet.agenda.now < BEGINS + 86_400:
        if fleet.agenda.step(BEGINS + 86_400) is device:
            looks.append(fleet.agenda.now - BEGINS)

    assert looks == [3 * 3600 + LATE_SECONDS, 9 * 3600 + LATE_SECONDS]


def test_a_look_decides_anew_when_anything_has_changed_or_the_time_may_tell(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided, decide = [], model_work.decide
    monkeypatch.setattr(
        model_work, "decide", lambda *asked: decided.append(asked) or decide(*asked)
    )
    device = fleet.enrol("d-1", "kiosk")
    device.boot_for_the_first_time()

    def decisions_at_a_look() -> int:
        before = len(decided)
        device.look()
        return len(decided) - before

    assert decisions_at_a_look() == 0
    device.disk.set_aside |= {"a-file"}
    assert (decisions_at_a_look(), decisions_at_a_look()) == (1, 0)
    device.record = replace(device.record, generation=7)
    assert (decisions_at_a_look(), decisions_at_a_look()) == (1, 0)
    device.skew_seconds = -40 * 365 * 86_400.0  # its clock is not trusted any more
    assert (decisions_at_a_look(), decisions_at_a_look()) == (1, 0)
    device.rules.staleness.stopped = "a-release"  # by its policy
    assert (decisions_at_a_look(), decisions_at_a_look()) == (1, 0)
    device.rules.rules = Rules(days_between=1)
    assert (decisions_at_a_look(), decisions_at_a_look()) == (1, 1)
