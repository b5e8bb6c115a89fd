"""What the policies that a device has been brought say of it, read without the rules of
`mailboat_schemas`."""

import json
from functools import cache
from typing import Any

from mailboat_controller.simulate.device import SimulatedDevice


@cache
def read(content: bytes) -> Any:
    return json.loads(content)


def policy_of(device: SimulatedDevice) -> list[Any] | None:
    """The rules in order, the site's first; None: a document that is listed has not come."""
    specs = _specs_of(device)
    return None if specs is None else [rule for spec in specs for rule in spec["rules"]]


def _specs_of(device: SimulatedDevice) -> list[Any] | None:
    listed = {p.path: one.digest for p, one in device.roles.documents.listed.items()}
    brought = {} if device.manifest is None else device.manifest.brought.documents
    specs: list[Any] = []
    for level, target in (("site", device.site), ("class", device.hardware_class)):
        digest = listed.get(f"policy/{level}.{target}.json")
        if digest is not None and digest not in brought:
            return None
        if digest is not None:
            specs.append(read(brought[digest])["spec"])
    return specs


def wanted_of(device: SimulatedDevice, name: str) -> list[Any]:
    """Of what its policies are for, those that say it."""
    ranges = (spec.get("compatible", {}) for spec in _specs_of(device) or ())
    return [each[name] for each in ranges if each.get(name)]


def said(device: SimulatedDevice, rules: list[Any], name: str) -> Any:
    for rule in rules:
        label, _, value = rule.get("devices", "").partition("=")
        if (not label or device.labels.get(label) == value) and name in rule:
            return rule[name]
    return None


def newer_releases(device: SimulatedDevice, version: str) -> int:
    """How many approved ones it knows of for its class, above this one."""
    own = int(version.partition(".")[0])
    return sum(
        bool(one.standing.approved_digest)
        and int(one.standing.version.partition(".")[0]) > own
        and (one.standing.plan is None or one.standing.plan.covers(device.hardware_class))
        for one in device.roles.known.values()
    )
