"""What `mailboat diff`, `apply` and `gitops` share: sets of documents and what became of them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import forms, output

if TYPE_CHECKING:
    from mailboat_controller.gitops.reading import Source

DIRECTORY_HELP = "A directory of YAML documents, or one file."
VALUE_CHARS_MAX = 200  # of one field in a table
_ROLLOUT_FILE = "--rollout FILE"

FileOption = Annotated[Path, typer.Option("--file", "-f", help=DIRECTORY_HELP)]
SetOption = Annotated[
    str,
    typer.Option(
        "--set",
        help="What the documents are known under, so that another directory's are left alone; "
        "without it the directory's name.",
        show_default=False,
    ),
]
PruneOption = Annotated[
    bool, typer.Option("--prune", help="Also what the set once held and holds no more.")
]


def set_name(path: Path, given: str, *, prune: bool) -> str:
    """
    Raises:
        BadParameter: there is no name to go by, or one file would prune all the others.
    """
    from mailboat_schemas.names import is_label

    if prune and not path.is_dir():
        raise typer.BadParameter(
            "one file is not the whole set; name its directory", param_hint="--prune"
        )
    resolved = path.resolve()
    name = given or (resolved if path.is_dir() else resolved.parent).name
    if not is_label(name):
        raise typer.BadParameter(
            f"{name!r} is no name of a set: lower-case letters, digits and inner hyphens",
            param_hint="--set",
        )
    return name


def with_sources(found: Mapping[str, Any], sources: "Sequence[Source]") -> dict[str, Any]:
    """The answer of the controller, each document with the place it was written at."""
    places = {source.key: source.place for source in sources}
    results = []
    for each in found["results"]:
        place = places.get((each["kind"], each["name"]), "")
        next_step = each["next_step"]
        if place:
            file = re.sub(r":[0-9]+$", "", place)
            next_step = next_step.replace(_ROLLOUT_FILE, f"--rollout {file}")
        results.append({**each, "source": place, "next_step": next_step})
    return {**found, "results": results}


def show(found: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.show_json(found)
        return
    told = markdown(found) if forms.current() == "markdown" else table(found)
    for line in told:
        print(line)


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """A line a document and, indented, one for each field that differs."""
    results = found["results"]
    width = max((len(each["result"]) for each in results), default=0)
    for each in results:
        yield f"{each['result']:<{width}}  {each['kind']} {each['name']}" + _because(each)
        for one in each["differences"]:
            yield f"    {one['field']}: {_value(one['before'])} → {_value(one['after'])}"
        if each["next_step"]:
            yield f"    next step: {output.plain_text(each['next_step'])}"
    yield _total(found)


def markdown(found: Mapping[str, Any]) -> Iterator[str]:
    """As a comment on a pull request would say it. What came from elsewhere is escaped."""
    yield f"## Set {found['set']}: {_total(found)}"
    results = [each for each in found["results"] if each["result"] != "unchanged"]
    if not results:
        return
    yield ""
    yield "| result | document | field | before | after |"
    yield "|---|---|---|---|---|"
    for each in results:
        name = f"{each['kind']} {each['name']}"
        for one in each["differences"] or [{"field": "", "before": "", "after": ""}]:
            cells = (
                each["result"],
                name,
                one["field"],
                _value(one["before"]) if one["field"] else "",
                _value(one["after"]) if one["field"] else "",
            )
            yield f"| {' | '.join(output.markdown_cell(cell) for cell in cells)} |"
    for each in results:
        if each["because"] or each["next_step"]:
            yield ""
            name = f"{each['kind']} {each['name']}"
            said = " ".join(part for part in (each["because"], each["next_step"]) if part)
            yield f"* **{output.markdown_cell(name)}**: {output.markdown_cell(said)}"


def exit_code(found: Mapping[str, Any], *, differences: int) -> int:
    """A refusal is a conflict; ``differences`` is the code where something differs."""
    if any(each["result"] == "refused" for each in found["results"]):
        return output.EXIT_CONFLICT
    return differences if found["different"] else 0


def _total(found: Mapping[str, Any]) -> str:
    counts: dict[str, int] = {}
    for each in found["results"]:
        counts[each["result"]] = counts.get(each["result"], 0) + 1
    return ", ".join(f"{count} {word}" for word, count in counts.items()) or "nothing declared"


def _because(each: Mapping[str, Any]) -> str:
    place = f" ({each['source']})" if each["source"] else ""
    why = f": {output.plain_text(each['because'])}" if each["because"] else ""
    return f"{output.plain_text(place)}{why}"


def _value(value: Any) -> str:
    text = "-" if value is None else output.plain_text(str(value))
    return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + "…"
