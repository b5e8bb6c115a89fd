"""In which form a command answers: one choice, ``-o``, for every command.

The grammar (`grammar.py`) sets the form around each command; what commands print goes through
`output.py`, which asks here. So no command has to hand the form on.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

import typer


class Form(StrEnum):
    """Of answers that are lists or things with a name."""

    TABLE = "table"
    WIDE = "wide"  # a table of everything there is
    JSON = "json"
    YAML = "yaml"
    NAME = "name"  # names alone, one a line


class PlainForm(StrEnum):
    """Of what a command did."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class MarkdownForm(StrEnum):
    """Of what is told in a comment on a pull request."""

    TABLE = "table"
    MARKDOWN = "markdown"
    JSON = "json"
    YAML = "yaml"


# As a program reads it: nothing is printed that is no part of the answer.
FOR_PROGRAMS = frozenset({"json", "yaml", "name"})
# Where a thing has no name of its own, `-o name` prints the first of these that it has.
NAME_KEYS = ("name", "device", "rollout", "role", "request", "order", "set", "id", "subject")

Command = TypeVar("Command", bound=Callable[..., None])
_form: ContextVar[str] = ContextVar("form", default=Form.TABLE.value)


def with_markdown(command: Command) -> Command:
    """Of a command that can also answer in Markdown: `current` says when."""
    command.__dict__["forms"] = MarkdownForm
    return command


@contextmanager
def spoken(form: str) -> Iterator[None]:
    """Answers are in that form meanwhile."""
    before = _form.set(form)
    try:
        yield
    finally:
        _form.reset(before)


def current() -> str:
    return _form.get()


def asked_for(words: Sequence[str]) -> str:
    """The form that a command line asks for, also where it is wrong elsewhere."""
    found = Form.TABLE.value
    for index, word in enumerate(words):
        if word == "--json":
            found = Form.JSON.value
        elif word in ("-o", "--output") and index + 1 < len(words):
            found = words[index + 1]
        elif word.startswith("--output="):
            found = word.partition("=")[2]
        elif word.startswith("-o") and len(word) > 2:
            found = word[2:].removeprefix("=")
    return found


def write(content: Any, *, name: Sequence[str] = ()) -> str:
    """An answer for programs: JSON, YAML or names, by the form.

    Args:
        name: keys whose values, joined with @, are what a row is called.

    Raises:
        BadParameter: names are asked for, and it has none.
    """
    plain = json.loads(json.dumps(content, default=_plain))
    match current():
        case "yaml":
            return _yaml(plain)
        case "name":
            return "\n".join(names(plain, name))
        case _:
            return json.dumps(plain, indent=2)


def names(content: Any, keys: Sequence[str]) -> list[str]:
    """What the rows of a list, or the one thing, are called; what comes from afar stays a line."""
    rows = content if isinstance(content, list) else [content]
    return [_name(row, keys) for row in rows]


def _name(row: Any, keys: Sequence[str]) -> str:
    if isinstance(row, Mapping):
        metadata = row.get("metadata")
        places = [row, metadata] if isinstance(metadata, Mapping) else [row]
        for place in places:
            if keys and all(place.get(key) is not None for key in keys):
                return "@".join(printable(str(place[key])) for key in keys)
        for place in places:
            for key in NAME_KEYS:
                if place.get(key) is not None:
                    return printable(str(place[key]))
    raise typer.BadParameter("nothing here has a name; ask for json", param_hint="--output")


def printable(text: str) -> str:
    """Without control characters: from afar they could repaint the terminal, or break a line."""
    return "".join(char if char.isprintable() else " " for char in text)


def _yaml(content: Any) -> str:
    import yaml  # slow to import, and seldom asked for

    # Escaped, so that nothing from afar moves the terminal; in the order it came.
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=False)
    return text.rstrip("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
