"""Options that many commands take, and the client they lead to."""

import getpass
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mailboat_controller.client import ApiClient

CONNECTION_VARIABLE = "MAILBOAT_CONNECTION"
CONFIG_VARIABLE = "MAILBOAT_CONFIG"
DEFAULT_DATA_DIR = Path("mailboat-data")
DEFAULT_CONFIG = DEFAULT_DATA_DIR / "controller.toml"

Json = Annotated[bool, typer.Option("--json", help="JSON for programs instead of text.")]
ConnectionOption = Annotated[
    Path | None,
    typer.Option(
        "--connection",
        help="Connection file; without it ~/.config/mailboat/connection.toml.",
        envvar=CONNECTION_VARIABLE,
        show_default=False,
    ),
]
ConfigOption = Annotated[
    Path,
    typer.Option("--config", help="The controller's settings file.", envvar=CONFIG_VARIABLE),
]
SelectorOption = Annotated[
    str,
    typer.Option(
        "--selector",
        "-l",
        help="Such as 'class=kiosk,site in (a,b),region!=eu,running=vad@1.2.0'.",
        show_default=False,
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit log.")]


OptionalReason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit log.")]


def connection_path(path: Path | None) -> Path:
    """The file that was named, or the one in the user's configuration directory."""
    if path is not None:
        return path
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "mailboat" / "connection.toml"


def client(path: Path | None) -> "ApiClient":
    """A client for the connection; use it as a context manager."""
    from mailboat_controller.client import ApiClient  # loads the HTTP library

    return ApiClient.open(connection_path(path), remind=lambda text: print(text, file=sys.stderr))


def now() -> datetime:
    """The command line is an edge of the program: it may read the clock."""
    return datetime.now(UTC)


def local_actor() -> str:
    """Who acts on this disk, for the audit log."""
    try:
        return f"local:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"local:{os.getuid()}"  # a container's user often has no name


def labels(pairs: list[str]) -> dict[str, str]:
    """What was said with --label."""
    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise typer.BadParameter(f"{pair!r}: write name=value", param_hint="--label")
        found[name] = value
    return found
