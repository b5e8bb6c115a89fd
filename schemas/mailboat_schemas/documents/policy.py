"""Policy: when devices may switch and how far behind they may be, as people write and sign it.

One document for a class, and where it must differ one for a site, whose rules come first. The rules
are those of `policy_rules`, with spelling mistakes refused.
"""

from typing import Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from mailboat_schemas.documents.document import SizeBytes, Strict
from mailboat_schemas.documents.fleet_document import SIGNED, FleetDocument
from mailboat_schemas.maintenance import WINDOWS_MAX, Window, zone_named
from mailboat_schemas.policy_rules import DOCUMENT_RULES_MAX, PolicyRule, Staleness

_STRICT = ConfigDict(extra="forbid", frozen=True)


class WrittenWindow(Window):
    model_config = _STRICT

    @field_validator("zone")
    @classmethod
    def _is_known(cls, name: str, info: ValidationInfo) -> str:
        """Asked of the writer alone: a reader may have other zones, and keeps their windows
        closed, not the whole policy."""
        if name and info.context != SIGNED and zone_named(name) is None:
            raise ValueError(f"there is no time zone {name!r}; write one such as Europe/Berlin")
        return name


class WrittenStaleness(Staleness):
    model_config = _STRICT


class WrittenRule(PolicyRule):
    model_config = _STRICT

    windows: tuple[WrittenWindow, ...] | None = Field(
        default=None,
        max_length=WINDOWS_MAX,
        description="when a device may switch; an empty list: at any time",
    )
    staleness: WrittenStaleness | None = None
    metered_file_bytes_max: SizeBytes | None = Field(
        default=None, description="of a whole file over a metered link; larger ones wait"
    )


class PolicySpec(Strict):
    rules: tuple[WrittenRule, ...] = Field(
        min_length=1,
        max_length=DOCUMENT_RULES_MAX,
        description="for every field the first that names the device and gives it counts",
    )


class PolicyDocument(FleetDocument):
    """The signed form as well as what people write."""

    kind: Literal["Policy"]
    spec: PolicySpec
