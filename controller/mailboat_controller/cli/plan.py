"""``mailboat plan``: what a rollout would do to the fleet, before anybody approves it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mailboat_controller.cli import forms, options, output


@forms.with_markdown
def plan(
    file: Annotated[Path, typer.Option("--file", "-f", help="The Rollout document (YAML).")],
    devices_per_class: Annotated[
        int | None,
        typer.Option(
            "--devices-per-class",
            min=1,
            help="As the approval will say it; without it the smallest class as it is.",
        ),
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Who would get a release, who cannot and why, what each wave excludes, how long it takes."""
    from mailboat_schemas.documents.rollout import Rollout
    from mailboat_schemas.documents.yaml_source import load_document

    document = load_document(file, Rollout)
    request = {
        "rollout": document.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "devices_per_class": devices_per_class,
    }
    with options.client(connection) as client:
        found = client.post("/v1/plans", request)
    if as_json:
        output.show_json(found)
        return
    for line in markdown(found):
        print(line)


def markdown(found: Mapping[str, Any]) -> Iterator[str]:
    """As a comment on a pull request would say it. What devices said is escaped."""
    yield f"## Plan of rollout {found['rollout']}: {found['model']} {found['version']}"
    yield ""
    for warning in found["warnings"]:
        yield f"> **Attention:** {output.markdown_cell(warning)}."
        yield ""
    yield from _waves(found["waves"])
    yield ""
    ends = found["ends_at"]
    yield (
        f"Expected to be through by {_minute(ends)}, if every gate passes."
        if ends
        else "When it is through cannot be said: too few devices have a habit to tell by."
    )
    for each in found["classes"]:
        yield ""
        yield from _class(each)


def _waves(waves: list[Mapping[str, Any]]) -> Iterator[str]:
    yield (
        "| wave | class | new devices | able | verdicts needed | excludes, 99 % | "
        "shows 10 % broken | opens | takes |"
    )
    yield "|---|---|---:|---:|---:|---|---:|---|---|"
    for wave in waves:
        total = wave["total"]
        excludes = f"{100 * wave['excludes']:.3g} % ({total} good)" if total else "nothing"
        seconds = wave["duration_seconds"]
        takes = "unknown" if seconds is None else _spoken(seconds)
        if wave["without_habit"]:
            takes += f" ({wave['without_habit']} without a habit)"
        if wave["waiting"]:
            takes += f" ({wave['waiting']} wait for their window or cadence)"
        cells = (
            wave["number"],
            wave["hardware_class"],
            wave["devices"],
            wave["able"],
            wave["needed"],
            excludes,
            f"{100 * wave['catches_ten_percent']:.3g} %",
            _minute(wave["opens_at"]) if wave["opens_at"] else "unknown",
            takes,
        )
        yield f"| {' | '.join(output.markdown_cell(str(cell)) for cell in cells)} |"


def _class(found: Mapping[str, Any]) -> Iterator[str]:
    without = sum(each["devices"] for each in found["cannot"])
    yield f"### {found['hardware_class']}: {found['devices']} devices, {without} of them not able"
    if not found["cannot"]:
        return
    yield ""
    yield "| devices | check | because | for example |"
    yield "|---:|---|---|---|"
    for each in found["cannot"]:
        because = each["because"] + (" (not known)" if each["unknown"] else "")
        cells = (each["devices"], each["check"], because, ", ".join(each["examples"]))
        yield f"| {' | '.join(output.markdown_cell(str(cell)) for cell in cells)} |"
    if found["more_reasons"]:
        yield f"| | | and {found['more_reasons']} more reasons | |"


def _minute(instant: str) -> str:
    return instant[:16].replace("T", " ") + " UTC"


def _spoken(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
