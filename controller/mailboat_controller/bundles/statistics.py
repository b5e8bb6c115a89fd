"""Reference statistics of a release's samples: what live traffic is compared with. Pure."""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from mailboat_controller.bundles.npz import Array
from mailboat_schemas.documents.reference import CLASSES_MAX, Reference, TensorReference

BINS = 10  # deciles: each bin holds a tenth, so a shift in any part of the range shows alike
VALUES_MAX = 32  # of a tensor that is taken for categories
REPEATED_MIN = 10  # times that each of them is there, on average
CONSTANT_RATIO, CONSTANT_MIN = 1e-3, 1e-6  # how far from a constant is another value
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
    edges = _edges(finite, whole=array.dtype.kind in "iub")
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


def _edges(finite: Array, *, whole: bool) -> Array:
    """Deciles; but of few values that come again and again, around each of them.

    Deciles would put a rare category into one bin with its neighbour, and what lies below a
    constant into one bin with the constant.
    """
    values = np.unique(finite)
    if values.size > VALUES_MAX or finite.size < REPEATED_MIN * values.size:
        return np.unique(np.quantile(finite, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    between = (values[:-1] + values[1:]) / 2
    if between.size:
        margin = np.diff(values).min() / 2
    else:  # a constant: what another processor makes of it is still it
        margin = 0.5 if whole else max(abs(values[0]) * CONSTANT_RATIO, CONSTANT_MIN)
    return np.unique([values[0] - margin, *between, values[-1] + margin])


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
