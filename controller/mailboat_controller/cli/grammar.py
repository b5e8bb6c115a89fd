"""What every command takes, said once: ``-o`` and its forms, ``--context``, ``--watch``.

`mailboat NOUN VERB NAME --options`. A command says what it is about and takes `as_json` and
`connection` like any other parameter; this gives its command line the options that belong to them,
so that no command can lack one or call it otherwise. It works on the functions that Typer was
given, before it makes commands of them.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from mailboat_controller.cli import forms, live_names, options, watching
from mailboat_controller.cli.forms import Form, PlainForm

# The verbs that show things with names; every other one tells what it did.
READING = frozenset(
    {"list", "show", "status", "deliveries", "deltas", "explain", "timeline", "trace", "get"}
)

_FORMS_HELP = "How to say it."

# How `mailboat --help` groups the nouns; one that stands nowhere here comes under "Commands".
PANELS = {
    "Look": ("top", "get", "timeline", "trace", "quarantine", "doctor", "help", "version"),
    "The fleet": ("explain", "device", "site", "class", "rollout", "drill"),
    "Releases": ("model", "release", "plan", "simulate", "artifact", "content-key", "mlflow"),
    "What is declared and signed": ("config", "policy", "trust", "apply", "diff", "gitops"),
    "People and connections": (
        "context",
        "token",
        "credential",
        "webhook",
        "audit",
        "completion",
    ),
    "The controller": ("init", "serve", "ingest", "backup", "restore", "rebuild", "db", "demo"),
}

Context = Annotated[
    str | None,
    typer.Option(
        "--context",
        help="A controller by the name that `mailboat context` knows.",
        envvar=options.CONTEXT_VARIABLE,
        autocompletion=live_names.contexts,
        show_default=False,
    ),
]
Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Again and again, in place; a pipe gets lines.")
]
Every = Annotated[
    float,
    typer.Option(
        "--every",
        min=watching.EVERY_SECONDS_MIN,
        max=watching.EVERY_SECONDS_MAX,
        help="Seconds between two looks of --watch.",
    ),
]


def extend(app: typer.Typer, *, noun: str = "") -> None:
    """Give the commands of an application, and of those in it, the options they all have."""
    for info in app.registered_commands:
        if info.callback is not None:
            verb = info.name or info.callback.__name__.replace("_", "-")
            info.callback = _extended(info.callback, "get" if noun == "get" else verb)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            extend(group.typer_instance, noun=str(group.name))


def group(app: typer.Typer) -> None:
    """Put the nouns of the application under the headings of `PANELS`, in their order."""
    order = [name for names in PANELS.values() for name in names]
    panels = {name: title for title, names in PANELS.items() for name in names}
    infos: list[Any] = [*app.registered_commands, *app.registered_groups]
    for info in infos:
        if info.name in panels:
            info.rich_help_panel = panels[info.name]

    def place(info: Any) -> int:
        return order.index(info.name) if info.name in panels else len(order)

    app.registered_commands.sort(key=place)
    app.registered_groups.sort(key=place)


def _extended(command: Callable[..., Any], verb: str) -> Callable[..., Any]:
    signature = inspect.signature(command, eval_str=True)
    names = signature.parameters.keys()
    added = _added(command, verb, names)
    if not added:
        return command

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        extra = {name: given.pop(name) for name in added}
        with _said(extra, given):
            if not extra.get("watch"):
                return command(**given)
            if given.get("follow"):
                raise typer.BadParameter("it goes on by itself; leave --watch out")
            title = " ".join(("mailboat", *sys.argv[1:]))
            return watching.watch(
                lambda: command(**given),
                title,
                every_seconds=extra["every"],
                now=options.now,
            )

    kept = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in signature.parameters.values()
    ]
    # Typer reads the signature for the options, and the annotations for their types.
    run.__dict__["__signature__"] = signature.replace(parameters=[*kept, *added.values()])
    run.__annotations__ = {each.name: each.annotation for each in (*kept, *added.values())}
    return run


def _added(command: Callable[..., Any], verb: str, names: Any) -> dict[str, inspect.Parameter]:
    found: dict[str, tuple[Any, Any]] = {}
    if "connection" in names:
        found["ctx"] = (typer.Context, inspect.Parameter.empty)
        found["context"] = (Context, None)
    if "as_json" in names and "form" not in names:
        kinds = PlainForm if verb not in READING else Form
        kinds = getattr(command, "forms", kinds)
        # `model build` has an --output of its own: that of the model's graph.
        words = ("-o",) if "outputs" in names else ("--output", "-o")
        found["form"] = (
            Annotated[kinds, typer.Option(*words, help=_FORMS_HELP)],
            kinds("table"),
        )
    if {"connection", "as_json"} <= names and verb in READING:
        found["watch"], found["every"] = (Watch, False), (Every, watching.EVERY_SECONDS)
    return {
        name: inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default
        )
        for name, (kind, default) in found.items()
        if name not in names  # a command may have one of its own
    }


@contextmanager
def _said(extra: dict[str, Any], given: dict[str, Any]) -> Iterator[None]:
    """What the added options say holds meanwhile; ``given`` is changed to fit."""
    form = str(extra["form"]) if "form" in extra else forms.current()
    if given.get("as_json") and form not in forms.FOR_PROGRAMS:
        form = Form.JSON.value
    if extra.get("watch") and form in (Form.TABLE, Form.WIDE) and not sys.stdout.isatty():
        form = Form.JSON.value  # lines of a table could not be told apart
    if "as_json" in given:
        given["as_json"] = form in forms.FOR_PROGRAMS
    with forms.spoken(form), options.of_context(_context(extra, given)):
        yield


def _context(extra: dict[str, Any], given: dict[str, Any]) -> str | None:
    """What was said comes before the environment, and the connection before the context."""
    if extra.get("context") is None:
        return None

    def said(name: str) -> bool:
        source = extra["ctx"].get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    if said("connection") and said("context"):
        raise typer.BadParameter("name one of --connection and --context")
    if said("connection") or (given["connection"] is not None and not said("context")):
        return None
    return str(extra["context"])
