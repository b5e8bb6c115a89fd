"""``mailboat context``: which controllers a person works with, by name."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mailboat_controller.cli import live_names, options, output

app = typer.Typer(
    help="Contexts: names for connection files, and which of them is used.",
    epilog=output.examples(
        "mailboat context add harbour ~/harbour/connection.toml",
        "mailboat context use harbour",
        "mailboat rollout list --context depot",
    ),
    no_args_is_help=True,
)
_COLUMNS = {
    "name": "CONTEXT",
    "current": "CURRENT",
    "fleet": "FLEET",
    "api_url": "CONTROLLER",
    "as": "AS",
    "problem": "PROBLEM",
}
Name = Annotated[str, typer.Argument(help="The context.", autocompletion=live_names.contexts)]


@app.command("list")
def list_contexts(as_json: options.Json = False) -> None:
    """All of them; asks no controller."""
    from mailboat_controller.contexts import config_directory, load_contexts

    held = load_contexts(config_directory(os.environ))
    rows = [_told(name, Path(path), held.current) for name, path in sorted(held.contexts.items())]
    output.show_rows(rows, _COLUMNS, as_json=as_json)
    output.say_empty(
        rows, "No context yet: `mailboat context add NAME CONNECTION` makes one.", as_json=as_json
    )


@app.command("show")
def show(
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """The connection that commands would use here and now; asks no controller."""
    path = options.connection_path(connection)
    told = _told("", path, None)
    told = {"connection": str(path), **{key: told[key] for key in ("fleet", "api_url", "as")}}
    output.show_fields(told | {"because": options.why_this_connection(connection)}, as_json=as_json)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="How it shall be called.")],
    connection_file: Annotated[
        Path, typer.Argument(metavar="CONNECTION", help="Its connection file.")
    ],
    as_json: options.Json = False,
) -> None:
    """Know a connection file by a name; the first is the one that is used."""
    from mailboat_controller.contexts import change_contexts, config_directory, with_context
    from mailboat_schemas.names import is_label

    if not is_label(name):
        raise typer.BadParameter(
            f"{name!r}: lower-case letters, digits and inner hyphens", param_hint="NAME"
        )
    changed = change_contexts(
        config_directory(os.environ), lambda held: with_context(held, name, connection_file)
    )
    output.show_fields(
        {"name": name, "connection": changed.contexts[name], "current": changed.current == name},
        as_json=as_json,
    )


@app.command("use")
def use(name: Name, as_json: options.Json = False) -> None:
    """Use it wherever nothing else is said."""
    from mailboat_controller.contexts import change_contexts, config_directory, with_current

    changed = change_contexts(config_directory(os.environ), lambda held: with_current(held, name))
    output.show_fields(
        {"name": name, "connection": changed.contexts[name], "current": True}, as_json=as_json
    )


@app.command("remove")
def remove(name: Name, as_json: options.Json = False) -> None:
    """Forget the name; the connection file stays where it is."""
    from mailboat_controller.contexts import change_contexts, config_directory, without_context

    change_contexts(config_directory(os.environ), lambda held: without_context(held, name))
    output.show_fields({"name": name, "removed": True}, as_json=as_json)


def _told(name: str, path: Path, current: str | None) -> dict[str, Any]:
    from mailboat_controller.connection_file import load_connection
    from mailboat_schemas.errors import ConfigurationInvalid

    told: dict[str, Any] = {"name": name, "current": name == current, "connection": str(path)}
    try:
        found = load_connection(path)
    except ConfigurationInvalid as error:
        return told | {"fleet": None, "api_url": None, "as": None, "problem": error.what}
    return told | {
        "fleet": found.fleet,
        "api_url": found.api_url,
        "as": found.name,
        "problem": "",
    }
