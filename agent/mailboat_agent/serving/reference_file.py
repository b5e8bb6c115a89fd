"""The file of role ``reference``, read and checked as everything that was signed."""

import hashlib
import os

from mailboat_schemas.documents.live_gates import DriftGate
from mailboat_schemas.documents.reference import REFERENCE_BYTES_MAX, Reference
from mailboat_schemas.errors import DigestMismatch, MalformedPayload


def read_reference(descriptor: int, sha256: str, gate: DriftGate | None = None) -> Reference:
    """
    Raises:
        DigestMismatch: it was altered after it was verified.
        MalformedPayload, PayloadTooLarge: it is not reference statistics, or has none that the
            gate could be judged by.
    """
    parts, offset = [], 0
    while part := os.pread(descriptor, REFERENCE_BYTES_MAX + 1 - offset, offset):
        parts.append(part)
        offset += len(part)
    content = b"".join(parts)
    found = hashlib.sha256(content).hexdigest()
    if len(content) <= REFERENCE_BYTES_MAX and found != sha256:
        raise DigestMismatch("the reference statistics", sha256, found)
    reference = Reference.parse(content)
    if gate is not None:
        _require_judged(reference, gate)
    return reference


def _require_judged(reference: Reference, gate: DriftGate) -> None:
    """A gate that nothing can close would be open."""
    told = {each.side for each in reference.tensors if each.edges or len(each.classes) > 1}
    bounds = {"input": gate.inputs_max, "output": gate.outputs_max}
    for side, most in bounds.items():
        if most is not None and side not in told:
            raise MalformedPayload(
                f"Drift of {side}s is bounded, and the reference has statistics of no {side}.",
                next_step=f"make it of samples with {side}s that are numbers, or bound no {side}s.",
            )
