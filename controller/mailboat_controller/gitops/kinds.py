"""The documents that a directory may hold, and the order in which they are applied."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from mailboat_controller.sites.fields import CacheUrl, Host, SiteFields
from mailboat_controller.sites.policy import Policy
from mailboat_schemas import selectors
from mailboat_schemas.device_orders import OVERRIDE_REASON_CHARS_MAX
from mailboat_schemas.documents.document import Document, Strict
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.documents.rollout import Rollout
from mailboat_schemas.names import Label, ModelName, Version

PRINTED = r"^[^\x00]*$"  # as the API says of every text: PostgreSQL takes no zero character
# What a device is, not how it does: with these, what is declared would undo itself.
_PASSING_KEYS = frozenset({"presence", "running", "held", "pinned", "stale", "condition"})

Selector = Annotated[
    str, StringConstraints(min_length=1, max_length=selectors.SELECTOR_CHARS_MAX, pattern=PRINTED)
]
Why = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=OVERRIDE_REASON_CHARS_MAX,
        pattern=PRINTED,
    ),
]


class NamedMetadata(Strict):
    name: Label
    description: str = Field(default="", max_length=1000)


class SiteSpec(SiteFields):
    """With `broker_host`, by which the site's devices reach its broker."""

    broker_host: Host
    cache_url: CacheUrl = ""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.policy is not Policy.EXPECTED and (self.windows or self.expected_until):
            raise ValueError("'windows' and 'expected_until' are of policy 'expected'")
        return self


class Site(Document):
    kind: Literal["Site"]
    metadata: NamedMetadata
    spec: SiteSpec


class _DeviceOrder(Strict):
    """For every device that the selector names, those that come later among them."""

    selector: Selector = Field(description="by class, site, device and labels")
    reason: Why
    until: AwareDatetime = Field(description="it ends by itself then")

    @model_validator(mode="after")
    def _names_devices_by_what_they_are(self) -> Self:
        try:
            found = selectors.parse(self.selector)
        except selectors.SelectorInvalid as error:
            raise ValueError(error.what) from error
        passing = sorted({each.key for each in found.requirements} & _PASSING_KEYS)
        if passing:
            raise ValueError(
                f"the selector asks for {passing[0]!r}, which passes; name devices by class, "
                "site, device or label"
            )
        if not found.requirements:
            raise ValueError("the selector names every device; write which")
        return self


class HoldSpec(_DeviceOrder):
    model: ModelName | None = Field(default=None, description="left out: every model")


class PinSpec(_DeviceOrder):
    model: ModelName
    version: Version


class Hold(Document):
    """Lets nothing new be installed."""

    kind: Literal["Hold"]
    metadata: NamedMetadata
    spec: HoldSpec


class Pin(Document):
    """Has devices run one approved release of a model and no other."""

    kind: Literal["Pin"]
    metadata: NamedMetadata
    spec: PinSpec


Declared = HardwareClass | Site | Hold | Pin | Rollout

# In the order of application: what others name comes first.
KINDS: Mapping[str, type[Document]] = MappingProxyType(
    {"HardwareClass": HardwareClass, "Site": Site, "Hold": Hold, "Pin": Pin, "Rollout": Rollout}
)
ORDER = tuple(KINDS)


def rank(kind: str) -> int:
    return ORDER.index(kind)
