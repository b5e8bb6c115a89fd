"""The story the demo tells, chapter by chapter. Every promise is checked on what really happened.

A goes to everybody. B comes as patches (`arrival`) and goes by waves while one device is away. C is
bad and its pilots refuse it. D passes its trial and fails on live traffic, on a device without
network. E is signed by a key that nobody approved, and not even a stolen controller can make a
device take it. A device proves that it could go back, and the fleet is compared with documents
(`day_two`). Then B is withdrawn and a device is stolen (`trust_story`).
"""

import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from mailboat_controller.demo.arrival import Arrival
from mailboat_controller.demo.caller import AFTER, BEFORE, DURING, Caller
from mailboat_controller.demo.day_two import DayTwo
from mailboat_controller.demo.fleet import Fleet, until
from mailboat_controller.demo.models import (
    VERSIONS,
    Series,
    write_release_sources,
)
from mailboat_controller.demo.narrator import Narrator, StepFailed
from mailboat_controller.demo.observer import EXPOSED, Observer
from mailboat_controller.demo.publisher import Publisher
from mailboat_controller.demo.thief import Thief
from mailboat_controller.demo.traffic import Traffic
from mailboat_controller.demo.trust_story import TrustStory
from mailboat_controller.releases.build import Build

AWAY = "gateway-3"  # the device whose cable is pulled before B
SOAKING = "kiosk-1"  # the device that fails D on live traffic
PILOTS = ("kiosk-1", "gateway-1")
CANARIES = ("kiosk-2", "gateway-2")
EVERYBODY_SECONDS_MAX = 60
SOON_SECONDS_MAX = 40
WATCH_SECONDS = 2.0  # how long we look for exposure that must not happen
SOAK_SECONDS = 1.5
LONG_SOAK_SECONDS = 60  # D's: it fails long before


