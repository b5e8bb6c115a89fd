"""What this device must remember of its drills: ``drills.json``, replaced whole and durably.

A record that is lost costs a drill that is made twice; its event has the same id and counts once.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mailboat_agent.atomic_file import replace_durably
from mailboat_schemas.desired import ASSIGNMENTS_MAX
from mailboat_schemas.device_orders import DRILLS_MAX
from mailboat_schemas.drills import DrillOutcome, ReportedDrill

FILE_NAME = "drills.json"
FILE_BYTES_MAX = 4 << 20
# Orders that are remembered as done, of all models: twice as many as can wait here at a time. One
# that was forgotten and still stands would be drilled again, and again.
ANSWERED_MAX = 2 * DRILLS_MAX * ASSIGNMENTS_MAX
MODELS_MAX = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillResult:
    """How one drill ended. Times in milliseconds since 1970 UTC by the device's clock."""

    order: str
    outcome: DrillOutcome
    at: int
    code: str = ""
    because: str = ""
    version: str | None = None  # of the drilled release
    digest: str | None = None
    serving_version: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDrills:
    """``begun`` is the order whose drill runs, or was cut short; ``tries`` counts its attempts."""

    last: DrillResult | None = None
    passed_at: int | None = None
    return_ms: float | None = None  # of the last that passed
    period: int | None = None  # of the schedule, the newest that was drilled in, or begun with
    every_days: int = 0  # of the schedule that this period is of
    begun: str = ""
    tries: int = 0

    def ended(self, result: DrillResult) -> "ModelDrills":
        passed = result.outcome is DrillOutcome.PASSED
        return replace(
            self,
            last=result,
            begun="",
            tries=0,
            passed_at=result.at if passed else self.passed_at,
            return_ms=result.evidence.get("return_ms") if passed else self.return_ms,
        )

    def reported(self) -> ReportedDrill | None:
        last = self.last
        if last is None:
            return None
        return ReportedDrill(
            order=last.order,
            outcome=last.outcome,
            code=last.code,
            version=last.version,
            digest=last.digest,
            at=max(0, last.at),
            return_ms=last.evidence.get("return_ms"),
            passed_at=self.passed_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillRecord:
    models: Mapping[str, ModelDrills] = field(default_factory=dict)
    answered: tuple[str, ...] = ()  # ``order:model``, oldest first

    def of(self, model: str) -> ModelDrills:
        return self.models.get(model, ModelDrills())

    def has_answered(self, order: str, model: str) -> bool:
        return f"{order}:{model}" in self.answered

    def with_model(self, model: str, drills: ModelDrills) -> "DrillRecord":
        models = {**{name: each for name, each in self.models.items() if name != model}}
        while len(models) >= MODELS_MAX:
            del models[next(iter(models))]
        return replace(self, models={**models, model: drills})

    def ended(self, model: str, result: DrillResult) -> "DrillRecord":
        answered = (*self.answered, f"{result.order}:{model}")[-ANSWERED_MAX:]
        found = self.with_model(model, self.of(model).ended(result))
        return replace(found, answered=answered)


_RECORD = TypeAdapter(DrillRecord)


def _decoded(content: bytes) -> DrillRecord:
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"more than {FILE_BYTES_MAX} bytes")
    return _RECORD.validate_json(content)


class DrillFile:
    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME

    def load(self) -> DrillRecord:
        """What was kept; empty for anything that cannot be read. Never raises."""
        try:
            with self._path.open("rb") as file:
                content = file.read(FILE_BYTES_MAX + 1)
            return _decoded(content)
        except FileNotFoundError:
            return DrillRecord()
        except Exception as error:  # noqa: BLE001 - after a crash a file can be anything
            _log.warning("What was kept of drills cannot be read: %s", str(error)[:200])
            return DrillRecord()

    def save(self, record: DrillRecord) -> None:
        """
        Raises:
            DiskFull, DiskFailing: the old record stands.
        """
        replace_durably(self._path, _RECORD.dump_json(record))
