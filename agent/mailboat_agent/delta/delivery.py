"""How the files of one release came: summed up here, told with ``trial_started``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mailboat_agent.artifacts.arrivals import Arrivals
from mailboat_agent.delta.failure import DeltaFailed
from mailboat_schemas.deltas import DELIVERY, Delivery, DeliveryOutcome


@dataclass(frozen=True, slots=True)
class FailedDelta:
    """One that came to nothing, for the event about it."""

    target: str
    base: str | None
    patch: str
    error: DeltaFailed


@dataclass(slots=True)
class Tally:
    """Of one release, over all attempts to fetch it in this process. Sizes in bytes."""

    fetched_bytes: int = 0
    made_bytes: int = 0
    from_base_bytes: int = 0  # of those, what was made from a file that was here
    failed: list[FailedDelta] = field(default_factory=list)
    arrivals: Arrivals = field(default_factory=Arrivals)  # what came from where

    def replace_failed(self, failed: FailedDelta) -> None:
        """Each patch counts once, however often it is tried."""
        self.forget_failed(failed.patch)
        self.failed.append(failed)

    def forget_failed(self, patch: str) -> None:
        """It came after all."""
        self.failed = [each for each in self.failed if each.patch != patch]

    def evidence(self) -> Mapping[str, Any]:
        """Nothing if nothing was fetched: it was here already, or this process does not know."""
        if not (self.fetched_bytes or self.arrivals.source_bytes):
            return {}
        # A whole file that came compressed is no delta, and its savings can be read off the sizes.
        outcome = DeliveryOutcome.DELTA if self.from_base_bytes else DeliveryOutcome.FULL
        if self.failed:
            outcome = DeliveryOutcome.DELTA_FAILED_THEN_FULL
        delivery = Delivery(
            outcome=outcome,
            fetched_bytes=self.fetched_bytes,
            made_bytes=self.made_bytes,
            reasons=tuple(str(each.error.reason) for each in self.failed),
            source_bytes=dict(self.arrivals.source_bytes),
        )
        return {DELIVERY: delivery.model_dump(mode="json")}
