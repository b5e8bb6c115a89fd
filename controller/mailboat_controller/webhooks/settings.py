"""The ``[webhooks]`` section."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

HostName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9.:-]{1,253}$")]


class WebhookSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    http_hosts: tuple[HostName, ...] = Field(
        default=(), max_length=32, description="that may be called without TLS, besides loopback"
    )
    ca: Path | None = Field(
        default=None, description="CA certificates of receivers; empty: the system's"
    )

    def beside(self, directory: Path) -> "WebhookSettings":
        """Relative paths are relative to the settings file."""
        return self.model_copy(update={"ca": None if self.ca is None else directory / self.ca})
