"""``mailboat demo``: the whole story on this machine, by real processes on loopback."""

import contextlib
import io
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import options, output
from mailboat_schemas.errors import ConfigurationInvalid, MailboatError

if TYPE_CHECKING:
    from mailboat_controller.demo.fleet import Fleet
    from mailboat_controller.demo.models import Series
    from mailboat_controller.demo.narrator import Narrator

MODEL_CACHE_VARIABLE = "MAILBOAT_MODEL_CACHE"
# In a checkout, set-up has filled this one; elsewhere the wheels come when the demo first runs.
DEFAULT_MODEL_CACHE = Path(".cache") / "models"


def demo(
    directory: Annotated[
        Path | None, typer.Option(help="New directory for everything; default: a temporary one.")
    ] = None,
    models: Annotated[
        Path, typer.Option(help="Cache of the model series.", envvar=MODEL_CACHE_VARIABLE)
    ] = DEFAULT_MODEL_CACHE,
    seed: Annotated[int, typer.Option(help="Of the requests the demo makes.")] = 7,
    headless: Annotated[bool, typer.Option("--headless", help="No colours, as for a log.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up at the end, until Ctrl-C.")] = False,
    as_json: options.Json = False,
) -> None:
    """A real broker with TLS, a controller and six agents; five releases, two of them bad.

    Needs no root and listens on loopback only. With --json the last line on standard output is one
    JSON object; the exit status is 0 only if every step held.
    """
    from mailboat_controller.broker.embedded import find_mosquitto
    from mailboat_controller.demo.fleet import Fleet
    from mailboat_controller.demo.narrator import Narrator, StepFailed, write_result
    from mailboat_controller.demo.story import Story

    started = time.monotonic()
    find_mosquitto()  # the error says what to install, before anything is made
    narrator = Narrator(sys.stderr if as_json else sys.stdout, started=started, plain=headless)
    place = directory or Path(tempfile.mkdtemp(prefix="mailboat-demo-"))
    if place.exists() and any(place.iterdir()):
        raise ConfigurationInvalid(f"{place} is not empty.", next_step="name a new directory.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    fleet = Fleet(place.resolve(), narrator, run_here)
    series = _series(models, narrator)
    with fleet.wires:
        try:
            narrator.chapter("A fleet: one controller, one broker, six agents in two classes")
            try:
                fleet.prepare()
                Story(fleet, series, narrator, seed=seed).tell()
            except StepFailed as error:
                narrator.say(f"The demo cannot go on: {error}")
            result = narrator.result()
            _tell_where_to_look(fleet, narrator)
            if as_json:
                write_result(result)
            if keep:
                narrator.say("Everything stays up until Ctrl-C.")
                signal.pause()
        except KeyboardInterrupt:
            narrator.say("Stopping.")
            result = narrator.result()
        finally:
            fleet.stop()
    raise typer.Exit(0 if result["ok"] else 1)


def run_here(words: Sequence[str]) -> tuple[int, str, str]:
    """Another command of ours, as `main` would run it, with its output caught."""
    from mailboat_controller.cli import command_line

    printed, problem = io.StringIO(), io.StringIO()
    status: object = 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(problem):
        try:
            command_line()(list(words))
        except SystemExit as ended:
            status = ended.code
        except MailboatError as error:
            output.show_error(error, as_json=False)
            status = output.exit_code_of(error)
    return status if isinstance(status, int) else 0, printed.getvalue(), problem.getvalue()


def _series(models: Path, narrator: "Narrator") -> "Series":
    from mailboat_controller.demo.models import made_series, real_series
    from mailboat_controller.demo.wheels import fetch_wheels
    from mailboat_schemas.errors import Transient

    try:
        fetch_wheels(models, narrator.say)
    except (Transient, ConfigurationInvalid) as error:  # no network, or no pip
        narrator.say(error.what)
        series = made_series()
    else:
        series = real_series(models)
    narrator.say(f"Models: {series.origin}")
    return series


def _tell_where_to_look(fleet: "Fleet", narrator: "Narrator") -> None:
    result = narrator.result()
    held = sum(step["ok"] for step in result["steps"])
    narrator.chapter(f"{held} of {len(result['steps'])} steps held, in {result['seconds']} s")
    narrator.say(f"everything of this run: {fleet.directory}  (logs/ says what each process did)")
    narrator.say(f"API: https://127.0.0.1:{fleet.api_port}  as the operator:")
    narrator.say(f"  export MAILBOAT_CONNECTION={fleet.operator}")
    narrator.say("  mailboat rollout list; mailboat device list; mailboat audit show")
