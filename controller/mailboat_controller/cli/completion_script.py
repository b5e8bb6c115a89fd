"""The scripts of ``mailboat completion``: what a shell does when somebody presses the tab key."""

import os

VARIABLE = "_MAILBOAT_COMPLETE"
SHELLS = ("bash", "zsh", "fish")

# bash splits words at `=`, `@` and `:` as well, and puts a reply in the place of the last piece
# alone; selectors and releases have them inside. So the line is split at blanks, by us, and what
# stands before the piece is taken off each reply. -1: the last word is the one to complete.
_BASH = """\
_mailboat_completion() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} place=-1 word piece
    [[ $line == *[[:space:]] ]] && place=9999
    word=${line##*[[:space:]]}
    piece=${COMP_WORDS[COMP_CWORD]}
    [[ $piece == [=@:] ]] && piece=
    COMPREPLY=( $(COMP_WORDS=$line COMP_CWORD=$place VARIABLE=complete_bash "$1" 2>/dev/null) )
    COMPREPLY=( "${COMPREPLY[@]#"${word%"$piece"}"}" )
}

complete -o default -F _mailboat_completion mailboat
"""


def script(shell: str) -> str:
    """
    Args:
        shell: one of `SHELLS`.
    """
    if shell == "bash":
        return _BASH.replace("VARIABLE", VARIABLE)
    # There is no other way to a script than to have the shell guessed.
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    return f"{get_completion_script(prog_name='mailboat', complete_var=VARIABLE, shell=shell)}\n"


def prepare() -> None:
    """Where a shell asks: make known how each of them is answered."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
