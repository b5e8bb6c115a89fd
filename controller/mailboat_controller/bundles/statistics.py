"""Reference statistics of a release's samples: what live traffic is compared with. Pure."""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from mailboat_controller.bundles.npz import Array
from mailboat_schemas.documents.reference import CLASSES_MAX, Reference, TensorReference

BINS = 10  # deciles: each bin holds a tenth, so a shift in any part of the range shows alike
CLASSIFIER_RANK_MAX = 2  # of one request: [1, classes]; a larger output is no classification
_DIGITS = 9  # significant; of sums whose last bits may depend on the processor


def reference(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Reference:
    """``inputs`` and ``outputs`` by tensor, first axis = sample."""
    samples = len(next(iter(inputs.values())))
    tensors = (*_side("input", inputs), *_side("output", outputs))
    return Reference(samples=samples, tensors=tensors)


def _side(
    side: Literal["input", "output"], arrays: Mapping[str, Array]
) -> Iterator[TensorReference]:
    for name in sorted(arrays):
        array = arrays[name]
        if array.size:
            yield _tensor(side, name, array)


def _tensor(side: Literal["input", "output"], name: str, array: Array) -> TensorReference:
    if array.dtype.kind in "US":
        return TensorReference(name=name, side=side, elements=array.size)
    flat = array.astype(np.float64).ravel()
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        return TensorReference(
            name=name, side=side, elements=flat.size, nan=int(np.isnan(flat).sum())
        )
    tenths = np.quantile(finite, np.arange(1, BINS) / BINS, method="inverted_cdf")
    edges = np.unique(tenths)
    known = flat[~np.isnan(flat)]
    counts = np.bincount(np.searchsorted(edges, known), minlength=edges.size + 1)
    return TensorReference(
        name=name,
        side=side,
        elements=flat.size,
        nan=int(flat.size - known.size),
        mean=_rounded(finite.mean()),
        std=_rounded(finite.std()),
        minimum=float(finite.min()),
        maximum=float(finite.max()),
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
        classes=_classes(array) if side == "output" else (),
    )


def _classes(array: Array) -> tuple[int, ...]:
    """How often each place of the last axis held a row's largest element."""
    rank = array.ndim - 1  # without the axis of samples
    floats = array.dtype.kind == "f"
    if not (floats and 1 <= rank <= CLASSIFIER_RANK_MAX and 2 <= array.shape[-1] <= CLASSES_MAX):
        return ()
    rows = array.reshape(-1, array.shape[-1])
    if np.isnan(rows).any():
        return ()
    return tuple(int(n) for n in np.bincount(rows.argmax(axis=1), minlength=array.shape[-1]))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
