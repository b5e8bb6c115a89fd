"""``mailboat top``: the fleet at one look, live on a terminal; a single look in a pipe."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import forms, options, output, watching

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from mailboat_controller.cli.keyboard import NextKey
    from mailboat_controller.cli.top_picture import Item
    from mailboat_controller.glance import Glance

KEY_SECONDS = 0.2  # how long a new look may wait to be drawn
EVERYTHING_EACH = 5  # looks; between them only counts and rollouts
SNAPSHOT_CHARS = 120  # a pipe has no width of its own
COLUMNS_MIN, COLUMNS_MAX = 20, 1000  # outside, COLUMNS is a slip


@dataclass
class _Latest:
    """What the looking thread hands to the drawing one; whole values are put in place."""

    glance: "Glance | None" = None
    problem: str = ""
    ended: Exception | None = None


def top(
    every: Annotated[
        float,
        typer.Option(
            "--every",
            min=watching.EVERY_SECONDS_MIN,
            max=watching.EVERY_SECONDS_MAX,
            help="Seconds between two looks.",
        ),
    ] = watching.EVERY_SECONDS,
    once: Annotated[bool, typer.Option("--once", help="One look, also on a terminal.")] = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Devices, rollouts with their gates, events a second, sites that are cut, whom to look at."""
    if as_json or once or not (output.can_draw() and sys.stdin.isatty()):
        _snapshot(connection, as_json=as_json)
        return
    # Now, so that a wrong connection file is told before the screen is cleared.
    path = options.connection_path(connection)
    with options.client(path):
        pass
    with contextlib.suppress(KeyboardInterrupt):
        _live(path, every)


def _snapshot(connection: Path | None, *, as_json: bool) -> None:
    from rich.console import Console

    from mailboat_controller.cli.top_picture import picture
    from mailboat_controller.glance import Looking

    with options.client(connection) as client:
        glance = Looking(client).look(time.monotonic(), everything=True)
    if as_json:
        output.show_json(glance.told())
        return
    Console(width=_snapshot_chars()).print(picture(glance, options.now(), keys=False))


def _snapshot_chars() -> int | None:
    """None: what the terminal has. For a pipe COLUMNS says it."""
    if sys.stdout.isatty():
        return None
    told = os.environ.get("COLUMNS", "")
    chars = int(told) if told.isdecimal() else 0
    return chars if COLUMNS_MIN <= chars <= COLUMNS_MAX else SNAPSHOT_CHARS


def _live(path: Path, every_seconds: float) -> None:
    from rich.console import Console

    from mailboat_controller.cli.keyboard import keys

    latest, stop = _Latest(), threading.Event()
    looking = threading.Thread(
        target=_look_on, args=(path, every_seconds, latest, stop), name="top-looking", daemon=True
    )
    looking.start()
    console = Console()
    try:
        with keys() as next_key, console.screen(hide_cursor=True) as screen:
            _draw_on(screen.update, console, latest, next_key, path)
    finally:
        stop.set()
    if latest.ended is not None:
        raise latest.ended


def _look_on(path: Path, every_seconds: float, latest: _Latest, stop: threading.Event) -> None:
    """Until told to stop. A controller that is away is told of, with the last look there was."""
    from mailboat_controller.client import ApiClient, Patience
    from mailboat_controller.glance import Looking
    from mailboat_schemas.errors import Transient

    since: datetime | None = None
    try:
        with ApiClient.open(path, patience=Patience(attempts_max=1)) as client:
            looking, turn = Looking(client), 0
            while not stop.is_set():
                try:
                    everything = turn % EVERYTHING_EACH == 0
                    latest.glance = looking.look(time.monotonic(), everything=everything)
                    latest.problem, since, turn = "", None, turn + 1
                except Transient as error:
                    since = since or options.now()
                    latest.problem = f"old since {since:%H:%M:%S}: {error.what}"
                stop.wait(every_seconds)
    except Exception as error:  # noqa: BLE001  raised where it is drawn: an old picture must not stay
        latest.ended = error


def _draw_on(
    draw: "Callable[[RenderableType], None]",
    console: "Console",
    latest: _Latest,
    next_key: "NextKey",
    path: Path,
) -> None:
    """Until a person ends it, or nobody can look any more."""
    from rich.text import Text

    from mailboat_controller.cli.top_picture import items, picture

    chosen: Item | None = None
    detail = ""
    while latest.ended is None:
        glance = latest.glance
        if glance is None:
            draw(Text(forms.printable(latest.problem) or "Looking at the fleet …"))
        elif detail:
            shown = watching.cropped(Text.from_ansi(detail), console, told=False)
            draw(shown.append("\n\nesc back   q end", style="dim"))
        else:
            known = items(glance)
            chosen = chosen if chosen in known else (known[0] if known else None)
            draw(picture(glance, options.now(), problem=latest.problem, chosen=chosen, keys=True))
        match next_key(KEY_SECONDS):
            case "quit":
                return
            case "back":
                detail = ""
            case "enter" if chosen is not None and not detail:
                detail = _detail(chosen, path)
            case ("up" | "down") as way if glance is not None and not detail:
                chosen = _moved(items(glance), chosen, 1 if way == "down" else -1)


def _moved(known: "list[Item]", chosen: "Item | None", by: int) -> "Item | None":
    if not known or chosen not in known:
        return chosen
    return known[max(0, min(len(known) - 1, known.index(chosen) + by))]


def _detail(chosen: "Item", path: Path) -> str:
    """What `mailboat NOUN show NAME` says."""
    from mailboat_controller.cli import device, rollout, site
    from mailboat_schemas.errors import MailboatError

    page = watching.Page()
    try:
        with contextlib.redirect_stdout(page):
            match chosen.noun:
                case "rollout":
                    rollout.status(chosen.name, connection=path)
                case "site":
                    site.show(chosen.name, connection=path)
                case _:
                    device.show(chosen.name, connection=path)
    except MailboatError as error:
        return f"{output.plain_text(error.what)}\nnext step: {output.plain_text(error.next_step)}"
    return page.getvalue()