class Story:
    def __init__(self, fleet: Fleet, series: Series, narrator: Narrator, *, seed: int) -> None:
        self._fleet = fleet
        self._series = series
        self._narrator = narrator
        self._publisher = Publisher(fleet)
        self._observer = Observer(fleet)
        self._caller = Caller(fleet, series, narrator, seed=seed)

    def tell(self) -> None:
        fleet, narrator = self._fleet, self._narrator
        sources = write_release_sources(
            self._series, fleet.directory / "sources", soak_seconds=SOAK_SECONDS
        )
        patient = write_release_sources(
            self._series, fleet.directory / "patient", soak_seconds=LONG_SOAK_SECONDS
        )
        with Traffic(fleet.serving_ports, seed=1, pause_seconds=0.15) as traffic:
            self._everybody_gets_a(sources["A"])
            arrival = Arrival(fleet, narrator, self._observer, self._publisher)
            self._b_goes_by_waves(arrival.prepare(sources["B"]))
            self._the_absent_one_returns()
            arrival.conclude()
            self._c_is_refused(sources["C"])
            self._d_fails_on_live_traffic(patient["D"], traffic)
            self._nobody_takes_e(sources["E"])
            with narrator.promising("events_complete_and_ordered"):
                self._events_are_complete()
        DayTwo(fleet, narrator, self._observer).tell()
        # Without traffic: a withdrawn release answers 503 until the one before it serves.
        TrustStory(fleet, narrator, self._observer).tell()
        self._caller.conclude()

    # --- A ---------------------------------------------------------------------------------------

    def _everybody_gets_a(self, source: Path) -> None:
        fleet, narrator = self._fleet, self._narrator
        narrator.chapter("Release A goes to everybody")
        with narrator.promising("release_a_everywhere"):
            self._publisher.publish("a", source, waves="- percent: 100")
            everybody = fleet.devices.keys()
            until(
                "all six devices run A",
                self._observer.all_run("A", everybody),
                EVERYBODY_SECONDS_MAX,
            )
            until("A is completed", self._observer.phase("A", "completed"), SOON_SECONDS_MAX)
            narrator.passed(
                "release_a_everywhere",
                f"{VERSIONS['A']} was tried, soaked and committed on {len(fleet.devices)} devices",
                devices=sorted(everybody),
                version=VERSIONS["A"],
            )
            self._caller.introduce(PILOTS[0])
            self._caller.ask(PILOTS, "A", BEFORE)

    # --- B ---------------------------------------------------------------------------------------

    def _b_goes_by_waves(self, built: Build) -> None:
        fleet, narrator = self._fleet, self._narrator
        narrator.chapter("Release B goes by waves, and one device is away")
        fleet.devices[AWAY].link.cut()
        narrator.say(f"{AWAY}'s network is cut")
        with narrator.promising("release_b_staged"):
            self._publisher.approve("b", built, waves=_waves(PILOTS))
            present = fleet.devices.keys() - {AWAY}
            until(
                "everybody present runs B",
                self._observer.all_run("B", present),
                EVERYBODY_SECONDS_MAX,
            )
            first, promoted = self._observer.exposed_first("B", PILOTS)
            if first != set(PILOTS):
                raise StepFailed(f"{sorted(first)} were exposed before the pilots had committed")
            narrator.passed(
                "release_b_staged",
                f"{', '.join(PILOTS)} committed {VERSIONS['B']} before anybody else was offered it",
                pilots=list(PILOTS),
                exposed_before_promotion=sorted(first),
                exposed_after_promotion=sorted(promoted),
                rollout=self._observer.rollout("B")["phase"],
            )
            self._caller.ask((AWAY,), "A", DURING)

    def _the_absent_one_returns(self) -> None:
        fleet, narrator = self._fleet, self._narrator
        narrator.chapter(f"{AWAY} comes back")
        with narrator.promising("offline_device_caught_up"):
            before = len(fleet.events(AWAY))
            phase = self._observer.rollout("B")["phase"]
            fleet.devices[AWAY].link.mend()
            until(f"{AWAY} runs B", self._observer.all_run("B", (AWAY,)), EVERYBODY_SECONDS_MAX)
            until("B is completed", self._observer.phase("B", "completed"), SOON_SECONDS_MAX)
            arrived = fleet.events(AWAY)[before:]
            kinds = [event["kind"] for event in arrived if event["version"] == VERSIONS["B"]]
            if kinds != [EXPOSED, "soak_started", "committed"]:
                raise StepFailed(f"its events arrived as {kinds}")
            narrator.passed(
                "offline_device_caught_up",
                f"{AWAY} went straight to {VERSIONS['B']}; the rollout waited and is completed",
                device=AWAY,
                events=kinds,
                rollout_while_away=phase,
            )

    # --- C ---------------------------------------------------------------------------------------

    def _c_is_refused(self, source: Path) -> None:
        fleet, narrator = self._fleet, self._narrator
        narrator.chapter("Release C is bad: correctly signed, wrong outputs")
        with narrator.promising("bad_release_halted", "bad_release_exposure"):
            self._publisher.publish("c", source, waves=_waves(CANARIES))
            until("C is halted", self._observer.phase("C", "halted"), SOON_SECONDS_MAX)
            rollout = self._observer.rollout("C")
            narrator.passed(
                "bad_release_halted",
                f"the rollout halted by itself: {rollout['because']}",
                because=rollout["because"],
                evidence=self._observer.last_event("C", "trial_failed")["content"].get(
                    "evidence", {}
                ),
            )
            _watch(WATCH_SECONDS)
            exposed = self._observer.exposed("C")
            if not exposed <= set(CANARIES):
                raise StepFailed(f"{sorted(exposed)} were exposed, approved were {CANARIES}")
            serving = self._observer.serving()
            if set(serving.values()) != {VERSIONS["B"]}:
                raise StepFailed(f"devices serve {serving}")
            narrator.passed(
                "bad_release_exposure",
                f"{len(exposed)} of {len(fleet.devices)} devices ever tried it; all serve B",
                exposed=len(exposed),
                allowed=len(CANARIES),
                devices=sorted(exposed),
            )

    # --- D ---------------------------------------------------------------------------------------

    def _d_fails_on_live_traffic(self, source: Path, traffic: Traffic) -> None:
        fleet, narrator = self._fleet, self._narrator
        device = fleet.devices[SOAKING]
        narrator.chapter("Release D passes its trial and fails on live traffic, without network")
        with narrator.promising("rollback_without_network", "soak_failure_rolled_back"):
            self._publisher.publish("d", source, waves=_waves((SOAKING,)))
            until(
                f"{SOAKING} soaks D",
                lambda: self._observer.stands(SOAKING, "D", "soak"),
                SOON_SECONDS_MAX,
            )
            device.link.cut()
            narrator.say(
                f"{SOAKING} serves D and soaks; now its network is cut and callers get loud"
            )
            heard = len(fleet.events(SOAKING))
            traffic.loud = frozenset({SOAKING})
            until(
                "it went back to B",
                lambda: self._observer.stands(SOAKING, "B", "committed"),
                SOON_SECONDS_MAX,
            )
            traffic.loud = frozenset()
            if fleet.devices[SOAKING].link.up or len(fleet.events(SOAKING)) != heard:
                raise StepFailed("the device was not without network")
            narrator.passed(
                "rollback_without_network",
                f"{SOAKING} went back to {VERSIONS['B']} by itself, with nobody to ask",
                device=SOAKING,
                because=device.model().get("because", ""),
            )
            self._caller.ask((SOAKING,), "B", AFTER)
            device.link.mend()
            until("D is halted", self._observer.phase("D", "halted"), SOON_SECONDS_MAX)
            event = self._observer.last_event("D", "rolled_back")
            narrator.passed(
                "soak_failure_rolled_back",
                f"reported when the network was back: {event['content']['because']}",
                reported=event["kind"],
                because=event["content"]["because"],
                rollout=self._observer.rollout("D")["because"],
            )

    # --- E ---------------------------------------------------------------------------------------

    def _nobody_takes_e(self, source: Path) -> None:
        fleet, narrator = self._fleet, self._narrator
        narrator.chapter("Release E is signed by a key that nobody approved")
        with narrator.promising("unapproved_release_refused"):
            thief = Thief(fleet, self._publisher.build("e", source))
            reply = thief.submit()
            if reply["status"] != "rejected":
                raise StepFailed(f"the controller answered {reply}")
            narrator.say(f"the controller: rejected, {reply['code']}")
            narrator.say("now with a stolen controller: E is published to both classes, signed")
            narrator.say("with the controller's own keys, around the controller")
            thief.publish_as_controller()
            for name in fleet.devices:
                until(
                    f"{name} refused it", partial(self._observer.refusals, name), SOON_SECONDS_MAX
                )
            exposed = self._observer.exposed("E")
            if exposed:
                raise StepFailed(f"{sorted(exposed)} tried E")
            narrator.passed(
                "unapproved_release_refused",
                f"refused by the controller, and by each of {len(fleet.devices)} agents",
                controller=reply["code"],
                agents=sorted(
                    {code for name in fleet.devices for code in self._observer.refusals(name)}
                ),
                refused_by=sorted(fleet.devices),
            )

    # --- what really happened ------------------------------------------------------------------

    def _events_are_complete(self) -> None:
        counts = {}
        for name in self._fleet.devices:
            until(
                f"{name}'s outbox is empty",
                partial(self._observer.confirmed, name),
                SOON_SECONDS_MAX,
            )
            sequences = [event["sequence"] for event in self._fleet.events(name)]
            if sequences != list(range(1, len(sequences) + 1)):
                raise StepFailed(f"{name}'s events are stored as {sequences}")
            counts[name] = len(sequences)
        self._narrator.passed(
            "events_complete_and_ordered",
            f"{sum(counts.values())} events of {len(counts)} devices: each once, none missing, "
            "in the order in which they happened",
            events=counts,
        )


def _waves(pilots: Iterable[str]) -> str:
    return f"- {{name: pilots, pilots: [{', '.join(pilots)}]}}\n    - {{percent: 100}}"


def _watch(seconds: float) -> None:
    """Give what must not happen the time to happen."""
    time.sleep(seconds)
