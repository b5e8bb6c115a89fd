"""``mailboat version`` and ``mailboat --version``: which release of Mailboat is where."""

import platform
from typing import Annotated, Any

import typer

from mailboat_controller.cli import options, output
from mailboat_schemas import CONTRACT_VERSION


def of_this() -> dict[str, Any]:
    """What is installed here; ``contract`` is the number in every topic and payload."""
    from importlib.metadata import version

    return {
        "version": version("mailboat"),
        "contract": CONTRACT_VERSION,
        "python": platform.python_version(),
    }


def in_words() -> str:
    """One line: ``mailboat 0.1.0 (mb/1, Python 3.11.7)``"""
    here = of_this()
    return f"mailboat {here['version']} (mb/{here['contract']}, Python {here['python']})"


def _say_and_end(asked: bool) -> None:
    if asked:
        print(in_words())
        raise typer.Exit


def whole_program(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_say_and_end, help="What is installed here."
        ),
    ] = False,
) -> None:
    """Signed model releases for fleets that the network reaches only sometimes."""


def version(
    only_here: Annotated[bool, typer.Option("--client", help="Ask no controller.")] = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """What is installed here, and at the controller; docs/upgrade.md says what goes together."""
    told: dict[str, Any] = {"client": of_this(), "controller": None}
    if not as_json:
        print(in_words())
    if not only_here:
        with options.client(connection) as client:
            found = client.get("/v1/info")
        told["controller"] = {name: found[name] for name in ("version", "contract", "fleet")}
        output.say(
            f"controller {found['version']} (mb/{found['contract']}), fleet {found['fleet']}",
            as_json=as_json,
        )
        if found["contract"] != CONTRACT_VERSION:
            output.remark("They do not speak the same contract: docs/upgrade.md.")
    if as_json:
        output.show_json(told)
