"""What ``agent.toml`` says of degraded answers: other endpoints, fallbacks, and pressure."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from mailboat_schemas.documents.degraded_policy import FallbackOutput
from mailboat_schemas.documents.document import SizeBytes
from mailboat_schemas.names import Label, ModelName

ENDPOINTS_MAX = 8
FALLBACKS_MAX = 64

# Plain HTTP goes to this host alone: whatever encrypts it further is the operator's.
# No user and no query: what is secret does not stand in this file.
EndpointUrl = Annotated[
    str,
    StringConstraints(
        max_length=512,
        pattern=r"^(https://[^\s@?#]+|http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?(/[^\s@?#]*)?)$",
    ),
]


class Kind(StrEnum):
    NEIGHBOUR = "neighbour"  # an agent at the same site; asked before any other
    REMOTE = "remote"


class Why(StrEnum):
    """What makes a device ask elsewhere."""

    FAILURE = "failure"  # nothing serves, or the release's worker fails
    BUSY = "busy"  # its queue is full
    LOW_CONFIDENCE = "low-confidence"


class _Setting(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RemoteEndpoint(_Setting):
    """Another server of the Open Inference Protocol. Only the models it names are sent to it."""

    name: Label
    url: EndpointUrl
    kind: Kind = Kind.REMOTE
    models: tuple[ModelName, ...] = Field(min_length=1, max_length=64)
    when: tuple[Why, ...] = Field(default=(Why.FAILURE,), min_length=1, max_length=3)
    ca: Path | None = Field(default=None, description="of its certificate; None: the system's")
    certificate: Path | None = None
    key: Path | None = None
    timeout_seconds: float = Field(default=2, gt=0, le=60)
    requests_per_minute: float = Field(default=60, gt=0, le=60_000)
    payload_bytes_max: SizeBytes = Field(default=1 << 20, ge=1 << 10, le=16 << 20)

    @model_validator(mode="after")
    def _certificate_with_its_key(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("'certificate' and 'key' come together")
        return self

    def below(self, directory: Path) -> Self:
        """With its paths relative to the directory of the file."""
        paths = {name: getattr(self, name) for name in ("ca", "certificate", "key")}
        given = {name: directory / path for name, path in paths.items() if path is not None}
        return self.model_copy(update=given)


class LocalFallback(_Setting):
    """Of one model, when no release of it serves: another model of this device, or a constant."""

    model: ModelName
    use_model: ModelName | None = Field(default=None, description="with the same interface")
    outputs: tuple[FallbackOutput, ...] = Field(default=(), max_length=64)
    on_failure: bool = Field(default=False, description="also while its worker fails")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.use_model is None) == (not self.outputs):
            raise ValueError("a fallback has either 'use_model' or 'outputs'")
        if self.use_model == self.model:
            raise ValueError("a model cannot be its own fallback")
        return self


class PressureSetting(_Setting):
    """What is too hot or too little power here. Nothing is read that no bound is set for."""

    celsius_max: float | None = Field(default=None, gt=0, le=150, description="of the hottest zone")
    celsius_severe: float | None = Field(default=None, gt=0, le=150)
    battery_percent_min: float | None = Field(default=None, ge=0, le=100)
    battery_percent_severe: float | None = Field(default=None, ge=0, le=100)
    check_seconds: float = Field(default=5, ge=1, le=3600)
    smaller_models: dict[ModelName, ModelName] = Field(
        default_factory=dict, max_length=64, description="asked instead, when it is severe"
    )

    @property
    def watches(self) -> bool:
        return any(
            bound is not None
            for bound in (
                self.celsius_max,
                self.celsius_severe,
                self.battery_percent_min,
                self.battery_percent_severe,
            )
        )
