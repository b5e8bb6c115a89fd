"""YAML in, with errors that point: file:line:column and the nearest key that would be valid.

The text is composed into nodes once, which carry their position; the plain data for pydantic comes
from the same nodes. Aliases are refused (a few lines of them expand to gigabytes) and so are
duplicate keys (the last one silently wins in YAML).
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mailboat_schemas.documents.document import Document
from mailboat_schemas.errors import DocumentInvalid

DOCUMENT_BYTES_MAX = 1 << 20
DEPTH_MAX = 32
NODES_MAX = 100_000
DOCUMENTS_MAX = 1000  # of one file
_VALID_KEYS_SHOWN = 8

Kind = TypeVar("Kind", bound=Document)
Path_ = tuple[int | str, ...]


def load_document(path: Path, kind: type[Kind]) -> Kind:
    """Read and validate one document.

    Raises:
        DocumentInvalid: unreadable, too large, not YAML, or not a document of this kind.
    """
    try:
        with path.open("rb") as file:
            content = file.read(DOCUMENT_BYTES_MAX + 1)  # one more is enough to be refused for
    except OSError as error:
        raise DocumentInvalid(
            str(path), f"cannot be read: {error.strerror}", next_step="check the path."
        ) from error
    return parse_document(content, kind, source=str(path))


def parse_document(content: bytes, kind: type[Kind], *, source: str) -> Kind:
    """As `load_document`, for bytes that came from elsewhere; ``source`` names them in errors."""
    _refuse_large(content, source)
    roots = _compose(content, source)
    if len(roots) > 1:
        raise _invalid(
            source, roots[1].start_mark, "is a second document", "keep one in this file."
        )
    return _validated(roots[0], kind, source)


@dataclass(frozen=True, slots=True)
class Placed:
    """A document, and where it stands: ``file:line``."""

    document: Document
    place: str


def parse_documents(
    content: bytes, kinds: Mapping[str, type[Document]], *, source: str
) -> tuple[Placed, ...]:
    """Every document of a file, parted by ``---``; ``kinds`` by the word after ``kind:``.

    Raises:
        DocumentInvalid: as `parse_document`; or one of a kind that is not among these.
    """
    _refuse_large(content, source)
    found = []
    for root in _compose(content, source):
        kind = kinds[_kind_of(root, kinds, source)]
        place = f"{source}:{root.start_mark.line + 1}"
        found.append(Placed(_validated(root, kind, source), place))
    return tuple(found)


def _kind_of(root: yaml.Node, kinds: Mapping[str, object], source: str) -> str:
    pairs = root.value if isinstance(root, yaml.MappingNode) else ()
    for key, value in pairs:
        if key.value == "kind" and isinstance(value, yaml.ScalarNode):
            if value.value in kinds:
                return str(value.value)
            near = difflib.get_close_matches(value.value, kinds, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"kinds here: {', '.join(kinds)}."
            problem = f"there is no kind {value.value[:80]!r} here"
            raise _invalid(source, value.start_mark, problem, hint)
    raise _invalid(source, root.start_mark, "has no kind", _FIRST_LINES)


def _refuse_large(content: bytes, source: str) -> None:
    if len(content) > DOCUMENT_BYTES_MAX:
        raise DocumentInvalid(
            source,
            f"is over the limit of {DOCUMENT_BYTES_MAX} bytes",
            next_step="a document describes files, it does not contain them.",
        )


def _validated(root: yaml.Node, kind: type[Kind], source: str) -> Kind:
    _refuse_aliases(root, source)
    places: dict[Path_, yaml.Mark] = {}
    data = _plain(root, (), places, source)
    if not isinstance(data, dict):
        raise _invalid(source, root.start_mark, "is not a mapping", _FIRST_LINES)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _explain(error, kind, places, root.start_mark, source) from error


_FIRST_LINES = "begin with `apiVersion: mailboat/v1` and `kind:`."


def _compose(content: bytes, source: str) -> list[yaml.Node]:
    """The documents of a file, without those that are empty; at least one."""
    try:
        text = content.decode("utf-8")
        roots = list(islice(yaml.compose_all(text, Loader=yaml.SafeLoader), DOCUMENTS_MAX + 1))
    except UnicodeDecodeError as error:
        raise DocumentInvalid(
            source, f"is not UTF-8 at byte {error.start}", next_step="save it as UTF-8."
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or "is not YAML"
        raise _invalid(source, mark, problem, "mend the YAML at this place.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise DocumentInvalid(source, "is not YAML", next_step="mend the file.") from error
    if len(roots) > DOCUMENTS_MAX:
        mark = roots[-1].start_mark
        raise _invalid(source, mark, f"is one document more than {DOCUMENTS_MAX}", "split it.")
    roots = [root for root in roots if root.tag != "tag:yaml.org,2002:null"]
    if not roots:
        raise DocumentInvalid(source, "is empty", next_step=_FIRST_LINES)
    return roots


def _refuse_aliases(root: yaml.Node, source: str) -> None:
    """An alias is the same node met twice; a few lines of them expand to gigabytes."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            raise _invalid(source, node.start_mark, "is used by an alias", "write it out.")
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            waiting.extend(part for pair in node.value for part in pair)


