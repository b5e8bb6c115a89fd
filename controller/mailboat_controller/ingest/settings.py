"""The ``[ingest]`` and ``[retention]`` sections: who takes messages in, how many, kept how long."""

from datetime import timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mailboat_controller.ingest.flood import FloodLimits
from mailboat_controller.ingest.partition import PARTITIONS_MAX

YEARS_MAX_DAYS = 36_500


class IngestSettings(BaseModel):
    """The limits are those of one device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partitions: int = Field(
        default=0,
        ge=0,
        le=PARTITIONS_MAX,
        description="processes `mailboat ingest`; 0: `mailboat serve` takes everything in itself",
    )
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65_535 - PARTITIONS_MAX + 1,
        description="where partition 0 shows its figures, partition N at the Nth after it; 0: none",
    )
    metrics_host: str = Field(
        default="127.0.0.1", min_length=1, max_length=255, description="anybody there may read them"
    )
    messages_per_second: float = Field(default=50, gt=0, le=100_000)
    messages_burst: int = Field(default=1000, ge=1, le=1_000_000)
    bytes_per_second: float = Field(default=2 << 20, gt=0, le=1 << 30)
    bytes_burst: int = Field(default=64 << 20, ge=256 << 10, le=1 << 32)

    @property
    def flood_limits(self) -> FloodLimits:
        return FloodLimits(
            messages_per_second=self.messages_per_second,
            messages_burst=self.messages_burst,
            bytes_per_second=self.bytes_per_second,
            bytes_burst=self.bytes_burst,
        )


class RetentionSettings(BaseModel):
    """Each in days since the controller received it; a window's level since it began."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event_full_days: int = Field(
        default=400, ge=1, le=YEARS_MAX_DAYS, description="with words and evidence"
    )
    event_days: int = Field(default=1825, ge=1, le=YEARS_MAX_DAYS, description="without them")
    window_days: int = Field(
        default=30, ge=2, le=YEARS_MAX_DAYS, description="as devices sent them"
    )
    hour_days: int = Field(default=180, ge=3, le=YEARS_MAX_DAYS, description="an hour in one")
    day_days: int = Field(default=1825, ge=3, le=YEARS_MAX_DAYS, description="a day in one")

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.event_days < self.event_full_days:
            raise ValueError("event_days must not be less than event_full_days")
        if not self.window_days <= self.hour_days <= self.day_days:
            raise ValueError("window_days, hour_days and day_days must not go down")
        return self

    def span(self, name: str) -> timedelta:
        return timedelta(days=getattr(self, name))
