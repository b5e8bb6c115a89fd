"""The ``[mlflow]`` section."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

WATCHED_MAX = 256

WatchedAlias = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f/:@]{1,128}@[A-Za-z0-9_.-]{1,128}$")
]


class MlflowSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    webhook_secret_file: Path | None = Field(
        default=None, description="what MLflow signs its webhooks with; none: they are not taken"
    )
    watch: tuple[WatchedAlias, ...] = Field(
        default=(),
        max_length=WATCHED_MAX,
        description="model@alias; others are ignored and counted",
    )

    def beside(self, directory: Path) -> "MlflowSettings":
        """Relative paths are relative to the settings file."""
        secret = self.webhook_secret_file
        path = None if secret is None else directory / secret
        return self.model_copy(update={"webhook_secret_file": path})
