"""What a person may say of a site, but for its name."""

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from mailboat_controller.sites.policy import WINDOWS_MAX, Policy, Window
from mailboat_schemas.names import Label

BROKER_PORT = 8883
LABELS_MAX = 32

Host = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?$")
]
CacheUrl = Annotated[
    str,
    StringConstraints(pattern=r"^(?:https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/?)?$", max_length=512),
]


class SiteFields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    policy: Policy = Policy.ERROR
    expected_until: AwareDatetime | None = Field(
        default=None, description="until then a cut is expected, with policy expected"
    )
    windows: tuple[Window, ...] = Field(
        default=(), max_length=WINDOWS_MAX, description="when a cut is expected, UTC"
    )
    broker_host: Host = Field(default="", validate_default=False)
    broker_port: int = Field(default=BROKER_PORT, ge=1, le=65535)
    cache_url: CacheUrl = ""
    labels: dict[Label, Annotated[str, StringConstraints(max_length=256)]] = Field(
        default_factory=dict, max_length=LABELS_MAX
    )
