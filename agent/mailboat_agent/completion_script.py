"""``mailboat-agent completion``: a script for a shell, made from the parser of the command line.

It asks nobody: a device is slow, and its command has no names that only somebody else knows.
"""

import argparse
from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")
_TITLE = "mailboat-agent"

# The words before the one that is typed are looked up, longest first; options among them do not
# count. After an option with a value, and where nothing begins like the word, it is files.
_BASH = """\
_mailboat_agent_completion() {
    local word=${COMP_WORDS[COMP_CWORD]} path= each words=
    case ${COMP_WORDS[COMP_CWORD-1]} in
        VALUED) return ;;
    esac
    for each in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $each == -* ]] && break
        path+=${path:+ }$each
    done
    while :; do
        case $path in
CASES
        esac
        [[ -n $words || -z $path ]] && break
        [[ $path == *" "* ]] && path=${path% *} || path=
    done
    COMPREPLY=( $(compgen -W "$words" -- "$word") )
}

complete -o default -F _mailboat_agent_completion mailboat-agent"""


def add_parser(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    whole: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """
    Args:
        whole: of all commands; read when a script is asked for.
    """
    completion = commands.add_parser(
        "completion", help="print the script that completes commands and options in a shell"
    )
    completion.add_argument("shell", choices=SHELLS, help="whose script")
    completion.set_defaults(text=lambda given: script(given.shell, whole))
    return completion


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """
    Args:
        shell: one of `SHELLS`.
    """
    known = dict(_words(parser, ()))
    if shell == "fish":
        return "\n".join(_fish(known))
    cases = "\n".join(
        f'            "{" ".join(path)}") words="{" ".join(words)}" ;;'
        for path, words in known.items()
    )
    text = _BASH.replace("CASES", cases).replace("VALUED", "|".join(sorted(set(_valued(parser)))))
    if shell == "zsh":
        return f"autoload -U +X bashcompinit && bashcompinit\n{text}"
    return text


def _words(
    parser: argparse.ArgumentParser, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """What may follow each path of commands: commands, values of a choice, options."""
    words: list[str] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from _words(below, (*path, name))
        if action.choices is not None and not action.option_strings:
            words += [str(each) for each in action.choices]
        words += [each for each in action.option_strings if each.startswith("--")]
    yield path, words


def _valued(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Options that a value follows."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _valued(below)
        elif action.nargs != 0:
            yield from action.option_strings


def _fish(known: dict[tuple[str, ...], list[str]]) -> Iterator[str]:
    for path, words in known.items():
        below = [other[len(path)] for other in known if other[:-1] == path and other]
        seen = "".join(f"__fish_seen_subcommand_from {each}; and " for each in path)
        none_below = f"not __fish_seen_subcommand_from {' '.join(below)}" if below else "true"
        for word in words:
            kind = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            yield f"complete -c {_TITLE} -n '{seen}{none_below}' {kind}"
