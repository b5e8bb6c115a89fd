"""The config of one device: what holds for its class, its site and itself, merged. Pure.

Merging is RFC 7386 (JSON Merge Patch): objects are merged name by name, anything else replaces,
null takes away. Class first, device last, so that the same documents give the same values and the
same digest everywhere.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion
from packaging.version import Version as PackagingVersion

from mailboat_schemas.documents.config import (
    VALUES_BYTES_MAX,
    ConfigDocument,
    problem_with_values,
)
from mailboat_schemas.documents.fleet_document import Level, canonical_json
from mailboat_schemas.documents.release import Compatibility
from mailboat_schemas.errors import ReleaseRejected
from mailboat_schemas.fleet_documents import Listed, Place
from mailboat_schemas.policy_rules import PolicyRange

_RANGES_REMEMBERED = 1024  # pairs of a version and a range; a fleet asks for the same ones
MERGE_ORDER = (Level.CLASS, Level.SITE, Level.DEVICE)


class ConfigRefused(ReleaseRejected):
    """Signed config that this device does not apply; what it has stays in force."""

    code = "E-CONFIG-REFUSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One document that holds for a device. ``content`` is its canonical bytes."""

    listed: Listed
    document: ConfigDocument
    content: bytes

    @property
    def title(self) -> str:
        about = self.document.metadata
        return f"{about.name} {about.version}"


@dataclass(frozen=True, kw_only=True)
class EffectiveConfig:
    """``layers`` in the order they were merged; none: nobody signed a config for this device."""

    layers: tuple[Layer, ...] = ()

    @cached_property
    def values(self) -> Mapping[str, Any]:
        merged: Any = {}
        for layer in self.layers:
            merged = merge_patch(merged, layer.document.spec.values)
        return dict(merged)

    @cached_property
    def content(self) -> bytes:
        """The values as canonical JSON."""
        return canonical_json(self.values)

    @cached_property
    def digest(self) -> str:
        """sha256 of the values' canonical JSON, in hex."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def titles(self) -> str:
        return ", ".join(layer.title for layer in self.layers) or "no config"

    def has_the_layers_of(self, other: "EffectiveConfig") -> bool:
        return [each.listed for each in self.layers] == [each.listed for each in other.layers]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChoice:
    """What is in force on a device, and what waits because it does not go with what runs.

    ``because`` says why it waits, or why what is in force should not be. ``kept_by`` are the models
    whose running release it does not go with; the empty name stands for the policy.
    """

    in_force: EffectiveConfig
    waiting: EffectiveConfig | None = None
    because: str = ""
    kept_by: frozenset[str] = frozenset()


NO_CONFIG = ConfigChoice(in_force=EffectiveConfig())


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A release that serves, with the ranges it was signed with."""

    model: str
    version: str
    compatibility: Compatibility


def places_of(role: str, *, hardware_class: str, site: str, device: str) -> tuple[Place, ...]:
    """Whose documents hold for a device, in merge order."""
    targets = {Level.CLASS: hardware_class, Level.SITE: site, Level.DEVICE: device}
    return tuple(Place(role, level, targets[level]) for level in MERGE_ORDER)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2. Neither argument is changed; depth is bounded by the documents'."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def effective(layers: Iterable[Layer]) -> EffectiveConfig:
    """
    Raises:
        ConfigRefused: merged, the values are over the bounds of one document.
    """
    order = {level: index for index, level in enumerate(MERGE_ORDER)}
    found = EffectiveConfig(
        layers=tuple(sorted(layers, key=lambda layer: order[layer.listed.place.level]))
    )
    problem = problem_with_values(dict(found.values))
    if not problem and len(found.content) > VALUES_BYTES_MAX:
        problem = f"{len(found.content)} bytes, at most {VALUES_BYTES_MAX}"
    if problem:
        raise ConfigRefused(
            f"Merged, {found.titles} are beyond the bounds of a config: {problem}.",
            next_step="make one of them smaller and sign it again.",
        )
    return found


def misfit(
    model: str, version: str, compatibility: Compatibility, config: EffectiveConfig
) -> str | None:
    """Why a release and a config do not go together, or None.

    Every document of the config must be in the release's range, and the release in the range of
    every document that names its model.
    """
    if compatibility.config and not config.layers:
        return f"{model} {version} needs config {compatibility.config}, and there is none"
    for layer in config.layers:
        if not in_range(layer.document.metadata.version, compatibility.config):
            return f"config {layer.title} is not {compatibility.config}, as {model} {version} needs"
        wanted = layer.document.spec.compatible.models.get(model, "")
        if not in_range(version, wanted):
            return f"config {layer.title} is for {model} {wanted}, not for {version}"
    return None


