"""Config: values for the application on a device, versioned apart from models and policy.

One document for a class, and where it must differ one for a site and one for a device. A device
merges what holds for it (`overlays`). Values are plain JSON within bounds that every reader of JSON
copes with; they are no secrets: every device of a class is sent those of the class and of all
sites.
"""

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from mailboat_schemas.documents.document import Strict, VersionRange
from mailboat_schemas.documents.fleet_document import FleetDocument, canonical_json
from mailboat_schemas.names import ModelName

VALUES_BYTES_MAX = 64 * 1024  # as canonical JSON; also of the merged values of a device
VALUES_DEPTH_MAX = 16
VALUES_KEYS_MAX = 4096  # names and list items, at all depths together
KEY_CHARS_MAX = 128
INTEGER_MAX = 1 << 53  # what readers that know only doubles still tell apart


class ConfigCompatible(Strict):
    """What these values are for. A model that is not named may be of any version."""

    models: dict[ModelName, VersionRange] = Field(
        default_factory=dict, max_length=64, examples=[{"vad": ">=6,<7"}]
    )
    policy: VersionRange = ""


class ConfigSpec(Strict):
    values: dict[str, JsonValue]
    compatible: ConfigCompatible = ConfigCompatible()

    @field_validator("values", mode="before")
    @classmethod
    def _within_bounds(cls, values: Any) -> Any:
        if problem := problem_with_values(values):
            raise ValueError(problem)
        return values


class ConfigDocument(FleetDocument):
    """The signed form as well as what people write."""

    # The values, and what stands around them.
    bytes_max: ClassVar[int] = VALUES_BYTES_MAX + 16 * 1024

    kind: Literal["Config"]
    spec: ConfigSpec

    @model_validator(mode="after")
    def _not_too_long(self) -> "ConfigDocument":
        size_bytes = len(canonical_json(self.spec.values))
        if size_bytes > VALUES_BYTES_MAX:
            raise ValueError(f"the values have {size_bytes} bytes, at most {VALUES_BYTES_MAX}")
        return self


def problem_with_values(values: object) -> str:
    """Why they are no values of a config, or "". Walks without recursion, and stops at a bound."""
    if not isinstance(values, dict):
        return "values are an object of names"
    todo: list[tuple[object, int]] = [(values, 1)]
    parts = 0
    while todo:
        value, depth = todo.pop()
        if isinstance(value, dict | list):
            parts += len(value)
            if parts > VALUES_KEYS_MAX:
                return f"more than {VALUES_KEYS_MAX} names and list items"
            if depth > VALUES_DEPTH_MAX:
                return f"nested more than {VALUES_DEPTH_MAX} deep"
            if isinstance(value, dict):
                if problem := _problem_with_names(value):
                    return problem
                todo += [(each, depth + 1) for each in value.values()]
            else:
                todo += [(each, depth + 1) for each in value]
        elif problem := _problem_with_scalar(value):
            return problem
    return ""


def _problem_with_names(value: dict[Any, Any]) -> str:
    for name in value:
        if not isinstance(name, str) or not 1 <= len(name) <= KEY_CHARS_MAX:
            return f"a name is text of 1 to {KEY_CHARS_MAX} characters: {str(name)[:40]!r}"
        if not _is_text(name):
            return "a name is no valid Unicode"
    return ""


def _problem_with_scalar(value: object) -> str:
    match value:
        case None | bool():
            return ""
        case str():
            return "" if _is_text(value) else "a text is no valid Unicode"
        case int():
            return "" if abs(value) <= INTEGER_MAX else f"a whole number is beyond {INTEGER_MAX}"
        case float():
            return "" if math.isfinite(value) else "a number is not finite"
    return f"{type(value).__name__} is not a value of JSON; write it as text"


def _is_text(text: str) -> bool:
    """No lone surrogates, which cannot be written out again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
