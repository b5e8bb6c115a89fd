"""Planted bugs of what people sign beside releases: policy, config, drills. See `mutants`."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest import mock

from mailboat_agent.overlays import wanted
from mailboat_agent.update.drill import Target
from mailboat_controller.simulate import drilling, rules_and_config, signed_documents
from mailboat_controller.simulate.disk import Disk
from mailboat_controller.simulate.drilling import Drilling
from mailboat_schemas import eligibility, overlays, staleness, switch_timing
from mailboat_schemas.overlays import ConfigChoice
from mailboat_schemas.plan import Plan
from mailboat_schemas.policy_rules import Staleness, rules_for

Plant = tuple[object, str, Any]


def _always_open(*_: Any, **__: Any) -> tuple[bool, str]:
    return True, "planted"


def _by_utc(windows: Any, own_zone: str, now: Any, real: Any = switch_timing.opening) -> Any:
    del own_zone
    return real(windows, "", now)


def _a_day_early(rules: Any, switched_at: int, real: Any = switch_timing.cadence_opens) -> Any:
    return real(rules, switched_at) - timedelta(days=1)


def _last_rule_first(rules: Any, real: Any = rules_for, **whom: Any) -> Any:
    return real(tuple(reversed(tuple(rules))), **whom)


def _of_the_other_class(role: str, *, hardware_class: str, site: str, device: str) -> Any:
    other = {"kiosk": "gate", "gate": "kiosk"}[hardware_class]
    return overlays.places_of(role, hardware_class=other, site=site, device=device)


def _takes_whatever_is_signed(config: Any, *_: Any) -> ConfigChoice:
    return ConfigChoice(in_force=config)


def _by_no_ranges(*told: Any, real: Any = overlays.choose) -> ConfigChoice:
    *others, _ = told
    found: ConfigChoice = real(*others)
    return found


def _by_no_ranges_either(*told: Any, real: Any = overlays.goes_with) -> Any:
    *others, _ = told
    return real(*others)


def _one_more_behind(bound: Staleness, *told: Any, real: Any = staleness._broken) -> Any:
    most = bound.minor_versions_behind_max or 0
    wider = bound.model_copy(update={"minor_versions_behind_max": most + 1})
    return real(wider, *told)


def _switches_users(self: Drilling, real: Any = Drilling.look) -> None:
    real(self)
    if self.running is not None:
        self._device.work.serving = self.running.digest


def _looks_at_no_file(self: Drilling, *told: Any, real: Any = Drilling._over) -> None:
    with mock.patch.object(Disk, "is_whole", return_value=True):
        real(self, *told)


def _drills_the_withdrawn(situation: Any, real: Any = drilling.drill_target) -> Target:
    found: Target = real(situation)
    previous = situation.state.previous
    if found.is_failure and previous is not None:
        return replace(found, release=previous, is_failure=False)
    return found


def mutants_of_rules() -> Iterator[tuple[str, list[Plant]]]:
    """Of stories in which people sign config and policy."""
    yield "a window is ignored", [(eligibility, "in_window", _always_open)]
    yield "a window is read by UTC", [(switch_timing, "opening", _by_utc)]
    yield "cadence is off by one day", [(switch_timing, "cadence_opens", _a_day_early)]
    yield "the cadence is ignored", [(eligibility, "in_cadence", _always_open)]
    yield (
        "the emergency lane is ignored",
        [(Plan, "is_emergency", property(lambda _: False))],
    )
    yield (
        "every plan is an emergency",
        [(Plan, "is_emergency", property(lambda _: True))],
    )
    yield (
        "the rules of a class stand before those of a site",
        [(rules_and_config, "rules_for", _last_rule_first)],
    )
    yield (
        "an overlay of another class is taken",
        [(signed_documents, "places_of", _of_the_other_class)],
    )
    yield (
        "config of a class stands over that of a device",
        [(overlays, "MERGE_ORDER", tuple(reversed(overlays.MERGE_ORDER)))],
    )
    yield (
        "a config is taken that does not go with what runs",
        [(rules_and_config, "choose", _takes_whatever_is_signed)],
    )
    yield (
        "a config is taken that its policy is not for",
        [(rules_and_config, "choose", _by_no_ranges)],
    )
    yield (
        "a release is installed that its policy is not for",
        [(eligibility, "goes_with", _by_no_ranges_either)],
    )
    yield "an older config is taken", [(wanted, "is_older", lambda *_: False)]
    yield "a bound of staleness is one too wide", [(staleness, "_broken", _one_more_behind)]
    yield "a drill begins outside of the windows", [(drilling, "in_window", _always_open)]


def mutants_of_drills() -> Iterator[tuple[str, list[Plant]]]:
    yield "a drill switches users", [(Drilling, "look", _switches_users)]
    yield "a drill passes on damaged files", [(Drilling, "_over", _looks_at_no_file)]
    yield (
        "a drill is of a release that was withdrawn",
        [(drilling, "drill_target", _drills_the_withdrawn)],
    )