def policy_misfit(
    config: EffectiveConfig, policy_version: str | None, ranges: Sequence[PolicyRange] = ()
) -> str | None:
    """Why a config does not go with the policies in force, or None."""
    for layer in config.layers:
        for each in ranges:
            if not in_range(layer.document.metadata.version, each.config):
                return f"config {layer.title} is not {each.config}, as policy {each.title} needs"
        wanted = layer.document.spec.compatible.policy
        if wanted and policy_version is None:
            return f"config {layer.title} needs policy {wanted}, and there is none"
        if wanted and policy_version is not None and not in_range(policy_version, wanted):
            return f"config {layer.title} needs policy {wanted}, not {policy_version}"
    return None


@lru_cache(maxsize=_RANGES_REMEMBERED)
def in_range(version: str, wanted: str) -> bool:
    """An empty range takes every version; a version that is none to Python's rules, no range."""
    if not wanted:
        return True
    try:
        return SpecifierSet(wanted).contains(PackagingVersion(version), prereleases=True)
    except InvalidVersion:
        return False


def choose(
    wanted: EffectiveConfig,
    in_force: EffectiveConfig,
    earlier: Sequence[EffectiveConfig],
    running: Sequence[Running],
    policy_version: str | None = None,
    ranges: Sequence[PolicyRange] = (),
) -> ConfigChoice:
    """Which config goes with everything that runs: the newest, else what is in force, else what
    was before, which is how a config comes back with the model that it went with.

    ``earlier`` are those that were in force before, the newest first. Where none goes with what
    runs, what is in force stays: nothing is taken away from what serves.
    """
    kept_by = _misfits(wanted, running, policy_version, ranges)
    if not kept_by:
        return ConfigChoice(in_force=wanted)
    because = next(iter(kept_by.values()))
    fits = (
        each for each in (in_force, *earlier) if not _misfits(each, running, policy_version, ranges)
    )
    chosen = next(fits, in_force)
    return ConfigChoice(
        in_force=chosen,
        waiting=None if wanted.has_the_layers_of(chosen) else wanted,
        because=because,
        kept_by=frozenset(kept_by),
    )


def goes_with(
    choice: ConfigChoice,
    model: str,
    version: str,
    compatibility: Compatibility,
    policy_version: str | None,
    ranges: Sequence[PolicyRange] = (),
) -> tuple[bool, str, str]:
    """Whether a release may be installed beside this config and policy: passed, why, code.

    ``ranges`` are of the policies in force, which say from their side what they are for.

    A config that waits for nothing but this model's next release comes with it, so the release is
    judged by that one too.
    """
    policy = compatibility.policy
    if policy and (policy_version is None or not in_range(policy_version, policy)):
        has = "there is none" if policy_version is None else f"it is {policy_version}"
        return False, f"{model} {version} needs policy {policy}, and {has}", "E-POLICY-RANGE"
    for each in ranges:
        wanted = each.models.get(model, "")
        if not in_range(version, wanted):
            because = f"policy {each.title} is for {model} {wanted}, not for {version}"
            return False, because, "E-POLICY-RANGE"
    problem = misfit(model, version, compatibility, choice.in_force)
    if problem is None:
        return True, f"goes with {choice.in_force.titles}", ""
    waiting = choice.waiting
    if waiting is not None and choice.kept_by <= {model}:
        later = misfit(model, version, compatibility, waiting)
        if later is None:
            return True, f"goes with {waiting.titles}, which waits for it", ""
        problem = later
    return False, problem, "E-CONFIG-RANGE"


def _misfits(
    config: EffectiveConfig,
    running: Sequence[Running],
    policy_version: str | None,
    ranges: Sequence[PolicyRange],
) -> dict[str, str]:
    """Reasons by model, the policy's under the empty name."""
    found = {}
    for each in running:
        problem = misfit(each.model, each.version, each.compatibility, config)
        if problem is not None:
            found[each.model] = problem
    problem = policy_misfit(config, policy_version, ranges)
    return found if problem is None else {**found, "": problem}
