"""Which policy rules apply to this device, by what it has accepted, and what they make of it."""

from dataclasses import replace
from datetime import datetime
from weakref import WeakKeyDictionary

from mailboat_agent.facts import Device
from mailboat_agent.overlays.documents import FleetDocuments, same
from mailboat_agent.trust.manifest import Manifest
from mailboat_schemas.policy_rules import Rules, rules_for
from mailboat_schemas.signed_policy import SignedPolicy, signed_policy
from mailboat_schemas.staleness import Behind, approved_releases, how_far_behind

# By manifest, as long as nothing new comes: it is asked for at every look.
_read: WeakKeyDictionary[Manifest, tuple[tuple[object, ...], SignedPolicy]] = WeakKeyDictionary()


def policy_of(device: Device, manifest: Manifest) -> SignedPolicy:
    """The policies that were signed for this device's class and site."""
    documents = FleetDocuments(manifest, device)
    token = documents.token()
    known = _read.get(manifest)
    if known is None or not same(known[0], token):
        found = signed_policy(
            manifest.view,
            documents.brought(),
            hardware_class=device.hardware_class,
            site=device.site,
        )
        known = _read[manifest] = (token, found)
    return known[1]


def device_rules(device: Device, manifest: Manifest) -> Rules:
    desired, policy = manifest.desired, policy_of(device, manifest)
    found = rules_for(
        policy.before(() if desired is None else desired.rules),
        device=device.device,
        hardware_class=device.hardware_class,
        site=device.site,
        labels=device.labels,
    )
    return replace(found, lacking=policy.problem) if policy.problem else found


def behind(device: Device, manifest: Manifest, model: str, serving: str, now: datetime) -> Behind:
    """How far what serves is behind the releases that the device knows to be approved."""
    return how_far_behind(
        model,
        serving,
        approved_releases(manifest.view, model),
        device_rules(device, manifest).staleness,
        hardware_class=device.hardware_class,
        now=now,
    )
