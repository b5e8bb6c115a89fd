"""A rollout that goes wrong on its second wave, as its timeline and a device's tell it."""

from datetime import timedelta
from pathlib import Path

from controller_core import EVERYBODY, Core, plan
from enrolled_fleet import EnrolledDevice
from mailboat_controller.rollout.state import Trigger
from mailboat_schemas.events import RECOVERY_SECONDS, EventKind
from mailboat_schemas.plan import PlanWave

PILOT_THEN_ALL = (PlanWave(pilots=("dev-1",)), EVERYBODY)


def failing_rollout(directory: Path) -> Core:
    """Two releases; the second goes wrong on its second wave."""
    core = Core(directory)
    devices = [core.fleet.enrol(f"dev-{n}") for n in (1, 2, 3)]
    first = core.release("1.0.0", plan("first"))
    for device in devices:
        core.tell(device, EventKind.COMMITTED, first, version="1.0.0")
    digest = core.release("1.1.0", plan("second", *PILOT_THEN_ALL, manual_start=True))
    core.now += timedelta(seconds=10)
    core.reconciler.order(
        "second", Trigger.START, actor="operator:ada", reason="ticket 7", now=core.now
    )
    tells(core, devices[0], EventKind.COMMITTED, digest)
    tells(core, devices[1], EventKind.SOAK_STARTED, digest)
    tells(
        core,
        devices[1],
        EventKind.ROLLED_BACK,
        digest,
        serving_version="1.0.0",
        code="error_rate",
        because="5 of 20 requests failed",
        evidence={RECOVERY_SECONDS: 0.4},
    )
    tells(core, devices[0], EventKind.RETURNED, digest, serving_version="1.0.0")
    return core


def tells(core: Core, device: EnrolledDevice, kind: EventKind, digest: str, **more: object) -> None:
    """Ten seconds after what was before; a second later it is decided on."""
    core.now += timedelta(seconds=9)
    core.sequences[device.name] = core.sequences.get(device.name, 0) + 1
    about = {"digest": digest, "version": "1.1.0", **more}
    core.fleet.take(device.tells(core.sequences[device.name], kind, **about), now=core.now)
    core.now += timedelta(seconds=1)
    core.run()
