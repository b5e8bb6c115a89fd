"""How a device takes a manifest: as `Intake.take` and `Manifest.take`, with names of keys for
signatures."""

from dataclasses import replace
from typing import TYPE_CHECKING

from mailboat_agent.trust.counter import Counter
from mailboat_agent.update.time_floor import BUILT_AT, stands_before
from mailboat_controller.simulate.told import AUTHORITY, Manifest, Roles
from mailboat_schemas.events import EventKind

if TYPE_CHECKING:
    from mailboat_controller.simulate.device import SimulatedDevice


def take(device: "SimulatedDevice", manifest: Manifest) -> bool:
    """Whether there is a new wish to go by. Raises PowerCut."""
    if stands_before(device.now, max(device.record.time_floor, BUILT_AT)):
        device.untaken = manifest
        return False
    device.untaken = None
    refused = device.refuses(manifest)
    if refused:
        device.tell_trouble(EventKind.MANIFEST_REFUSED, _refused_id(manifest, refused))
        return False
    if device.clock_seconds >= manifest.expires:
        device.untaken = manifest
        device.tell_trouble(EventKind.TRUST_STALE, f"trust_stale:{int(manifest.expires)}")
        return False
    if manifest.roles.version > device.roles.version:
        # Trust metadata stands on its own: a withdrawal may come with a refused wish.
        device.moment()
        device.roles = manifest.roles
        device.work.bar_what_is_withdrawn()
    counter = Counter(manifest.counter, manifest.director)
    held = Counter(device.record.manifest_counter, device.record.director_keyid)
    if counter.is_behind(held):
        device.tell_trouble(EventKind.MANIFEST_REFUSED, _refused_id(manifest, "behind"))
        return False
    if device.manifest is not None and counter == held:
        # The same wish with a timestamp that was signed again.
        if manifest.expires > device.manifest.expires:
            device.manifest = manifest
        return False
    device.moment()
    device.manifest = manifest
    device.save(
        replace(
            device.record,
            manifest_counter=counter.value,
            director_keyid=counter.director_keyid,
            time_floor=max(device.record.time_floor, manifest.roles.issued, BUILT_AT),
        )
    )
    return True


def refusal(hardware_class: str, held: Roles, manifest: Manifest) -> str:
    """What is wrong with it, or nothing: verified before it is read."""
    if manifest.roles.signer != AUTHORITY:
        return "signature"
    if manifest.roles.version < held.version:
        return "rollback"
    if manifest.director != manifest.roles.director:
        return "director"
    if manifest.hardware_class != hardware_class:
        return "class"
    return ""


def _refused_id(manifest: Manifest, refused: str) -> str:
    return f"manifest_refused:{manifest.director}.{manifest.counter}:{refused}"
