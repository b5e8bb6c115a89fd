"""What differs between two releases: files, metrics, interface, requirements, where they come from.

Pure, and worked out from the signed bytes alone; the console and `mailboat release diff` show the
same. What a variant says is said of the classes it is for, and once for all that say the same.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mailboat_schemas.documents.interface import Tensor
from mailboat_schemas.documents.release import ReleaseDocument, Variant

TEXT_CHARS_MAX = 4000  # of one value; the longest is a description


class Part(StrEnum):
    FILES = "files"
    METRICS = "metrics"
    INTERFACE = "interface"
    REQUIREMENTS = "requirements"
    ORIGIN = "origin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """``before`` or ``after`` None: it is not there. ``classes`` empty: of the whole release."""

    part: Part
    what: str
    before: str | None
    after: str | None
    classes: tuple[str, ...] = ()
    grown_by: int | None = None  # bytes of a file, or of peak memory

    @property
    def is_change(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class _Value:
    text: str
    size_bytes: int | None = None


_Key = tuple[Part, str]
_Values = Mapping[_Key, _Value]


def release_diff(
    before: ReleaseDocument, after: ReleaseDocument, *, unchanged: bool = False
) -> tuple[Change, ...]:
    """In the order of `Part`, then by name.

    Args:
        unchanged: with what is the same in both, too.
    """
    found = list(_compared(_whole(before), _whole(after), ()))
    mine, theirs = _by_class(before), _by_class(after)
    together: dict[tuple[Part, str, str | None, str | None, int | None], list[str]] = {}
    for name in sorted(mine.keys() | theirs.keys()):
        for each in _compared(mine.get(name, {}), theirs.get(name, {}), (name,)):
            key = (each.part, each.what, each.before, each.after, each.grown_by)
            together.setdefault(key, []).append(name)
    found += [
        Change(part=part, what=what, before=old, after=new, grown_by=grown, classes=tuple(classes))
        for (part, what, old, new, grown), classes in together.items()
    ]
    order = list(Part)
    found.sort(key=lambda each: (order.index(each.part), each.what, each.classes))
    return tuple(each for each in found if unchanged or each.is_change)


def _compared(before: _Values, after: _Values, classes: tuple[str, ...]) -> Iterator[Change]:
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        yield Change(
            part=key[0],
            what=key[1],
            before=None if old is None else old.text,
            after=None if new is None else new.text,
            classes=classes,
            grown_by=_grown(old, new),
        )


def _grown(old: _Value | None, new: _Value | None) -> int | None:
    sizes = [each.size_bytes for each in (old, new) if each is not None]
    if old == new or not sizes or None in sizes:
        return None
    return (0 if new is None else new.size_bytes or 0) - (0 if old is None else old.size_bytes or 0)


def _whole(document: ReleaseDocument) -> dict[_Key, _Value]:
    """What is of the release and not of a variant."""
    found: dict[_Key, _Value] = {}
    for side, tensors in (
        ("input", document.interface.inputs),
        ("output", document.interface.outputs),
    ):
        for number, tensor in enumerate(tensors, start=1):
            found[Part.INTERFACE, f"{side} {tensor.name}"] = _Value(_tensor(number, tensor))
    _put(found, Part.REQUIREMENTS, "security version", document.security_version)
    _put(found, Part.REQUIREMENTS, "fallback", document.fallback)
    _put(found, Part.REQUIREMENTS, "failure mode", document.failure_mode)
    for name, value in document.compatibility.model_dump(mode="json").items():
        _put(found, Part.REQUIREMENTS, f"compatible {_words(name)}", value or None)
    _put(found, Part.ORIGIN, "description", document.description or None)
    for name, value in document.provenance.model_dump(mode="json").items():
        _put(found, Part.ORIGIN, _words(name), value or None)
    return found


def _by_class(document: ReleaseDocument) -> dict[str, dict[_Key, _Value]]:
    return {
        name: dict(_variant(each)) for each in document.variants for name in each.hardware_classes
    }


def _variant(variant: Variant) -> dict[_Key, _Value]:
    found: dict[_Key, _Value] = {}
    for file in variant.files:
        sealed = ", encrypted" if file.sealed else ""
        text = f"{file.role}, {file.length:,} bytes{sealed}, sha256 {file.sha256}"
        found[Part.FILES, file.path] = _Value(text, file.length)
    memory = f"{variant.peak_memory:,} bytes"
    found[Part.REQUIREMENTS, "peak memory"] = _Value(memory, variant.peak_memory)
    flat = {
        Part.METRICS: {"health": variant.health.model_dump(mode="json")},
        Part.REQUIREMENTS: {
            "runtime": variant.runtime.model_dump(mode="json"),
            "serving": variant.serving and variant.serving.model_dump(mode="json"),
            "pipeline": variant.pipeline and variant.pipeline.model_dump(mode="json"),
        },
    }
    for part, content in flat.items():
        for place, value in _flat(content):
            _put(found, part, place.removeprefix("health "), value)
    return found


def _flat(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value with its place in words; a list of values is one."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _flat(value, f"{place} {_words(str(name))}".strip())
    elif isinstance(content, list) and any(isinstance(each, dict) for each in content):
        for number, value in enumerate(content, start=1):
            yield from _flat(value, f"{place} {number}")
    else:
        yield place, content


def _put(found: dict[_Key, _Value], part: Part, what: str, value: Any) -> None:
    """What was not given is not there."""
    if value is None or value in ([], {}):
        return
    text = ", ".join(map(str, value)) if isinstance(value, list) else _plain(value)
    found[part, what] = _Value(text[:TEXT_CHARS_MAX])


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _tensor(number: int, tensor: Tensor) -> str:
    # Its place counts: callers may go by it.
    shape = ", ".join("any" if size < 0 else str(size) for size in tensor.shape)
    return f"{number}: {tensor.dtype} [{shape}]"


def counted(changes: Iterable[Change]) -> dict[Part, int]:
    """How many of each part differ, for a headline; none are left out."""
    found = dict.fromkeys(Part, 0)
    for each in changes:
        found[each.part] += each.is_change
    return found
