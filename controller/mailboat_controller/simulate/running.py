"""One rollout on one fleet, from its approval until it is settled: `simulate`."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from mailboat_agent.update.state import DeviceState, Installed, ModelState
from mailboat_controller.releases.build import plan_of
from mailboat_controller.rollout.decide import Rollout as StoredRollout
from mailboat_controller.rollout.state import Phase
from mailboat_controller.simulate.agenda import OVER
from mailboat_controller.simulate.device import SimulatedDevice
from mailboat_controller.simulate.exposure import Exposure
from mailboat_controller.simulate.fleet import Fleet
from mailboat_controller.simulate.reachability import Reachability, habits
from mailboat_controller.simulate.releases import (
    MANNERS,
    MODEL,
    SimulatedRelease,
    make_release,
)
from mailboat_controller.simulate.scenario import Simulation, SimulationSpec
from mailboat_controller.simulate.surroundings import Timing
from mailboat_controller.simulate.weather import Weather
from mailboat_schemas.documents.rollout import Rollout, RolloutSpec
from mailboat_schemas.events import Event
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.reports import ModelPhase

BEGINS = datetime(2026, 6, 1, tzinfo=UTC).timestamp()  # a Monday
BEFORE, AFTER = "1.0.0", "2.0.0"
TIMESTAMP_DAYS = 400  # its renewal would be half of all messages, and says nothing here
CLOCK_STEPS_SECONDS = (-40 * 365 * 86_400.0, -86_400.0, 3600.0, 86_400.0)
SETTLED_SHARE = 0.9999  # of the devices that should run the release
WATCH_EVERY_SECONDS = 3600.0
_EVERYBODY = Plan(rollout="before", waves=(PlanWave(count_ppm=1_000_000, cap_ppm=1_000_000),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What came of it. ``seconds`` are virtual, since the approval."""

    scenario: Simulation
    exposure: Exposure
    rollout: StoredRollout
    plan: Plan
    seconds: float
    steps: int
    running_it: int  # devices that serve the release at the end
    messages: int
    manifests: int
    bytes_up: int
    bytes_down: int
    downloaded_bytes: int
    downloads: int
    reconciles: int


class _Unwatched:
    """Until there is something to watch."""

    def told(self, device: str, hardware_class: str, event: Event, epoch: str) -> None:
        pass

    def exposed(self, device: str, hardware_class: str, digest: str) -> None:
        pass

    def drilled(self, device: str, digest: str) -> None:
        pass


def default_rollout(devices_per_class: int) -> RolloutSpec:
    """Five, then a hundredth, a tenth, all. Half of a wave has to be good: the rest may be away."""
    first = min(5, devices_per_class)
    waves: list[dict[str, object]] = [{"devices": first, "gate": _half(first)}]
    for percent in (1, 10, 100):
        count = math.ceil(devices_per_class * percent / 100)
        if count > first or percent == 100:
            waves.append({"percent": percent, "gate": _half(count)})
    release = {"model": MODEL, "version": AFTER}
    return RolloutSpec.model_validate({"release": release, "waves": waves})


def _half(count: int) -> dict[str, int]:
    return {"ok_min": math.ceil(count / 2)}


