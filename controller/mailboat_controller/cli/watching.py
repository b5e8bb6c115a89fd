"""``--watch``: the same answer again and again; on a terminal in its place, in a pipe as lines.

A controller that is away for a moment ends no watch: the last answer stays, with a line below it
that says since when it is old. Ctrl-C ends it, and so does a command that ends with a code.
"""

import contextlib
import io
import json
import select
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import typer

from mailboat_controller.cli import forms, output
from mailboat_schemas.errors import Transient

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

EVERY_SECONDS = 2.0
EVERY_SECONDS_MIN = 0.5  # a controller that many people watch has other things to do
EVERY_SECONDS_MAX = 3600.0
HEAD_LINES = 2

Ask = Callable[[], None]  # prints one answer
Show = Callable[[str, str], None]  # an answer, and what is wrong with it


class Page(io.StringIO):
    """What a command prints meanwhile; tables come out as the terminal wants them."""

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


def watch(ask: Ask, title: str, *, every_seconds: float, now: Callable[[], datetime]) -> None:
    """Until Ctrl-C, or until the command itself ends with a code.

    Args:
        ask: prints one answer; run as often as there are turns.
        title: what is watched, for the line at the top.

    Raises:
        Exit: 130 after Ctrl-C, or as the command ends.
    """
    shown = _on_screen if output.can_draw() else _as_lines
    try:
        with shown(title, every_seconds, now) as show:
            _turns(ask, show, every_seconds, now)
    except KeyboardInterrupt:
        raise typer.Exit(output.EXIT_INTERRUPTED) from None


def _turns(ask: Ask, show: Show, every_seconds: float, now: Callable[[], datetime]) -> None:
    text, away_since = "", None
    while True:
        page, ended, problem = Page(), None, ""
        try:
            with contextlib.redirect_stdout(page):
                ask()
        except Transient as error:
            away_since = away_since or now()
            problem = f"old since {away_since:%H:%M:%S}: {error.what}"
        except typer.Exit as error:
            ended = error
        if not problem:
            text, away_since = page.getvalue(), None
        show(text, problem)
        if ended is not None:
            raise ended
        pause(every_seconds)


def pause(seconds: float) -> None:
    """Wait for the next look; a pipe that nobody reads any more ends it.

    Raises:
        BrokenPipeError: nobody reads.
    """
    if sys.stdout.isatty():
        time.sleep(seconds)
        return
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # errors and the other end's leaving alone
    except (OSError, ValueError):  # no file: output that is caught
        time.sleep(seconds)
        return
    if poll.poll(seconds * 1000):
        raise BrokenPipeError


@contextlib.contextmanager
def _on_screen(title: str, every_seconds: float, now: Callable[[], datetime]) -> Iterator[Show]:
    """The whole screen, as `watch` and `less` take it; the last answer stays when it is over."""
    from rich.console import Console
    from rich.text import Text

    console, last = Console(), ""

    def show(text: str, problem: str) -> None:
        nonlocal last
        last = text
        head = f"{title}   every {every_seconds:g} s, {now():%H:%M:%S} UTC, Ctrl-C ends"
        page = Text(f"{head[: console.width]}\n\n", style="dim", no_wrap=True)
        page.append(cropped(Text.from_ansi(text), console, bool(problem)))
        if problem:
            page.append(f"\n{forms.printable(problem)[: console.width]}", style="bold red")
        screen.update(page)

    try:
        with console.screen(hide_cursor=True) as screen:
            yield show
    finally:
        sys.stdout.write(last)
        sys.stdout.flush()


def cropped(page: "Text", console: "Console", told: bool) -> "Text":
    """What fits beside two more lines; how many lines do not is said.

    Args:
        told: two further lines stand below it.
    """
    from rich.text import Text

    room = max(1, console.height - HEAD_LINES - (2 if told else 0))
    lines = list(page.split("\n"))
    while lines and not lines[-1].plain:
        lines.pop()
    if len(lines) > room:
        more = len(lines) - room + 1
        lines = lines[: room - 1]
        lines.append(Text(f"… {more} more lines; narrow it down, or make the window higher"))
    return Text("\n").join(lines)


@contextlib.contextmanager
def _as_lines(_title: str, _every_seconds: float, _now: Callable[[], datetime]) -> Iterator[Show]:
    """Each answer that differs from the last; JSON in one line, what is wrong beside it."""
    last: tuple[str, str] | None = None

    def show(text: str, problem: str) -> None:
        nonlocal last
        before = last or ("", "")
        if problem and not before[1]:
            output.remark(problem)
        if text and (last is None or text != before[0]):
            sys.stdout.write(_one_line(text))
            sys.stdout.flush()
        last = (text, problem)

    yield show


def _one_line(text: str) -> str:
    match forms.current():
        case "json":
            with contextlib.suppress(ValueError):  # lines of JSON already
                return json.dumps(json.loads(text)) + "\n"
            return text
        case "yaml":
            return f"---\n{text}"
    return text
