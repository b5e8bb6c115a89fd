"""Which operator sets a model asks for, read from its bytes without loading it.

Held against what the runtime knows before it sees the model: its own words for a set that is too
new differ from version to version, and some versions go on and fail later, or answer differently.

Source: onnx.proto, ModelProto.opset_import (8), OperatorSetIdProto.domain (1) and .version (2).
"""

from collections.abc import Mapping

from mailboat_agent.serving.external_data import fields

OPSET_IMPORTS_MAX = 64  # of one model; a converter writes one to three
DOMAIN_CHARS_MAX = 128
# onnxruntime 1.17 and everything after it; asking it what it knows takes 40 ms of each start.
KNOWN_EVERYWHERE = {"": 19, "ai.onnx.ml": 3}
_MODEL_OPSET_IMPORT, _DOMAIN, _VERSION = 8, 1, 2
# The standard's own. What else a model names is a custom set: the runtime knows whether it has it.
STANDARD = {"": "ai.onnx", "ai.onnx.ml": "ai.onnx.ml"}


def declared_opsets(model: bytes) -> dict[str, int]:
    """Version by domain; the standard's main domain is "".

    Raises:
        ValueError: not a protobuf, or more than `OPSET_IMPORTS_MAX`.
    """
    found: dict[str, int] = {}
    for number, value in fields(memoryview(model)):
        if number != _MODEL_OPSET_IMPORT or not isinstance(value, memoryview):
            continue
        domain, version = "", 0
        for inner, content in fields(value):
            if inner == _DOMAIN and isinstance(content, memoryview):
                domain = bytes(content[:DOMAIN_CHARS_MAX]).decode(errors="replace")
            elif inner == _VERSION and isinstance(content, int):
                version = content
        found["" if domain == "ai.onnx" else domain] = version
        if len(found) > OPSET_IMPORTS_MAX:
            raise ValueError(f"more than {OPSET_IMPORTS_MAX} operator sets")
    return found


def too_new(declared: Mapping[str, int], known: Mapping[str, int]) -> str:
    """What of the standard's sets is above the runtime's highest, in words; empty if nothing."""
    for domain, name in STANDARD.items():
        version, highest = declared.get(domain, 0), known.get(domain, 0)
        if highest and version > highest:
            return f"the model uses operator set {name} {version}, this runtime knows {highest}"
    return ""
