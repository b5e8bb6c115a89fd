"""``mailboat release export``: a class's releases as one file, for devices without a network."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import options, output
from mailboat_controller.cli.progress import progress
from mailboat_schemas.errors import ConfigurationInvalid, Conflict

if TYPE_CHECKING:
    from mailboat_schemas.carrier import Contents

_COLUMNS = {"model": "MODEL", "version": "VERSION", "size": "SIZE", "digest": "DIGEST"}


def export(
    hardware_class: Annotated[
        str | None, typer.Option("--class", help="The hardware class it is for.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file to write.")] = None,
    model: options.SomeModels = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Superseded releases and fallbacks too.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    verify: Annotated[
        Path | None,
        typer.Option("--verify", help="Export nothing: list this file and check every byte."),
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Write what a class may run into one file, for `mailboat-agent import` on a device.

    Run it again after an interruption: it goes on where it stopped.
    """
    if verify is not None:
        if out is not None or hardware_class is not None:
            raise ConfigurationInvalid(
                "--verify looks at a file that exists; --class and --out make a new one.",
                next_step="leave out one or the other.",
            )
        _verify(verify, as_json=as_json)
        return
    if hardware_class is None or out is None:
        raise ConfigurationInvalid(
            "An export needs a class and a file.",
            next_step="add --class CLASS and --out FILE, or --verify FILE.",
        )
    if out.exists() and not force:
        raise Conflict(
            f"{out} exists.", next_step="choose another name, or replace it with --force."
        )
    _export(hardware_class, out, model, everything, connection, as_json=as_json)


def _export(
    hardware_class: str,
    out: Path,
    models: list[str] | None,
    everything: bool,
    connection: Path | None,
    *,
    as_json: bool,
) -> None:
    from mailboat_controller.transfer.export import write_carrier
    from mailboat_controller.transfer.selection import Wanted, contents_of
    from mailboat_schemas.carrier import carrier_bytes
    from mailboat_schemas.codec import encode
    from mailboat_schemas.desired import FreshTimestamp
    from mailboat_schemas.trust import expires_at

    with options.client(connection) as api:
        # The bundle's own timestamp is as old as the bundle; it is signed again every day. Asked
        # for first: what is published in between comes with a newer one, which then counts.
        role = api.role("timestamp")
        manifest = api.manifest(hardware_class)
        timestamp = encode(
            FreshTimestamp(
                fleet=api.connection.fleet, hardware_class=hardware_class, timestamp=role
            )
        )
        wanted = Wanted(frozenset(models) if models else None, everything)
        contents = contents_of(manifest, timestamp, wanted)
        total = carrier_bytes(contents)
        with progress(f"export {out}", shown=not as_json, total_bytes=total) as report:
            write_carrier(
                out,
                contents,
                manifest=manifest,
                timestamp=timestamp,
                open_artifact=lambda digest: partial(api.artifact_at, digest),
                on_progress=report,
            )
    expires = expires_at({"timestamp.json": role})
    _show(
        contents,
        {"file": str(out), "bytes": total, "timestamp_expires": expires},
        f"{out} is written: {_size(total)}, {len(contents.artifacts)} files. "
        f"Devices take it until {expires:%Y-%m-%d %H:%M} UTC; later, export again.\n"
        f"Next: carry it to the device, then `mailboat-agent import {out.name}`."
        if expires is not None
        else f"{out} is written.",
        as_json=as_json,
    )


def _verify(path: Path, *, as_json: bool) -> None:
    from mailboat_controller.transfer.export import verify_carrier

    size = path.stat().st_size
    with progress(f"verify {path}", shown=not as_json, total_bytes=size) as report:
        contents = verify_carrier(path, report)
    _show(
        contents,
        {"file": str(path), "bytes": size, "whole": True},
        f"{path} is whole: {_size(size)}, {len(contents.artifacts)} files for class "
        f"{contents.hardware_class} of {contents.fleet}. "
        "Whether a device takes it, its signatures decide there.",
        as_json=as_json,
    )


def _show(contents: "Contents", outcome: dict[str, object], text: str, *, as_json: bool) -> None:
    releases = [
        {**each.model_dump(mode="json"), "size": _size(each.size_bytes)}
        for each in contents.releases
    ]
    if as_json:
        listed = contents.model_dump(mode="json", exclude={"releases"})
        output.show_json({**outcome, **listed, "releases": releases})
        return
    output.show_rows(releases, _COLUMNS, as_json=False)
    print(text)


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
