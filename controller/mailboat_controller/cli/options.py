"""Options that many commands take, and the client they lead to."""

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import live_names

if TYPE_CHECKING:
    from mailboat_controller.client import ApiClient

CONNECTION_VARIABLE = "MAILBOAT_CONNECTION"
CONTEXT_VARIABLE = "MAILBOAT_CONTEXT"
CONFIG_VARIABLE = "MAILBOAT_CONFIG"
DEFAULT_DATA_DIR = Path("mailboat-data")
DEFAULT_CONFIG = DEFAULT_DATA_DIR / "controller.toml"

# What `-o json` and its like set as well: a program reads the answer.
Json = Annotated[bool, typer.Option("--json", help="The same as -o json.")]
ConnectionOption = Annotated[
    Path | None,
    typer.Option(
        "--connection",
        help="Connection file; without it that of the context.",
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
        autocompletion=live_names.selectors,
    ),
]
DeviceName = Annotated[
    str, typer.Argument(help="The device's id.", autocompletion=live_names.devices)
]
RolloutName = Annotated[
    str, typer.Argument(help="The rollout.", autocompletion=live_names.rollouts)
]
WebhookName = Annotated[
    str, typer.Argument(help="The webhook's name.", autocompletion=live_names.webhooks)
]
ModelName = Annotated[str, typer.Argument(help="The model.", autocompletion=live_names.models)]
Version = Annotated[str, typer.Argument(help="Its version.", autocompletion=live_names.versions)]
ClassOption = Annotated[
    str | None,
    typer.Option("--class", help="Only of this class.", autocompletion=live_names.classes),
]
SiteOption = Annotated[
    str | None,
    typer.Option("--site", help="Only of this site.", autocompletion=live_names.sites),
]
OneModel = Annotated[
    str | None,
    typer.Option("--model", help="This model alone.", autocompletion=live_names.models),
]
SomeModels = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help="Only this model; may be repeated.", autocompletion=live_names.models
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="Only of this model.", autocompletion=live_names.models),
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit log.")]
OptionalReason = Reason

# Said with --context or in the environment, where that comes before what --connection says.
_context: ContextVar[str | None] = ContextVar("context", default=None)


@contextmanager
def of_context(name: str | None) -> Iterator[None]:
    """Connections are of that context meanwhile, whatever the configuration file says."""
    before = _context.set(name)
    try:
        yield
    finally:
        _context.reset(before)


def connection_path(path: Path | None) -> Path:
    """The file that was named, that of the context, or the one in the configuration directory.

    Raises:
        NotFound: no such context. ConfigurationInvalid: the file of contexts cannot be used.
    """
    from mailboat_controller.connection_file import FILE_NAME
    from mailboat_controller.contexts import config_directory, load_contexts

    name = _context.get()
    if path is not None and name is None:
        return path
    directory = config_directory(os.environ)
    contexts = load_contexts(directory)
    name = name or contexts.current
    return directory / FILE_NAME if name is None else contexts.path(name)


def why_this_connection(path: Path | None) -> str:
    """In words, where the choice of `connection_path` comes from."""
    from mailboat_controller.contexts import config_directory, load_contexts

    if _context.get() is not None:
        return f"by the context {_context.get()}"
    if path is not None:
        return f"by --connection or {CONNECTION_VARIABLE}"
    current = load_contexts(config_directory(os.environ)).current
    return f"by {current}, the context in use" if current else "no context is in use"


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
