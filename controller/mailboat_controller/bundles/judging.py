"""By what an output is judged: a tolerance, or as a classifier by how often it is right. Pure.

Data may say the classes that are right, as numbers or as rows; then golden samples hold the truth,
and the device's metric is the accuracy of the release on it.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mailboat_controller.bundles.npz import Array, Arrays
from mailboat_controller.bundles.statistics import CLASSIFIER_RANK_MAX
from mailboat_schemas.documents.trial_gates import GoldenMetric, MetricGate

SLACK_ROWS = 1  # one row in all golden samples may fall on the other side of a tie
SLACK_SHARE = 0.01


def rows_of_classes(promised: Arrays, answered: Mapping[str, Array]) -> tuple[Arrays, set[str]]:
    """``promised`` with numbers of classes as rows of a classifier, and the outputs that had them.

    Raises:
        ValueError: a number that is no class.
    """
    found, names = dict(promised), set()
    for name, truth in promised.items():
        answer = answered.get(name)
        if answer is None or not _is_classifier(answer) or truth.dtype.kind not in "iu":
            continue
        classes, rows = answer.shape[-1], math.prod(answer.shape[:-1])
        if truth.size != rows:
            continue
        numbers = truth.reshape(-1)
        if numbers.min() < 0 or numbers.max() >= classes:
            raise ValueError(f"{name!r} has class {int(numbers.max())} of {classes}")
        hot = np.zeros((rows, classes), answer.dtype)
        hot[np.arange(rows), numbers] = 1
        found[name] = hot.reshape(answer.shape)
        names.add(name)
    return found, names


def classifiers(outputs: Mapping[str, Array], labels: Sequence[str]) -> set[str]:
    """The outputs that have a place for each label."""
    return {
        name
        for name, array in outputs.items()
        if labels and _is_classifier(array) and array.shape[-1] == len(labels)
    }


def agreement(promised: Array, answered: Array) -> float:
    """Share of rows whose largest element stands at the same place."""
    one, other = (array.reshape(-1, array.shape[-1]) for array in (promised, answered))
    return float((one.argmax(axis=1) == other.argmax(axis=1)).mean())


def metric_gate(measured: float, rows: int) -> MetricGate:
    """With room for one row, and for one in a hundred: processors differ where two classes tie."""
    slack = max(SLACK_ROWS / rows, SLACK_SHARE)
    at_least = math.floor(max(0.0, measured - slack) * 100 + 1e-9) / 100
    return MetricGate(metric=GoldenMetric.TOP1, at_least=at_least)


def _is_classifier(array: Array) -> bool:
    rank = array.ndim - 1  # without the axis of samples
    return (
        array.dtype.kind == "f"
        and 1 <= rank <= CLASSIFIER_RANK_MAX
        and array.shape[-1] >= 2
        and array.size > 0
    )
