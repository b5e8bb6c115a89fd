"""The command lines of both sides as a page of the documents and as man pages, from the code.

`write.py` writes what this makes; ``tests/contract`` proves that what is committed is that.
"""

import argparse
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import EnumMeta
from typing import Any, Literal, get_args, get_origin

from mailboat_agent.cli import _parser as agent_parser
from mailboat_controller.cli import command_line, output

# Explained once, at the top: nearly every command takes them.
SHARED = ("--connection", "--context", "--output", "--json", "--watch", "--every")


@dataclass(frozen=True, slots=True)
class Parameter:
    """An option or, without dashes, an argument. ``words`` are its names and what follows them."""

    words: str
    about: str

    @property
    def is_option(self) -> bool:
        return self.words.startswith("-")


@dataclass(frozen=True, slots=True)
class Command:
    path: str
    usage: str
    about: str
    parameters: tuple[Parameter, ...]
    shared: tuple[str, ...] = ()


def markdown() -> str:
    """``docs/cli-reference.md``."""
    operator, device = list(mailboat()), list(agent())
    lines = [
        "# Every command",
        "",
        "Written from the code by `make schemas`. `--help` of each command says it too, and so do",
        "`man mailboat` and `man mailboat-agent`. How commands go together: [cli.md](cli.md).",
        "",
        "## Options of many commands",
        "",
        *_rows(shared_parameters()),
        "",
        "## mailboat",
        "",
        *(line for each in operator for line in _section(each)),
        "## mailboat-agent",
        "",
        *(line for each in device for line in _section(each)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def man(name: str) -> str:
    """``NAME.1``, as troff's man macros have it."""
    commands = list(mailboat() if name == "mailboat" else agent())
    summary = {
        "mailboat": "signed model releases for fleets that the network reaches only sometimes",
        "mailboat-agent": "install, try, serve and take back model releases on a device",
    }[name]
    lines = [
        f'.TH "{name.upper()}" "1" "" "mailboat" "User Commands"',
        ".SH NAME",
        _troff(f"{name} - {summary}"),
        ".SH SYNOPSIS",
        f".B {_troff(name)}",
        r"\fICOMMAND\fR [\fIARGUMENTS\fR] [\fIOPTIONS\fR]",
    ]
    if name == "mailboat":
        lines += [".SH OPTIONS OF MANY COMMANDS", *_troff_rows(shared_parameters())]
    lines.append(".SH COMMANDS")
    for each in commands:
        lines += [f".SS {_troff(each.path)}", _troff(each.about), ".PP", _troff(each.usage)]
        lines += _troff_rows(each.parameters)
        if each.shared:
            lines += [".PP", _troff(f"Also: {', '.join(each.shared)}.")]
    lines += [".SH EXIT STATUS", _troff(output.EXIT_CODES_HELP)] if name == "mailboat" else []
    return "\n".join(lines) + "\n"


# --- mailboat ------------------------------------------------------------------------------------


def mailboat() -> Iterator[Command]:
    yield from _walk(command_line(), ["mailboat"])


def _walk(command: Any, path: list[str]) -> Iterator[Command]:
    if hasattr(command, "commands"):
        for name in sorted(command.commands):
            yield from _walk(command.commands[name], [*path, name])
        return
    parameters = [each for each in command.params if each.name != "help"]
    shared = [each for each in parameters if _long(each) in SHARED]
    own = [each for each in parameters if each not in shared]
    arguments = [each for each in own if each.param_type_name == "argument"]
    words = [*path, *(_argument(each) for each in arguments)]
    required = [each for each in own if each.param_type_name == "option" and each.required]
    words += [f"{each.opts[0]} {_metavar(each)}" for each in required]
    if len(own) > len(arguments) + len(required):
        words.append("[OPTIONS]")
    yield Command(
        path=" ".join(path),
        usage=" ".join(words),
        about=_sentence(command.help or ""),
        parameters=tuple(_parameter(each) for each in own),
        shared=tuple(f"{'-o' if _long(each) == '--output' else _long(each)}" for each in shared),
    )


def shared_parameters() -> tuple[Parameter, ...]:
    found: dict[str, Parameter] = {}
    for each in command_line().commands["device"].commands["list"].params:
        if _long(each) in SHARED:
            found[_long(each)] = _parameter(each)
    return tuple(found[name] for name in SHARED)


def _long(parameter: Any) -> str:
    names = [name for name in parameter.opts if name.startswith("--")]
    # `model build` has an --output of its own, and -o alone for the form.
    return names[0] if names else ("--output" if parameter.name == "form" else "")


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper().replace("_", "-")
    many = "…" if parameter.nargs == -1 and not name.endswith("…") else ""
    return f"{name}{many}" if parameter.required else f"[{name.strip('[]')}{many}]"


def _parameter(parameter: Any) -> Parameter:
    about = _sentence(parameter.help or "")
    if parameter.param_type_name == "argument":
        return Parameter(_argument(parameter).strip("[]"), about)
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    metavar = _metavar(parameter)
    notes = []
    if parameter.required:
        notes.append("Required.")
    if parameter.envvar:
        notes.append(f"Or in {parameter.envvar}.")
    default = parameter.default
    if default not in (None, "", False, ()) and not callable(default) and parameter.show_default:
        notes.append(f"Default: {getattr(default, 'value', default)}.")
    return Parameter(f"{names} {metavar}".strip(), " ".join([about, *notes]).strip())


def _metavar(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    if parameter.metavar:
        return str(parameter.metavar)
    choices = list(_choices(parameter.type_descriptor.annotation))
    if choices:
        return "|".join(choices)
    return str(parameter.name.upper().replace("_", "-"))


def _choices(annotation: Any) -> Iterator[str]:
    """Of an enumeration or literal, wherever in a type it stands."""
    if isinstance(annotation, EnumMeta):
        yield from (str(each.value) for each in annotation)
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    else:
        for each in get_args(annotation):
            yield from _choices(each)


# --- mailboat-agent ------------------------------------------------------------------------------


def agent() -> Iterator[Command]:
    parser = agent_parser()
    yield from _walk_agent(parser, ["mailboat-agent"], parser.description or "")


def _walk_agent(parser: argparse.ArgumentParser, path: list[str], about: str) -> Iterator[Command]:
    inner = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    if inner:
        told = {each.dest: each.help or "" for each in inner[0]._choices_actions}
        for name, command in inner[0].choices.items():
            yield from _walk_agent(command, [*path, name], told.get(name, ""))
        return
    actions = [each for each in parser._actions if each.dest != "help"]
    words = [*path, *(_agent_word(each) for each in actions if not each.option_strings)]
    words += [_option_words(each) for each in actions if each.option_strings and each.required]
    if any(each.option_strings and not each.required for each in actions):
        words.append("[OPTIONS]")
    yield Command(
        path=" ".join(path),
        usage=" ".join(words),
        about=_sentence(about),
        parameters=tuple(_agent_parameter(each) for each in actions),
    )


def _agent_word(action: argparse.Action) -> str:
    if action.choices:
        return "|".join(str(each) for each in action.choices)
    word = str(action.metavar or action.dest.upper())
    return f"[{word}]" if action.nargs in ("?", "*") else word


def _option_words(action: argparse.Action) -> str:
    takes = action.nargs != 0
    return f"{', '.join(action.option_strings)}{f' {_agent_word(action)}' if takes else ''}"


def _agent_parameter(action: argparse.Action) -> Parameter:
    words = _option_words(action) if action.option_strings else _agent_word(action)
    about = (action.help or "") % {"default": action.default, "prog": "mailboat-agent"}
    return Parameter(words, _sentence(about))


# --- writing it down -----------------------------------------------------------------------------


def _section(command: Command) -> Iterator[str]:
    yield f"### {command.path}"
    yield ""
    yield from textwrap.wrap(_markdown(command.about), 110, break_on_hyphens=False)
    yield ""
    yield f"    {command.usage}"
    yield ""
    if command.parameters:
        yield from _rows(command.parameters)
        yield ""
    if command.shared:
        names = ", ".join(f"`{each}`" for each in command.shared)
        yield f"Also {names}."
        yield ""


def _rows(parameters: Sequence[Parameter]) -> Iterator[str]:
    yield "| | |"
    yield "|---|---|"
    for each in parameters:
        words = each.words.replace("|", "\\|")
        yield f"| `{words}` | {_markdown(each.about)} |"


def _markdown(text: str) -> str:
    """Outside of backticks nothing is markup."""
    parts = text.split("`")
    for number in range(0, len(parts), 2):
        parts[number] = re.sub(r"([\\*_<>|\[\]])", r"\\\1", parts[number])
    for number in range(1, len(parts), 2):
        parts[number] = parts[number].replace("|", "\\|")
    return "`".join(parts)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "…", "!", "?")) else f"{text}."


def _troff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _troff_rows(parameters: Sequence[Parameter]) -> Iterator[str]:
    for each in parameters:
        yield ".TP"
        yield f"\\fB{_troff(each.words)}\\fR"
        yield _troff(each.about) or "\\&"
