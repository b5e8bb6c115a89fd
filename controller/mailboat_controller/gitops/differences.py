"""What differs between what stands and what is declared, field by field."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

DIFFERENCES_MAX = 100  # of one document; the rest is left out, and said so
_MISSING = object()


class Verb(StrEnum):
    """What became of a document, or would become of it."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    PRUNED = "pruned"  # apply made it, and it is declared no more
    LEFT = "left"  # declared no more; it stays, and the set knows it no longer
    NEEDS_APPROVAL = "needs approval"  # an approver has to sign it
    REFUSED = "refused"


# With any of these a directory and a controller are not the same.
DIFFERENT = frozenset(Verb) - {Verb.UNCHANGED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """``before`` None: it was not there; ``after`` None: it is taken away."""

    field: str
    before: Any
    after: Any


def differences(before: Any, after: Any) -> tuple[Difference, ...]:
    """Of two values of plain data, by dotted path, at most `DIFFERENCES_MAX` of them."""
    found = list(_walk("", before, after))
    if len(found) > DIFFERENCES_MAX:
        rest = len(found) - DIFFERENCES_MAX
        more = Difference(field="…", before=None, after=f"and {rest} more")
        found = [*found[:DIFFERENCES_MAX], more]
    return tuple(found)


def _walk(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            inner = f"{path}.{key}" if path else key
            yield from _walk(inner, before.get(key, _MISSING), after.get(key, _MISSING))
    elif _is_list(before) and _is_list(after) and _has_parts(before, after):
        for index in range(max(len(before), len(after))):
            yield from _walk(f"{path}[{index}]", _at(before, index), _at(after, index))
    elif before != after:
        yield Difference(field=path, before=_shown(before), after=_shown(after))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _has_parts(*lists: Sequence[Any]) -> bool:
    """Whether they hold more than single values, which are better shown whole."""
    return any(isinstance(each, Mapping) for values in lists for each in values)


def _at(values: Sequence[Any], index: int) -> Any:
    return values[index] if index < len(values) else _MISSING


def _shown(value: Any) -> Any:
    return None if value is _MISSING else value