def _plain(node: yaml.Node, path: Path_, places: dict[Path_, yaml.Mark], source: str) -> Any:
    """Nodes as plain data; ``places`` learns where each part stands."""
    places.setdefault(path, node.start_mark)
    if len(path) > DEPTH_MAX or len(places) > NODES_MAX:
        raise _invalid(source, node.start_mark, "is nested too deep or too large", "simplify it.")
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, places, source)
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(item, (*path, index), places, source) for index, item in enumerate(node.value)
        ]
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (ValueError, yaml.YAMLError) as error:  # a 13th month, a tag of some other program
        raise _invalid(
            source, node.start_mark, "is no value of YAML", "mend this value."
        ) from error


def _mapping(
    node: yaml.MappingNode, path: Path_, places: dict[Path_, yaml.Mark], source: str
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        if not isinstance(key, str):
            raise _invalid(source, key_node.start_mark, "a key must be text", "mend the key.")
        if key in result:
            raise _invalid(source, key_node.start_mark, f"key {key!r} stands twice", "keep one.")
        places[(*path, key)] = key_node.start_mark
        result[key] = _plain(value_node, (*path, key), places, source)
    return result


def _explain(
    error: ValidationError,
    kind: type[Document],
    places: dict[Path_, yaml.Mark],
    start: yaml.Mark,
    source: str,
) -> DocumentInvalid:
    found = error.errors()
    # A list with one bad item is also called too short; what is inside explains it.
    inner = [
        each
        for each in found
        if not any(
            len(other["loc"]) > len(each["loc"]) and other["loc"][: len(each["loc"])] == each["loc"]
            for other in found
        )
    ]
    # A misspelt key explains the missing one beside it, so unknown keys come first.
    details = min(
        inner,
        key=lambda item: (item["type"] != "extra_forbidden", _line(item, places)),
    )
    location = details["loc"]
    mark = _mark(location, places, start)
    dotted = ".".join(str(part) for part in location)
    if details["type"] == "extra_forbidden":
        key = str(location[-1])
        valid = sorted(_keys_at(kind, location[:-1]))
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else _listed(valid)
        return _invalid(source, mark, f"unknown key {dotted!r}", hint)
    if details["type"] == "missing":
        return _invalid(source, mark, f"{dotted!r} is missing", f"add {location[-1]!r} here.")
    message = details["msg"].removeprefix("Value error, ")
    return _invalid(source, mark, f"{dotted}: {message}", "mend this value.")


def _listed(valid: list[str]) -> str:
    shown = ", ".join(valid[:_VALID_KEYS_SHOWN])
    return f"valid keys here: {shown}{', …' if len(valid) > _VALID_KEYS_SHOWN else ''}."


def _line(details: ErrorDetails, places: dict[Path_, yaml.Mark]) -> tuple[int, int]:
    for length in range(len(details["loc"]), 0, -1):
        mark = places.get(details["loc"][:length])
        if mark is not None:
            return (mark.line, -length)
    return (0, 0)


def _mark(location: Path_, places: dict[Path_, yaml.Mark], start: yaml.Mark) -> yaml.Mark:
    for length in range(len(location), 0, -1):
        if location[:length] in places:
            return places[location[:length]]
    return start


def _keys_at(kind: type[Document], location: Path_) -> Iterable[str]:
    """Names valid at a place of a document, found by walking its JSON Schema."""
    schema = kind.model_json_schema()
    definitions = schema.get("$defs", {})
    here: Any = schema
    for part in location:
        here = _resolve(here, definitions)
        here = here.get("items", {}) if isinstance(part, int) else here["properties"].get(part, {})
    properties: dict[str, Any] = _resolve(here, definitions).get("properties", {})
    return properties


def _resolve(schema: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    for option in schema.get("anyOf", ()):
        if "$ref" in option:
            schema = option
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[-1]]
    result: dict[str, Any] = schema
    return result


def _invalid(source: str, mark: yaml.Mark | None, problem: str, next_step: str) -> DocumentInvalid:
    where = source if mark is None else f"{source}:{mark.line + 1}:{mark.column + 1}"
    return DocumentInvalid(where, problem, next_step=next_step)
