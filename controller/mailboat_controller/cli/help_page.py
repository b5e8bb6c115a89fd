"""``mailboat help``: what an error code means, without a network; or a command's own help."""

import sys
from typing import Annotated, Any

import typer

from mailboat_controller.cli import completion_script, options, output
from mailboat_schemas.errors import NotFound


def codes(incomplete: str) -> list[str]:
    """For the shell's completion."""
    from mailboat_schemas.error_page import entries, page_path

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
    raise NotFound(
        f"There is no command {' '.join(words or [])!r}.",
        next_step="`mailboat --help` lists the commands; an error code is one word.",
    )


def _explain(code: str, *, as_json: bool) -> None:
    from mailboat_schemas.error_page import in_words, look_up, rows

    found = look_up(code, program="mailboat", kinds="error code, word or command")
    if as_json:
        output.show_json(rows(found))
        return
    print(in_words(found))


def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="Whose script to print.")],
) -> None:
    """Print the script that completes commands, options and live names in a shell."""
    if shell not in completion_script.SHELLS:
        raise typer.BadParameter(f"{shell!r}: bash, zsh or fish", param_hint="SHELL")
    sys.stdout.write(completion_script.script(shell))
