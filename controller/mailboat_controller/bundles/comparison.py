"""What became of the outputs: a smaller model's answers beside the original's. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mailboat_controller.bundles.npz import Array

TOP_RANK_MAX = 2  # of one request: [1, classes]; a larger output has no winner to agree on


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputComparison:
    """One output over all samples. Errors are absolute; ``cosine`` is of all elements as one
    vector, ``top_1`` the share of rows whose largest element stands in the same place."""

    name: str
    max_error: float
    mean_error: float
    scale: float  # largest absolute value of the original's, to read the errors by
    cosine: float
    top_1: float | None  # None where there is nothing to choose among

    @property
    def drop(self) -> float:
        """The part of what the original answers that is lost: of decisions where there are some,
        of direction otherwise. 0 is nothing, 1 is all."""
        return max(0.0, 1 - (self.cosine if self.top_1 is None else self.top_1))

    @property
    def told(self) -> dict[str, Any]:
        return {
            "output": self.name,
            "max_error": self.max_error,
            "mean_error": self.mean_error,
            "scale": self.scale,
            "cosine": self.cosine,
            "top_1_agreement": self.top_1,
            "drop": self.drop,
        }


def compare(
    original: Mapping[str, Array], smaller: Mapping[str, Array]
) -> tuple[OutputComparison, ...]:
    """Both by output, first axis = sample; text is compared as equal or not.

    Raises:
        ValueError: an output is missing, or has another shape.
    """
    found = []
    for name in sorted(original):
        if name not in smaller or smaller[name].shape != original[name].shape:
            raise ValueError(f"output {name!r} is missing or has another shape")
        found.append(_compare(name, original[name], smaller[name]))
    return tuple(found)


def worst_drop(comparisons: Sequence[OutputComparison]) -> float:
    return max((comparison.drop for comparison in comparisons), default=0.0)


def _compare(name: str, original: Array, smaller: Array) -> OutputComparison:
    if original.dtype.kind in "US":
        wrong = (original != smaller).astype(np.float64)
        ones = np.ones_like(wrong)
        return _numbers(name, ones, ones - wrong)
    return _numbers(name, original.astype(np.float64), smaller.astype(np.float64))


def _numbers(name: str, original: Array, smaller: Array) -> OutputComparison:
    # NaN and infinity where the original has them, too, are no difference; anywhere else they are.
    same = (original == smaller) | (np.isnan(original) & np.isnan(smaller))
    with np.errstate(invalid="ignore"):  # inf - inf, which `same` has answered
        errors = np.where(same, 0.0, np.abs(original - smaller))
    errors = np.where(np.isnan(errors), np.inf, errors)
    finite = np.abs(original[np.isfinite(original)])
    return OutputComparison(
        name=name,
        max_error=float(errors.max(initial=0.0)),
        mean_error=float(errors.mean()) if errors.size else 0.0,
        scale=float(finite.max(initial=0.0)),
        cosine=_cosine(original, smaller, errors),
        top_1=_top_1(original, smaller),
    )


def _cosine(original: Array, smaller: Array, errors: Array) -> float:
    if not errors.any():
        return 1.0
    if not np.isfinite(errors).all():
        return 0.0
    a, b = np.nan_to_num(original).ravel(), np.nan_to_num(smaller).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0


def _top_1(original: Array, smaller: Array) -> float | None:
    rank = original.ndim - 1  # without the axis of samples
    if not (1 <= rank <= TOP_RANK_MAX and original.shape[-1] >= 2 and original.size):
        return None
    rows, others = (array.reshape(-1, array.shape[-1]) for array in (original, smaller))
    return float((rows.argmax(axis=1) == others.argmax(axis=1)).mean())
