"""What to make of which model, and whether a release can be that at all."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from mailboat_controller.bundles.asking import RuntimeWish
from mailboat_controller.bundles.drafting import (
    GOLDEN,
    MODEL,
    OPEN,
    REFERENCE,
    Draft,
    draft_yaml,
    unfit,
)
from mailboat_controller.bundles.samples import Recipe
from mailboat_controller.bundles.smaller import To
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to make of which model. ``described`` are those of ``classes`` whose YAML was given."""

    model: Path
    directory: Path
    name: str
    version: str
    classes: tuple[str, ...]
    described: tuple[HardwareClass, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    data: Path | None = None
    reference: Path | None = None  # data like live traffic, for its statistics
    labels: tuple[str, ...] = ()
    wish: RuntimeWish = field(default_factory=RuntimeWish)
    quantize: To | None = None
    weights_only: bool = False
    max_drop: float | None = None  # see `Smaller.drop`
    batches: tuple[int, ...] = ()  # sizes whose latency every trial measures
    # Told by the person instead of measured.
    peak_memory_bytes: int | None = None
    latency_p95_ms_max: float | None = None

    def refuse_unfit(self) -> None:
        """Before anything is started: minutes later it would be the same.

        Raises:
            ConfigurationInvalid: a name, a class, a number or a file that no release can have.
        """
        own = self.wish.own_code
        own.refuse_unfit((MODEL, GOLDEN, REFERENCE))
        placeholder = Interface.model_validate(_PLACEHOLDER)
        declared = OPEN
        if self.peak_memory_bytes is not None:
            declared = replace(declared, peak_memory_bytes=self.peak_memory_bytes)
        if self.latency_p95_ms_max is not None:
            declared = replace(declared, latency_p95_ms_max=self.latency_p95_ms_max)
        try:
            runtime = Runtime(providers=self.wish.providers, threads=self.wish.threads)
        except ValidationError as error:
            raise unfit(error) from error
        draft = Draft(
            name=self.name,
            version=self.version,
            classes=self.classes,
            interface=placeholder,
            model=placeholder,
            runtime=runtime,
            tolerances={},
            with_reference=False,
            batches=self.batches,
        )
        draft_yaml(draft, declared)


_PLACEHOLDER = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": [-1]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": [-1]}],
}
