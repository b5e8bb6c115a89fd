"""Earlier answers to the very same inputs, within a bound of bytes and of age."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mailboat_agent.serving.answering import Answered, Asked
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.degraded_policy import AnswerCache

INPUT_BYTES_MAX = 1 << 20  # of one request; hashing more would delay the answers of others
ENTRY_BYTES = 512  # what one entry costs beside its tensors, about


@dataclass(frozen=True, slots=True)
class _Entry:
    answered: Answered
    kept_at: float
    size_bytes: int


class Cache:
    """Of one model. Times are monotonic seconds. Used by one thread."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self.size_bytes = 0

    def get(self, policy: AnswerCache, key: bytes | None, now: float) -> Answered | None:
        entry = None if key is None else self._entries.get(key)
        if key is None or entry is None:
            return None
        if now - entry.kept_at > policy.seconds_max:
            self._drop(key)
            return None
        return entry.answered

    def put(self, policy: AnswerCache, key: bytes | None, answered: Answered, now: float) -> None:
        """Keep it; the oldest go when there is no room, and one that is too large is not kept."""
        size_bytes = ENTRY_BYTES + sum(len(each.data) for each in answered.outputs)
        if key is None or size_bytes > policy.bytes_max:
            return
        if key in self._entries:
            self._drop(key)
        while self._entries and self.size_bytes + size_bytes > policy.bytes_max:
            self._drop(next(iter(self._entries)))
        # A worker's memory, which the tensors may be views of, does not stay as it is.
        own = tuple(replace(each, data=bytes(each.data)) for each in answered.outputs)
        self._entries[key] = _Entry(replace(answered, outputs=own), now, size_bytes)
        self.size_bytes += size_bytes

    def clear(self) -> None:
        self._entries.clear()
        self.size_bytes = 0

    def _drop(self, key: bytes) -> None:
        self.size_bytes -= self._entries.pop(key).size_bytes


def key_of(release: str, asked: Asked) -> bytes | None:
    """Of the release that should answer and of what it is asked; None if that is too large.

    Args:
        release: digest, so that no answer outlives the release which it stands for.
    """
    if asked.input_bytes > INPUT_BYTES_MAX:
        return None
    found = hashlib.sha256(release.encode())
    _add_names(found, sorted(asked.outputs))
    for tensor in sorted(asked.inputs, key=_name):
        _add_names(found, [tensor.name, tensor.datatype, repr(tensor.shape)])
        found.update(len(tensor.data).to_bytes(8))
        found.update(tensor.data)
    return found.digest()


def _name(tensor: Tensor) -> str:
    return tensor.name


def _add_names(found: "hashlib._Hash", names: Sequence[str]) -> None:
    for name in (str(len(names)), *names):
        encoded = name.encode()
        found.update(len(encoded).to_bytes(4) + encoded)
