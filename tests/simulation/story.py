"""A few weeks of a small fleet, drawn from a seed: people, releases good and bad, and an adversary.

First everything that can go wrong does, at rates that are drawn for each seed; then it stops, and
within `HEAL_DAYS` all must be well. The same seed is the same story, step by step.

A step is one event that a device or the controller has taken in: a message, a timer of a process
that lives, a change of power, link, clock or disk. What was sent to a link that is down, or asked
for by a process that is gone, is none.
"""

import hashlib
import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tests.simulation.budgets import Budgets
from tests.simulation.oracle import Oracle
from tests.simulation.signing import SITES, Signing, zone_of
from tests.simulation.violation import Violation

from mailboat_controller.rollout.members import Outcome
from mailboat_controller.rollout.state import FINAL, Phase, Trigger
from mailboat_controller.simulate.controller import SimulatedController
from mailboat_controller.simulate.device import SimulatedDevice
from mailboat_controller.simulate.fleet import Fleet
from mailboat_controller.simulate.releases import Fault, SimulatedRelease, make_release
from mailboat_controller.simulate.surroundings import Timing
from mailboat_controller.simulate.told import known_as
from mailboat_controller.simulate.weather import CALM, Weather
from mailboat_schemas import cohort
from mailboat_schemas.errors import Conflict
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.reports import ModelPhase

