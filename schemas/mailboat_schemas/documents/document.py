"""What every document has in common: ``apiVersion``, ``kind``, ``metadata``, ``spec``."""

from typing import Annotated, Any, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    GetPydanticSchema,
)
from pydantic_core import core_schema

API_VERSION = "mailboat/v1"

SIZE_PATTERN = r"^ *[0-9]+(?:\.[0-9]+)? *(?:B|[KkMmGg][Ii]?[Bb])? *$"

_BYTES_PER = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_BYTES_PER |= {"KB": 10**3, "MB": 10**6, "GB": 10**9}


class Strict(BaseModel):
    """A part of a document. An unknown key is a spelling mistake, so it is refused.

    So is a number that is not finite: no figure is below NaN or above infinity, and a gate with
    such a bound would let everything pass.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Document(Strict):
    api_version: Literal["mailboat/v1"] = Field(alias="apiVersion")


def parse_size(value: object) -> int:
    """``256MiB``, ``1.5 GB`` or a plain number of bytes, as an int of bytes."""
    if isinstance(value, bool):
        raise ValueError("a size is a number of bytes or text such as 256MiB")
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        text = value.strip().upper()
        number = text.rstrip("BIKMG ")
        factor = _BYTES_PER.get(text[len(number) :].strip())
        try:
            if factor is not None:
                return int(float(number) * factor)
        except (ValueError, OverflowError):
            pass
    raise ValueError(f"{value!r} is not a size; write a number of bytes or text such as 256MiB")


def _size_schema(source: Any, handler: Any) -> core_schema.CoreSchema:
    # The handler's schema has the bounds that a field sets beside the type.
    given = handler(source)
    if given["type"] == "int":
        given = {"le": 1 << 50, **({} if "gt" in given else {"ge": 0}), **given}
    return core_schema.no_info_before_validator_function(parse_size, given)


def _size_json_schema(core: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Any:
    """What people write has a unit, and an editor must not call it a mistake."""
    number = handler(core)
    if handler.mode != "validation":
        return number
    return {"anyOf": [number, {"type": "string", "pattern": SIZE_PATTERN, "examples": ["256MiB"]}]}


def _version_range(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise ValueError(
            f"{text!r} is not a version range; write for example '>=1.18,<2'"
        ) from None
    return text


SizeBytes = Annotated[int, GetPydanticSchema(_size_schema, _size_json_schema)]
VersionRange = Annotated[str, AfterValidator(_version_range)]