def simulate(scenario: Simulation) -> Ran:
    """
    Raises:
        ConfigurationInvalid: a wave's cap cannot be worked out.
    """
    spec = scenario.spec
    per_class = max(1, spec.devices // len(spec.hardware_classes))
    plan = _plan(spec, scenario.metadata.name, per_class)
    fleet, release = _fleet(spec, plan)
    sizes = _RingSizes(fleet)
    exposure = Exposure(release.digest, lambda: fleet.agenda.now, sizes.of)
    fleet.around.watch = exposure
    fleet.controller.on_decision = exposure.on_decision
    fleet.controller.approve(release, plan)
    fleet.agenda.after(0.0, fleet.reconcile)
    fleet.agenda.after(spec.decide_every_seconds, _decide_now_and_then, fleet, spec)
    _run(fleet, spec, plan, release, exposure)
    traffic = fleet.network.traffic
    return Ran(
        scenario=scenario,
        exposure=exposure,
        rollout=fleet.controller.rollouts[plan.rollout].rollout,
        plan=plan,
        seconds=fleet.agenda.now - exposure.begins,
        steps=fleet.agenda.steps,
        running_it=_running(fleet, release),
        messages=traffic.messages_up + traffic.messages_down,
        manifests=fleet.network.published,
        bytes_up=traffic.bytes_up,
        bytes_down=traffic.bytes_down,
        downloaded_bytes=fleet.around.downloaded_bytes,
        downloads=fleet.around.downloads,
        reconciles=fleet.controller.reconciles,
    )


def _plan(spec: SimulationSpec, name: str, per_class: int) -> Plan:
    chosen = spec.rollout or default_rollout(per_class)
    document = Rollout.model_validate(
        {
            "apiVersion": "mailboat/v1",
            "kind": "Rollout",
            "metadata": {"name": f"{name[:50]}-rollout"},
            # Neither the release's name nor the classes' is of any matter here.
            "spec": chosen.model_copy(update={"hardware_classes": ()}).model_dump(),
        }
    )
    plan = plan_of(document, per_class)
    # Nobody restarts simulated devices or orders drills of them: the rollout would wait for ever.
    asks_nothing: dict[str, object] = {"restarts_min": None, "drills_min": None}
    waves = tuple(wave.model_copy(update=asks_nothing) for wave in plan.waves)
    return plan.model_copy(update={"waves": waves})


def _fleet(spec: SimulationSpec, plan: Plan) -> tuple[Fleet, SimulatedRelease]:
    """All of it runs what was there before, and has heard of nothing else."""
    timing = Timing(
        trial_seconds=spec.release.trial_seconds,
        bytes_per_second=spec.links.bytes_per_second,
        hello_when_idle=False,
    )
    fleet = Fleet(
        starts=BEGINS,
        seed=spec.seed,
        classes=spec.hardware_classes,
        timing=timing,
        watch=_Unwatched(),
        reconcile_seconds=spec.decide_every_seconds,
    )
    fleet.controller.timestamp_seconds = TIMESTAMP_DAYS * 86_400.0
    manners = tuple(spec.release.manners.items()) or MANNERS
    before = make_release(BEFORE, classes=spec.hardware_classes)
    after = make_release(
        AFTER,
        classes=spec.hardware_classes,
        size_bytes=spec.release.size_bytes,
        broken=spec.release.broken,
        manners=manners,
        soak_seconds=spec.release.soak_seconds,
    )
    for release in (before, after):
        fleet.add_release(release)
    fleet.controller.approve(before, _EVERYBODY)
    fleet.controller.complete(_EVERYBODY.rollout)
    _enrol(fleet, spec, plan, before)
    fleet.controller.reconcile()
    for device in fleet.devices.values():
        device.manifest = fleet.controller.manifests[device.hardware_class]
        device.roles = device.manifest.roles
        device.work.begin_serving()
    fleet.set_weather(
        Weather(
            drop=spec.links.drop,
            duplicate=spec.links.duplicate,
            late_seconds=spec.links.late_seconds,
            corrupt=spec.links.corrupt,
        )
    )
    _let_the_weather_in(fleet, spec)
    return fleet, after


def _enrol(fleet: Fleet, spec: SimulationSpec, plan: Plan, before: SimulatedRelease) -> None:
    """Names of pilots and labels of rings are handed out, so that the plan finds its devices."""
    installed = Installed(version=before.version, digest=before.digest)
    committed = ModelState(phase=ModelPhase.COMMITTED, active=installed, install=1)
    record = DeviceState(
        models={MODEL: committed},
        time_floor=int(BEGINS),
        manifest_counter=1,
        director_keyid=fleet.controller.roles.director,
    )
    pilots = list(dict.fromkeys(pilot for wave in plan.waves for pilot in wave.pilots))
    rings: list[dict[str, str]] = [wave.ring for wave in plan.waves if wave.ring] or [{}]
    for number in range(spec.devices):
        name = pilots[number] if number < len(pilots) else f"device-{number + 1:07d}"
        hardware_class = spec.hardware_classes[number % len(spec.hardware_classes)]
        ring = rings[number // len(spec.hardware_classes) % len(rings)]
        device = fleet.enrol(name, hardware_class, ring, record)
        device.disk.held = before.files


def _let_the_weather_in(fleet: Fleet, spec: SimulationSpec) -> None:
    rng = random.Random(f"reach:{spec.seed}")  # noqa: S311
    chosen = habits(spec.devices, spec.offline, rng)
    for device, habit in zip(fleet.devices.values(), chosen, strict=True):
        reach, seconds = Reachability.at_the_start(habit, rng)
        if reach.online:
            fleet.agenda.after(rng.random(), device.connect)
        if math.isfinite(seconds):
            fleet.agenda.after(seconds, _change, fleet, device, reach)
        for per_day, act in (
            (spec.power_cuts_per_day, _cut),
            (spec.clock_steps_per_day, _step_clock),
        ):
            if per_day:
                seconds = rng.expovariate(per_day / 86_400)
                fleet.agenda.after(seconds, act, fleet, device, reach, per_day)


def _change(fleet: Fleet, device: SimulatedDevice, reach: Reachability) -> SimulatedDevice:
    fleet.agenda.after(reach.change(), _change, fleet, device, reach)
    if reach.online:
        device.connect()
    else:
        device.drop_link()
    return device


def _cut(
    fleet: Fleet, device: SimulatedDevice, reach: Reachability, per_day: float
) -> SimulatedDevice:
    fleet.agenda.after(fleet.rng.expovariate(per_day / 86_400), _cut, fleet, device, reach, per_day)
    device.power_cut()
    fleet.agenda.after(2 * fleet.around.timing.boot_seconds, _back, device, reach)
    return device


def _back(device: SimulatedDevice, reach: Reachability) -> SimulatedDevice:
    if reach.online:
        device.connect()
    return device


def _step_clock(
    fleet: Fleet, device: SimulatedDevice, reach: Reachability, per_day: float
) -> SimulatedDevice:
    again = fleet.rng.expovariate(per_day / 86_400)
    fleet.agenda.after(again, _step_clock, fleet, device, reach, per_day)
    if device.skew_seconds:
        device.skew_seconds = 0.0
    else:
        device.skew_seconds = fleet.rng.choice(CLOCK_STEPS_SECONDS)
        fleet.agenda.after(3600.0, _set_clock, device)  # it finds a time server
    device.run(device.life, device.look, ())
    return device


def _set_clock(device: SimulatedDevice) -> SimulatedDevice:
    device.skew_seconds = 0.0
    device.run(device.life, device.look, ())
    return device


def _decide_now_and_then(fleet: Fleet, spec: SimulationSpec) -> object:
    """Some decisions wait for the clock alone, and what was lost on the way is said again."""
    fleet.network.assert_retained()
    fleet.agenda.after(WATCH_EVERY_SECONDS, _decide_now_and_then, fleet, spec)
    fleet.reconcile_soon()
    return fleet.controller


class _RingSizes:
    """How many devices of a class carry the labels of a ring, counted once."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._found: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}

    def of(self, hardware_class: str, ring: Mapping[str, str]) -> int:
        key = (hardware_class, tuple(sorted(ring.items())))
        if key not in self._found:
            self._found[key] = sum(
                ring.items() <= entry.labels.items()
                for entry in self._fleet.controller.members[hardware_class]
            )
        return self._found[key]


def _run(
    fleet: Fleet,
    spec: SimulationSpec,
    plan: Plan,
    release: SimulatedRelease,
    exposure: Exposure,
) -> None:
    """An hour at a time, until the days are over or nothing more will come of it."""
    ends = exposure.begins + spec.days * 86_400
    while fleet.agenda.now < ends:
        hour = min(ends, fleet.agenda.now + WATCH_EVERY_SECONDS)
        while fleet.agenda.step(hour) is not OVER:
            pass
        phase = fleet.controller.rollouts[plan.rollout].rollout.phase
        if phase is Phase.COMPLETED and len(exposure.good) >= SETTLED_SHARE * spec.devices:
            return
        if phase is Phase.HALTED and not _touched(fleet, release):
            return


def _touched(fleet: Fleet, release: SimulatedRelease) -> bool:
    """Whether any device still has it as its candidate, or serves it. Those that it has taken off
    the air never hear of anything again."""
    return any(
        device.state.active is not None
        and device.state.active.digest == release.digest
        and not device.muted
        for device in fleet.devices.values()
    )


def _running(fleet: Fleet, release: SimulatedRelease) -> int:
    return sum(device.work.serving == release.digest for device in fleet.devices.values())