BEGINS = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
DAY = 86_400.0
HOUR = 3600.0
STORY_DAYS, HEAL_DAYS = 14.0, 4.0
DAYS = STORY_DAYS + HEAL_DAYS
LOOK_SECONDS = 6 * HOUR  # a quarter more or less
RENEW_HOURS, DECIDE_HOURS = 24, 6  # from one to the next; news is decided on besides
REPLAYS_MAX, REPLAY_SECONDS = 3, 2.0  # of acknowledgements, after a device has connected
CLASSES = ("kiosk", "gate")
MANNERS = ((Fault.TRIAL, 0.45), (Fault.SOAK, 0.35), (Fault.REBOOT, 0.2))
SKEWS = (-40 * 365 * DAY, -DAY, -HOUR, HOUR, 8 * DAY, 500 * DAY)
EVERYBODY = PlanWave(count_ppm=cohort.PPM, cap_ppm=cohort.PPM)


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a story. ``digest`` is the same whenever the seed is played again."""

    seed: int
    device_days: float
    steps: int
    checks: int
    happened: dict[str, int]
    digest: str


@dataclass(frozen=True, slots=True)
class Links:
    on_seconds: float
    off_seconds: float


class Story:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(f"story:{seed}")
        self.replays = random.Random(f"replays:{seed}")  # its own: the story is the same without
        self.oracle = Oracle()
        self.fleet = Fleet(
            starts=BEGINS,
            seed=seed,
            classes=CLASSES,
            timing=Timing(look_seconds=LOOK_SECONDS, start_jitter_seconds=60.0),
            watch=self.oracle,
            reconcile_seconds=self.rng.choice((5.0, 60.0, 1800.0)),
        )
        self.fleet.network.acks = {}
        self.oracle.attach(self.fleet)
        self.releases: list[SimulatedRelease] = []
        self.links = Links(
            on_seconds=self.rng.uniform(0.5, 40) * HOUR,
            off_seconds=self.rng.uniform(0.1, 12) * HOUR,
        )
        self.signing = Signing(self.fleet, seed, CLASSES)
        self.oracle.stale.on = self.signing.stops
        self.budgets = Budgets(self.fleet, seed, CLASSES)
        self.raging = True
        self.evil = make_release("6.6.6", classes=CLASSES, fallback=None)
        self.fleet.add_release(self.evil)

    @property
    def controller(self) -> SimulatedController:
        return self.fleet.controller

    # --- the whole of it --------------------------------------------------------------------------

    def play(self) -> Told:
        """
        Raises:
            Violation: of an invariant.
        """
        self._begin()
        self.oracle.run(BEGINS + STORY_DAYS * DAY)
        self._heal()
        self.oracle.run(BEGINS + DAYS * DAY)
        self._judge()
        lived = sum(DAYS for _ in self.fleet.devices)
        return Told(
            seed=self.seed,
            device_days=lived,
            steps=self.fleet.agenda.steps,
            checks=self.oracle.checks,
            happened=dict(self.oracle.happened),
            digest=self._digest(),
        )

    def _begin(self) -> None:
        self.fleet.set_weather(drawn_weather(self.rng))
        first = self._release(broken=0.0)
        self.controller.approve(first, Plan(rollout="first", waves=(EVERYBODY,)))
        self.controller.complete("first")
        self.oracle.completed.add(first.digest)
        for number in range(self.rng.randint(8, 16)):
            self._enrol(number)
        self._let_the_weather_in()
        self.signing.begin(STORY_DAYS)
        self.budgets.begin(STORY_DAYS)
        self.controller.reconcile()
        for _ in range(self.rng.randint(4, 12)):
            at = self.rng.uniform(0.2, STORY_DAYS - 0.5) * DAY
            self.fleet.agenda.after(at, self._somebody_does_something)
        for hours in range(8, int(DAYS * 24), RENEW_HOURS):
            self.fleet.agenda.after(hours * HOUR, self._renew)
        for hours in range(1, int(DAYS * 24), DECIDE_HOURS):
            self.fleet.agenda.after(hours * HOUR, self._decide)

    def _renew(self) -> SimulatedController:
        self.controller.renew()
        return self.controller

    def _decide(self) -> SimulatedController:
        self.fleet.reconcile_soon()
        return self.controller

    # --- people -----------------------------------------------------------------------------------

    def _somebody_does_something(self) -> SimulatedController:
        actions = (
            (self._approve_new, 6), (self._withdraw, 2), (self._give_an_order, 3),
            (self._try_again, 1), (self._enrol_another, 2), (self._rotate, 1),
        )  # fmt: skip
        action = self.rng.choices([act for act, _ in actions], [weight for _, weight in actions])[0]
        action()
        self.controller.reconcile()
        return self.controller

    def _release(self, broken: float) -> SimulatedRelease:
        number = len(self.releases) + 1
        fallback = f"{self.rng.randint(1, number)}.0.0" if self.rng.random() < 0.3 else None
        release = make_release(
            f"{number}.0.0",
            classes=CLASSES,
            size_bytes=self.rng.choice((1 << 20, 64 << 20, 1 << 30)),
            broken=broken,
            manners=MANNERS,
            soak_seconds=self.rng.choice((600.0, 3 * HOUR)),
            fallback=fallback if fallback != f"{number}.0.0" else None,
            **(self.budgets.of_a_release() if self.releases else {}),
        )
        self.releases.append(release)
        self.fleet.add_release(release)
        return release

    def _approve_new(self) -> None:
        rng = self.rng
        bad = rng.random() < 0.4
        release = self._release(broken=rng.uniform(0.1, 0.8) if bad else 0.0)
        self.controller.approve(release, self._plan(f"rollout-{len(self.releases)}"))

    def _plan(self, name: str) -> Plan:
        rng, waves = self.rng, []
        sizes = [len(members) for members in self.controller.members.values()]
        if rng.random() < 0.5:
            pilots = rng.sample(sorted(self.fleet.devices), rng.randint(1, 3))
            waves.append(PlanWave(pilots=tuple(pilots), ok_min=rng.randint(0, 1)))
        if rng.random() < 0.7:
            count = rng.randint(1, 3)
            cap = cohort.cap_ppm(count, max(1, min(sizes)))
            ring = {"ring": "canary"} if rng.random() < 0.3 else {}
            ok_min = rng.randint(0, count)
            waves.append(PlanWave(count=count, cap_ppm=cap, ring=ring, ok_min=ok_min))
        if rng.random() < 0.5:
            waves.append(PlanWave(count_ppm=500_000, cap_ppm=cohort.PPM, ok_min=1))
        waves.append(replace_wave(EVERYBODY, ok_min=rng.choice((0, 2, 4))))
        return Plan(rollout=name, waves=tuple(waves), **self.signing.urgency())

    def _withdraw(self) -> None:
        """Any; often the one that devices would go back to."""
        self.controller.withdraw(self.rng.choice(self.releases[-3:]))
        self.oracle.happened["withdrawn"] += 1

    def _give_an_order(self) -> None:
        open_ones = [n for n, r in self.controller.rollouts.items() if r.rollout.phase not in FINAL]
        trigger = self.rng.choice((Trigger.PAUSE, Trigger.PAUSE, Trigger.RESUME, Trigger.ABORT))
        try:
            self.controller.order(self.rng.choice(open_ones or ["first"]), trigger)
        except Conflict:
            return  # the machine of states has no such move
        if trigger is Trigger.PAUSE:
            self.fleet.agenda.after(self.rng.uniform(1, 48) * HOUR, self._resume_all)

    def _resume_all(self) -> SimulatedController:
        for name, row in self.controller.rollouts.items():
            if row.rollout.phase is Phase.PAUSED:
                self.controller.order(name, Trigger.RESUME)
        self.controller.reconcile()
        return self.controller

    def _try_again(self) -> None:
        """A release that failed, approved once more: its fault may have been the device's."""
        rollouts = [row.rollout for row in self.controller.rollouts.values()]
        halted = [each for each in rollouts if each.phase is Phase.HALTED]
        if halted:
            again = self.rng.choice(halted)
            release = next(one for one in self.releases if one.digest == again.digest)
            plan = self._plan(f"again-{len(rollouts)}")
            self.controller.approve(release, plan, retry_epoch=again.retry_epoch + 1)

    def _enrol(self, number: int) -> SimulatedDevice:
        labels = {"ring": "canary" if number % 3 == 0 else "rest"} | zone_of(number)
        device = self.fleet.enrol(
            f"d-{number + 1}", CLASSES[number % 2], labels, site=SITES[number % len(SITES)]
        )
        device.boot_for_the_first_time()
        return device

    def _enrol_another(self) -> None:
        device = self._enrol(len(self.fleet.devices))
        self._weather_of(device)

    def _rotate(self) -> None:
        self.controller.rotate_director()
        self.oracle.happened["director rotated"] += 1

    # --- the adversary ---------------------------------------------------------------------------

    def _let_the_weather_in(self) -> None:
        for device in self.fleet.devices.values():
            self._weather_of(device)
        self._now_and_then(self.fleet.around.weather.broker_forgets_per_day, self._broker_forgets)

    def _weather_of(self, device: SimulatedDevice) -> None:
        weather = self.fleet.around.weather
        self.fleet.agenda.after(self.rng.uniform(0, 600), self._link_comes, device)
        for per_day, act in (
            (weather.cuts_per_day, device.power_cut),
            (weather.stops_per_day, device.told_to_stop),
            (weather.clock_steps_per_day, lambda: self._clock_steps(device)),
            (weather.rot_per_day, lambda: self._rots(device)),
            (weather.hostile_per_day, lambda: self._hostile(device)),
            (1.0, lambda: device.run(device.life, device.check_files, ())),
        ):
            self._now_and_then(per_day, act)

    def _now_and_then(self, per_day: float, act: object) -> None:
        if per_day:
            self.fleet.agenda.after(self.rng.expovariate(per_day / DAY), self._once, per_day, act)

    def _once(self, per_day: float, act: object) -> object:
        if not self.raging:
            return None
        self._now_and_then(per_day, act)
        return act()  # type: ignore[operator]

    def _link_comes(self, device: SimulatedDevice) -> SimulatedDevice | None:
        if self.raging:
            seconds = self.rng.expovariate(1 / self.links.on_seconds)
            self.fleet.agenda.after(seconds, self._link_goes, device)
            if self.fleet.around.weather.hostile_per_day:
                self._replay_acks(device)
        return device.connect()

    def _replay_acks(self, device: SimulatedDevice) -> None:
        """Genuine ones that this device was sent before, of whichever journal it had then: soon
        after it connects, when it waits for one."""
        held = (self.fleet.network.acks or {}).get(device.device, ())
        for payload in self.replays.sample(held, min(len(held), REPLAYS_MAX)):
            at = self.replays.uniform(0, REPLAY_SECONDS)
            self.fleet.agenda.after(at, self._replay_ack, device, payload)

    def _replay_ack(self, device: SimulatedDevice, payload: bytes) -> SimulatedDevice | None:
        return device.hear_ack(device.connection, payload) if device.online else None

    def _link_goes(self, device: SimulatedDevice) -> SimulatedDevice | None:
        if not self.raging:
            return None
        seconds = self.rng.expovariate(1 / self.links.off_seconds)
        self.fleet.agenda.after(seconds, self._link_comes, device)
        if device.work.download.digest:
            self.oracle.happened["download interrupted"] += 1
        return device.drop_link()

    def _clock_steps(self, device: SimulatedDevice) -> SimulatedDevice:
        device.skew_seconds = self.rng.choice(SKEWS)
        self.fleet.agenda.after(self.rng.uniform(1, 20) * HOUR, self._clock_is_set, device)
        device.run(device.life, device.look, ())
        return device

    def _clock_is_set(self, device: SimulatedDevice) -> SimulatedDevice:
        device.skew_seconds = 0.0
        return device

    def _rots(self, device: SimulatedDevice) -> SimulatedDevice | None:
        whole = sorted(device.disk.held - device.disk.rotten)
        if not whole:
            return None
        digest = self.rng.choice(whole)
        device.disk.rotten.add(digest)
        self.oracle.accounts[device.device].hit.add(digest)
        self.oracle.happened["rotten file"] += 1
        return device

    def _hostile(self, device: SimulatedDevice) -> SimulatedDevice | None:
        """What a broker can do that nobody trusts."""
        network, rng = self.fleet.network, self.rng
        history = network.history.get(device.hardware_class, [])
        others = network.history.get(CLASSES[device.hardware_class == CLASSES[0]], [])
        if not device.online or not history or not others:
            return None
        newest = history[-1]
        match rng.randrange(4):
            case 0:
                sent = rng.choice(history)
            case 1:
                sent = others[-1]
            case 2:
                known = {self.evil.digest: known_as(self.evil, _ALL)}
                roles = replace(
                    newest.roles, signer="thief", version=newest.roles.version + 9, known=known
                )
                sent = replace(newest, roles=roles, counter=newest.counter + 9, assignment=None)
            case _:
                sent = replace(newest, director="thief-9", counter=newest.counter + 9)
        network.hand_manifest(device, sent)
        return device

    def _broker_forgets(self) -> SimulatedController:
        self.fleet.network.forget()
        for device in self.fleet.devices.values():
            self.fleet.agenda.after(self.rng.uniform(1, 60), device.connect)
        self.fleet.agenda.after(self.rng.uniform(60, 3600), self._renew)
        return self.controller

    # --- the end ---------------------------------------------------------------------------------

    def _heal(self) -> None:
        self.raging = False
        self.fleet.set_weather(CALM)
        self.signing.lift()
        self.budgets.lift()
        self._resume_all()
        for device in self.fleet.devices.values():
            device.skew_seconds = 0.0
            self.fleet.agenda.after(self.rng.uniform(0, HOUR), device.connect)
            # One that is in the middle of a boot connects when that is over, also when a release
            # takes it down again and again.
            self.fleet.agenda.after(HOUR + self.rng.uniform(0, HOUR), device.connect)
            for hours in range(2, int(HEAL_DAYS * 24)):
                self.fleet.agenda.after((hours + 0.5) * HOUR, device.connect)

    def _judge(self) -> None:
        for device in self.fleet.devices.values():
            self._all_is_well(device)
        for (digest, _), by_device in self.controller.registry.outcomes.items():
            for name, one in by_device.items():
                told = {
                    k.value for k, d, _ in self.oracle.accounts[name].meant.values() if d == digest
                }
                if one.outcome is Outcome.OK and "committed" not in told:
                    raise Violation(7, f"{name} counts as good and never said so")

    def _all_is_well(self, device: SimulatedDevice) -> None:
        name, rows = device.device, device.post.rows
        newest = self.controller.manifests[device.hardware_class]
        if not (device.up and device.online):
            raise Violation(4, f"{name} did not come back")
        if device.manifest is None or device.record.manifest_counter != newest.counter:
            raise Violation(4, f"{name} does not go by the newest manifest")
        if device.roles.version != newest.roles.version:
            raise Violation(4, f"{name} does not go by the newest roles")
        if rows.waiting:
            raise Violation(3, f"{name} still has {len(rows.waiting)} events to tell")
        stored = self.controller.registry.devices[name].told
        missing = [
            one for one in self.oracle.accounts[name].emitted[rows.epoch] if one not in stored
        ]
        if missing:
            raise Violation(3, f"{name}: {missing[0]} is lost")
        state = device.state
        if state.phase in (ModelPhase.TRIAL, ModelPhase.SOAK):
            raise Violation(4, f"{name} is still in {state.phase}")
        self._runs_what_it_should(device)
        self.oracle.signed.goes_by_what_is_signed(device)
        self.oracle.budgets.at_the_end(device)
        if self.signing.stops:
            self.oracle.stale.at_the_end(device)

    def _runs_what_it_should(self, device: SimulatedDevice) -> None:
        assignment = self.controller.manifests[device.hardware_class].assignment
        if assignment is None or assignment.offer is not None or assignment.current is None:
            return
        current, state = assignment.current.digest, device.state
        approved = self.controller.roles.approves(current)
        kept = {ref.digest for ref in assignment.kept}
        if not approved or current in state.failed or device.work.serving in kept:
            return
        if self.oracle.stale.holds_back(device):
            return
        if device.work.serving != current:
            raise Violation(
                4, f"{device.device} serves {device.work.serving[:8]}, not {current[:8]}"
            )

    def _digest(self) -> str:
        lines = [f"{self.fleet.agenda.steps}"]
        lines += [f"{device.device} {device.record}" for device in self.fleet.devices.values()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


_ALL = Plan(rollout="theft", waves=(EVERYBODY,))


def replace_wave(wave: PlanWave, *, ok_min: int) -> PlanWave:
    return wave.model_copy(update={"ok_min": ok_min})


def drawn_weather(rng: random.Random) -> Weather:
    """Each kind of trouble in half of all stories, at a rate of its own."""

    def maybe(most: float) -> float:
        return rng.uniform(0, most) if rng.random() < 0.5 else 0.0

    return Weather(
        drop=maybe(0.3),
        duplicate=maybe(0.2),
        late_seconds=maybe(30.0),
        corrupt=maybe(0.2),
        cut_in_step=maybe(0.05),
        cuts_per_day=maybe(1.2),
        stops_per_day=maybe(0.5),
        journal_lost=maybe(0.2),
        clock_steps_per_day=maybe(0.4),
        rot_per_day=maybe(0.3),
        hostile_per_day=maybe(2.0),
        controller_dies=maybe(0.2),
        broker_forgets_per_day=maybe(0.5),
    )
