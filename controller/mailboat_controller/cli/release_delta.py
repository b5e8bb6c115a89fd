"""``mailboat release delta|deltas``: how a release comes to devices that run another one."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import options, output
from mailboat_schemas.errors import ConfigurationInvalid, ServerUnavailable

if TYPE_CHECKING:
    from mailboat_controller.client import ApiClient

POLL_SECONDS = 0.5
LOCAL_MEMORY_MIB = 256  # what a decoder may take where no class says it

_CANDIDATES = {
    "hardware_class": "CLASS",
    "path": "FILE",
    "format": "WAY",
    "size": "BYTES",
    "share": "OF FULL",
    "memory": "MEMORY",
    "build": "BUILD",
    "apply": "APPLY",
    "because": "BECAUSE",
}
_FILES = {
    "hardware_class": "CLASS",
    "path": "FILE",
    "length": "BYTES",
    "delta": "DELTA",
    "full": "WITHOUT A BASE",
    "state": "STATE",
    "note": "NOTE",
}
_QUEUE = {
    "file": "FILE",
    "from": "FROM",
    "state": "STATE",
    "format": "WAY",
    "patch_length": "BYTES",
    "target_length": "OF",
    "memory": "MEMORY",
    "devices": "DEVICES",
    "offered": "OFFERED",
    "error": "ERROR",
}


def delta(
    model: options.ModelName,
    base: Annotated[str, typer.Option("--from", help="The version that devices run.")],
    to: Annotated[str, typer.Option("--to", help="The version they are to get.")],
    hardware_class: options.ClassOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every candidate; builds what is not built yet.")
    ] = False,
    build: Annotated[bool, typer.Option("--build", help="Queue what is not built yet.")] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Tell no device of these patches any more.")
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="Build here, from the builds in this directory, and change nothing."
        ),
    ] = None,
    reason: options.OptionalReason = "",
    timeout_seconds: Annotated[
        float, typer.Option(min=1, max=86_400, help="How long building may take.")
    ] = 600,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """How each file of a release comes to devices that run another one, and why in that way."""
    if build and drop:
        raise ConfigurationInvalid(
            "--build and --drop contradict each other.", next_step="name one of the two."
        )
    if directory is not None:
        _show_candidates(_built_here(directory, model, base, to, hardware_class), as_json)
        return
    path = f"/v1/deltas/{model}/{base}/{to}"
    order = {"hardware_class": hardware_class, "reason": reason}
    with options.client(connection) as client:
        files = client.get(path, hardware_class=hardware_class)
        if drop:
            files = client.post(f"{path}/drop", order)
        elif build or (explain and not all(file["queued"] for file in files)):
            files = client.post(f"{path}/build", order)
        if explain:
            files = _waited_for(client, path, hardware_class, timeout_seconds, shown=not as_json)
    if explain:
        _show_candidates(files, as_json)
    else:
        output.show_rows(
            files if as_json else [_file(each) for each in files], _FILES, as_json=as_json
        )


def deltas(
    state: Annotated[str | None, typer.Option(help="Only those, such as failed.")] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """What is built, queued and failed: sizes, and how many devices it is for."""
    with options.client(connection) as client:
        rows = client.get("/v1/deltas", state=state)
    output.show_rows(rows if as_json else [_row(each) for each in rows], _QUEUE, as_json=as_json)


def _waited_for(
    client: "ApiClient", path: str, hardware_class: str | None, seconds: float, *, shown: bool
) -> list[dict[str, Any]]:
    """Asked again until nothing is about to be built.

    Raises:
        ServerUnavailable: not in time.
    """
    deadline = time.monotonic() + seconds
    said = 0
    while True:
        files: list[dict[str, Any]] = client.get(path, hardware_class=hardware_class)
        waiting = sum(file["pending"] for file in files)
        if not waiting:
            return files
        if shown and waiting != said:
            output.remark(f"building: {waiting} of {len(files)} files to go")
            said = waiting
        if time.monotonic() > deadline:
            raise ServerUnavailable(
                f"{waiting} files are not built after {seconds:.0f} s.",
                next_step="look at `mailboat release deltas`, or wait with --timeout-seconds.",
            )
        time.sleep(POLL_SECONDS)


def _built_here(
    directory: Path, model: str, base: str, to: str, hardware_class: str | None
) -> list[dict[str, Any]]:
    from mailboat_controller.delta_builds.local import explain_builds  # numpy

    return explain_builds(
        directory, model, base, to, hardware_class, memory_bytes_max=LOCAL_MEMORY_MIB << 20
    )


def _show_candidates(files: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        output.show_json(files)
        return
    output.show_rows(
        [row for file in files for row in _candidates(file)], _CANDIDATES, as_json=False
    )


def _candidates(file: dict[str, Any]) -> list[dict[str, Any]]:
    place = {"hardware_class": file["hardware_class"], "path": file["path"]}
    rows = [
        {
            **place,
            "format": each["format"],
            "size": each["size_bytes"],
            "share": None if each["share"] is None else f"{each['share']:.1%}",
            "memory": None if each["memory_bytes"] is None else _mib(each["memory_bytes"]),
            "build": _seconds(each["build_seconds"]),
            "apply": _seconds(each["apply_seconds_estimate"]),
            "because": each["because"],
        }
        for each in file["candidates"]
    ]
    problem = _problem(file)
    if rows and not problem:
        return rows
    return [*rows, {**place, "size": file["length"], "format": "as it is", "because": problem}]


def _problem(file: dict[str, Any]) -> str:
    errors = [way["error"] for way in (file["delta"], file["full"]) if way and way["error"]]
    return "; ".join(dict.fromkeys([*([file["note"]] if file["note"] else []), *errors]))


def _file(file: dict[str, Any]) -> dict[str, Any]:
    states = [way["state"] for way in (file["delta"], file["full"]) if way]
    return {
        **file,
        "delta": _way(file["delta"]),
        "full": _way(file["full"]),
        "state": list(dict.fromkeys(states)),
        "note": _problem(file),
    }


def _way(way: dict[str, Any] | None) -> str | None:
    if way is None or not way["patch_length"]:
        return None
    return f"{way['patch_length']} ({way['format']})"


def _row(row: dict[str, Any]) -> dict[str, Any]:
    purposes = row["purposes"]
    names = dict.fromkeys(f"{p['model']} {p['version']} {p['path']}" for p in purposes)
    bases = dict.fromkeys(p["base_version"] or "(nothing)" for p in purposes)
    built = row["patch_length"]
    return {
        **row,
        "file": list(names) or row["target"][:16],
        "from": list(bases) or row["base"][:16],
        "format": row["format"] or None,
        "patch_length": built or None,
        "memory": _mib(row["memory_bytes"]) if built else None,
        "error": row["error"] or None,
    }


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.2f} s"
