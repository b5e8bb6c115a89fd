"""The ``[artifacts]`` section of the settings: where artifacts are, how long, how often checked."""

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
PRESIGNED_SECONDS_MAX = 15 * 60  # as long as an artifact token lives at most


class ArtifactSettings(BaseModel):
    """Credentials of a bucket are never here: a file of their own, the environment, or a role."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: Literal["directory", "s3"] = "directory"
    bucket: str = Field(default="", max_length=63, description="of s3")
    prefix: str = Field(default="", max_length=256, description="before every key")
    region: str = Field(default="us-east-1", min_length=1, max_length=64)
    endpoint: str = Field(default="", max_length=512, description="empty: AWS of that region")
    public_endpoint: str = Field(
        default="", max_length=512, description="as devices reach it; empty: endpoint"
    )
    allow_http: bool = Field(default=False, description="an endpoint without TLS, not on loopback")
    virtual_hosted: bool = Field(default=False, description="bucket.host/key, not host/bucket/key")
    ca_file: Path | None = Field(default=None, description="who vouches for the endpoint's TLS")
    credentials_file: Path | None = Field(
        default=None, description="AWS form; readable by us alone"
    )
    presigned_seconds: int = Field(
        default=PRESIGNED_SECONDS_MAX,
        ge=0,
        le=PRESIGNED_SECONDS_MAX,
        description="life of an address that devices are sent to; 0: never send them",
    )
    request_seconds: float = Field(default=30, gt=0, le=300, description="of one request to s3")
    grace_days: float = Field(
        default=7, ge=0, le=3650, description="how long what nobody names is kept"
    )
    garbage_hours: float = Field(
        default=1, ge=0, le=8760, description="between two collections; 0: only on command"
    )
    scrub_days: float = Field(
        default=7, ge=0, le=3650, description="between two checks of everything; 0: on command"
    )
    scrub_bytes_per_second: int = Field(default=16 << 20, ge=1 << 10, le=1 << 40)

    @model_validator(mode="after")
    def _an_s3_has_a_bucket(self) -> Self:
        if self.store == "s3" and not self.bucket:
            raise ValueError("store = 's3' needs a bucket")
        if self.prefix.startswith("/") or ".." in self.prefix.split("/"):
            raise ValueError("prefix is a plain path without .. and without a leading slash")
        for name in ("endpoint", "public_endpoint"):
            self._require_address(name, getattr(self, name))
        return self

    def _require_address(self, name: str, address: str) -> None:
        if not address:
            return
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{name} is an address such as https://s3.example")
        if parts.username or parts.password or parts.query:
            raise ValueError(f"{name} carries no credentials and no query")
        if parts.scheme == "http" and not self.allow_http and parts.hostname not in _LOOPBACK:
            raise ValueError(f"{name} without TLS needs allow_http = true")

    def beside(self, directory: Path) -> Self:
        """With its relative files relative to that directory."""
        files = {
            name: (directory / path).resolve()
            for name in ("ca_file", "credentials_file")
            if (path := getattr(self, name)) is not None
        }
        return self.model_copy(update=files)

    @property
    def grace(self) -> timedelta:
        return timedelta(days=self.grace_days)

    @property
    def scrub_every(self) -> timedelta | None:
        return timedelta(days=self.scrub_days) if self.scrub_days else None

    @property
    def presigned_life(self) -> timedelta | None:
        return timedelta(seconds=self.presigned_seconds) if self.presigned_seconds else None
