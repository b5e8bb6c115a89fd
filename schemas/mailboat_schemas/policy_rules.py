"""Rules that say when a device may switch, and how far behind it may be: as written, and as they
apply to one device. Pure.

A list of rules, each for the devices that its selector names. For every field the first rule that
names the device and says something about it counts, so the particular stands before the general.
Integers and text only: signed metadata can hold no other.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mailboat_schemas.drills import EVERY_DAYS_MAX
from mailboat_schemas.maintenance import WINDOWS_MAX, ZONE_LABEL, Window
from mailboat_schemas.selectors import KEYS, Selector, SelectorInvalid, Subject, parse

RULES_MAX = 64  # of a class, in its manifest
DOCUMENT_RULES_MAX = 32  # of one Policy
DEVICES_CHARS_MAX = 500
DAYS_BETWEEN_MAX = 366
HOLD_CHARS_MAX = 256
# What a device knows of itself, connected or not. The other keys are the controller's knowledge.
SELECTOR_KEYS = frozenset({"class", "site", "device"})

Download = Literal["in-window", "anytime"]
Enforce = Literal["report", "warn", "stop"]
GRACE_HOURS = 72  # a weekend, and a night for the rollout to come
GRACE_HOURS_MAX = 24 * 365


def _selector_of_devices(text: str) -> str:
    try:
        selector = parse(text)
    except SelectorInvalid as error:
        raise ValueError(error.what) from None
    for each in selector.requirements:
        if each.key in KEYS - SELECTOR_KEYS:
            raise ValueError(f"{each.key!r} is not known on a device; use class, site, or labels")
    return text


class Staleness(BaseModel):
    """How far behind a device may be before it is reported as such, and what is done about it.

    ``report`` tells people alone; ``warn`` marks every answer besides; ``stop`` warns, and once the
    grace is over the model is served no more until something newer can be.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    minor_versions_behind_max: int | None = Field(default=None, ge=0, le=1000)
    security_within_hours: int | None = Field(default=None, ge=1, le=24 * 365)
    enforce: Enforce = "report"
    grace_hours: int = Field(
        default=GRACE_HOURS,
        ge=0,
        le=GRACE_HOURS_MAX,
        description="before `stop` stops, from when the device found itself behind",
    )


NO_BOUND = Staleness()


class PolicyRule(BaseModel):
    """For the devices that a selector names. A field left out says nothing."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    devices: Annotated[str, AfterValidator(_selector_of_devices)] = Field(
        default="", max_length=DEVICES_CHARS_MAX, description="a selector; empty: all"
    )
    windows: tuple[Window, ...] | None = Field(
        default=None,
        max_length=WINDOWS_MAX,
        description="when a device may switch; an empty list: at any time",
    )
    download: Download | None = Field(
        default=None, description="anytime: fetched before a window opens"
    )
    days_between: int | None = Field(
        default=None, ge=0, le=DAYS_BETWEEN_MAX, description="two switches of a model, at least"
    )
    staleness: Staleness | None = None
    metered_file_bytes_max: int | None = Field(
        default=None, ge=0, description="of a whole file over a metered link; larger ones wait"
    )
    drill_every_days: int | None = Field(
        default=None,
        ge=0,
        le=EVERY_DAYS_MAX,
        description="a rollback drill of each model, in an open window; 0: none by itself",
    )
    hold: str | None = Field(
        default=None,
        max_length=HOLD_CHARS_MAX,
        description="why nothing new is installed; empty: no hold, whatever later rules say",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRange:
    """What one signed policy goes together with; an empty range takes every version."""

    title: str
    models: Mapping[str, str]  # by model
    config: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """As they apply to one device. Without any, it may always."""

    windows: tuple[Window, ...] = ()
    own_zone: str = ""
    download: Download = "in-window"
    days_between: int = 0
    staleness: Staleness = NO_BOUND
    metered_file_bytes_max: int | None = None
    drill_every_days: int = 0  # none by itself
    hold: str = ""  # why nothing new is installed
    lacking: str = ""  # a signed policy that has not come, or cannot be read: no window is open

    @property
    def fetches_ahead(self) -> bool:
        """Whether files may come before a window opens."""
        return self.download == "anytime"


NO_RULES = Rules()


def rules_for(
    rules: Iterable[PolicyRule],
    *,
    device: str,
    hardware_class: str,
    site: str,
    labels: Mapping[str, str],
) -> Rules:
    """What applies to this device."""
    rules = tuple(rules)
    if not rules:
        return NO_RULES
    subject = Subject(device=device, hardware_class=hardware_class, site=site, labels=labels)
    mine = [rule for rule in rules if _parsed(rule.devices).matches(subject)]
    windows = next((rule.windows for rule in mine if rule.windows is not None), ())
    download: Download = next(
        (rule.download for rule in mine if rule.download is not None), "in-window"
    )
    days = next((rule.days_between for rule in mine if rule.days_between is not None), 0)
    staleness = next((rule.staleness for rule in mine if rule.staleness is not None), NO_BOUND)
    drills = (r.drill_every_days for r in mine if r.drill_every_days is not None)
    whole = (each for rule in mine if (each := rule.metered_file_bytes_max) is not None)
    return Rules(
        metered_file_bytes_max=next(whole, None),
        windows=windows,
        own_zone=labels.get(ZONE_LABEL, ""),
        download=download,
        days_between=days,
        staleness=staleness,
        drill_every_days=next(drills, 0),
        hold=next((rule.hold for rule in mine if rule.hold is not None), ""),
    )


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Selector:
    return parse(text)
