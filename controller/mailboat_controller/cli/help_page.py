"""``mailboat help``: what an error code means, without a network; or a command's own help."""

import difflib
import sys
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import options, output
from mailboat_schemas.errors import NotFound

if TYPE_CHECKING:
    from mailboat_controller.error_page import Entry

WIDTH_CHARS = 88
_DOCUMENT = "docs/errors.md"


def codes(incomplete: str) -> list[str]:
    """For the shell's completion."""
    from mailboat_controller.error_page import entries, page_path

    try:
        found = [each.code for each in entries(page_path().read_text())]
    except OSError:
        return []
    return [code for code in found if code.lower().startswith(incomplete.lower())]


def help_page(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CODE|COMMAND…",
            help="Such as E-REBASE, or rollout pause.",
            autocompletion=codes,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Explain an error code or a word of an event, or show a command's help."""
    root = context.find_root()
    command: Any = root.command
    path = [root.info_name or "mailboat"]
    for word in words or []:
        if not hasattr(command, "commands") or word not in command.commands:
            break
        command = command.commands[word]
        path.append(word)
    if len(path) == 1 + len(words or []):
        with command.make_context(" ".join(path), [], resilient_parsing=True) as shown:
            print(shown.get_help())
        return
    if len(words or []) == 1:
        _explain((words or [""])[0], as_json=as_json)
        return
    raise _unknown(" ".join(words or []), [])


def _explain(code: str, *, as_json: bool) -> None:
    from mailboat_controller.error_page import entries, explained, page_path

    try:
        page = page_path().read_text()
    except OSError as error:
        raise NotFound(
            f"The page of error codes is not installed here: {error.strerror}.",
            next_step=f"read {_DOCUMENT} of the repository.",
        ) from error
    found = explained(code, page)
    if not found:
        known = [each.code for each in entries(page)]
        near = {each.lower(): each for each in known}
        wanted = [code.lower(), f"e-{code.lower()}"]
        close = [name for word in wanted for name in difflib.get_close_matches(word, near, n=3)]
        raise _unknown(code, [near[name] for name in dict.fromkeys(close)])
    if as_json:
        output.show_json(
            [{name: getattr(each, name) for name in type(each).__slots__} for each in found]
        )
        return
    print("\n\n".join(_text(each) for each in found))


def _text(entry: "Entry") -> str:
    lines = [f"{entry.code}   ({entry.section})", ""]
    for title, text in (("means", entry.means), ("next step", entry.next_step)):
        if not text:
            continue
        wrapped = textwrap.wrap(text, WIDTH_CHARS, break_long_words=False, break_on_hyphens=False)
        lines += [f"{title if first else '':<11}{line}" for first, line in _marked(wrapped)]
    return "\n".join(lines)


def _marked(lines: list[str]) -> list[tuple[bool, str]]:
    return [(number == 0, line) for number, line in enumerate(lines)]


def _unknown(text: str, close: list[str]) -> NotFound:
    meant = f" Did you mean {', '.join(close)}?" if close else ""
    return NotFound(
        f"There is no error code, word or command {text!r}.{meant}",
        next_step=f"`mailboat --help` lists the commands, {_DOCUMENT} the codes.",
    )


def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="Whose script to print.")],
) -> None:
    """Print the script that completes commands, options and live names in a shell."""
    # There is no other way to a script than to have the shell guessed.
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    if shell not in ("bash", "zsh", "fish"):
        raise typer.BadParameter(f"{shell!r}: bash, zsh or fish", param_hint="SHELL")
    script = get_completion_script(
        prog_name="mailboat", complete_var="_MAILBOAT_COMPLETE", shell=shell
    )
    sys.stdout.write(f"{script}\n")
