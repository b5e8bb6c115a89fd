"""A release's own check: what it is asked, and what its answer means. `docs/trial.md` has it."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mailboat_agent.serving.gate_failed import (
    EVIDENCE_CHARS_MAX,
    EVIDENCE_ITEMS_MAX,
    GateFailed,
)
from mailboat_agent.serving.golden import Golden
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.worker_values import CheckAnswer
from mailboat_schemas.documents.trial_gates import MEASURES_MAX, CheckGate

CONTRACT = "mailboat/check/v1"
QUESTION_BYTES_MAX = 16 << 20  # of tensors; the samples that do not fit any more are left out
_PASSED, _FAILED = 0, 1


def question(
    golden: Golden, answers: Sequence[Sequence[Tensor]], measured: Mapping[str, Any]
) -> str:
    """The check's stdin: samples with golden and given outputs, and what the trial has measured."""
    samples, size = [], 0
    for inputs, expected, given in zip(golden.inputs, golden.outputs, answers, strict=False):
        size += sum(len(tensor.data) for tensor in (*inputs, *expected, *given))
        if size > QUESTION_BYTES_MAX:
            break
        samples.append(
            {
                "inputs": _told(inputs),
                "golden": _told(expected),
                "outputs": _told(given),
            }
        )
    return json.dumps(
        {
            "contract": CONTRACT,
            "measured": dict(measured),
            "samples": samples,
            "samples_total": len(golden),
        }
    )


def judge_check(answer: CheckAnswer, gate: CheckGate) -> dict[str, float]:
    """What it has measured, if it passed.

    Raises:
        GateFailed: check_failed by its own word or by a bound; check_broken if it has no word.
    """
    report = _report(answer)
    measures = _measures(report)
    because = str(report.get("because", "")) or answer.raised
    evidence = {
        "exit_code": answer.exit_code,
        "because": because[:EVIDENCE_CHARS_MAX],
        "measures": dict(list(measures.items())[:EVIDENCE_ITEMS_MAX]),
    }
    if answer.exit_code == _FAILED:
        raise GateFailed(
            "check_failed",
            f"Its own check refuses it: {because or 'it does not say why'}",
            evidence,
        )
    if answer.exit_code != _PASSED:
        why = because or f"exit code {answer.exit_code}"
        raise GateFailed("check_broken", f"Its own check could not be carried out: {why}", evidence)
    for name, bounds in gate.measures.items():
        value = measures.get(name)
        if value is None:
            raise GateFailed("check_broken", f"Its own check does not say {name!r}.", evidence)
        low = -math.inf if bounds.at_least is None else bounds.at_least
        high = math.inf if bounds.at_most is None else bounds.at_most
        if not low <= value <= high:
            wanted = f"at least {low:.6g}" if value < low else f"at most {high:.6g}"
            raise GateFailed(
                "check_failed",
                f"Its own check: {name} is {value:.6g}, {wanted} it may be.",
                evidence,
            )
    return measures


def _report(answer: CheckAnswer) -> dict[str, Any]:
    """The last line of stdout that is a JSON object; none is a report without a word."""
    for line in reversed(answer.stdout.strip().splitlines()):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            return content
    return {}


def _measures(report: Mapping[str, Any]) -> dict[str, float]:
    content = report.get("measures")
    if not isinstance(content, dict):
        return {}
    found = {}
    for name, value in list(content.items())[:MEASURES_MAX]:
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[str(name)[:64]] = _as_float(value)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _told(tensors: Sequence[Tensor]) -> dict[str, dict[str, Any]]:
    """As numpy reads it: ``frombuffer(b64decode(data), dtype).reshape(shape)``; text as a list."""
    told: dict[str, dict[str, Any]] = {}
    for tensor in tensors:
        content: dict[str, Any] = {"datatype": tensor.datatype, "shape": list(tensor.shape)}
        if tensor.datatype == "BYTES":
            content["text"] = [text.decode(errors="replace") for text in tensor.values()]
        else:
            content["data"] = base64.b64encode(tensor.data).decode()
        told[tensor.name] = content
    return told
