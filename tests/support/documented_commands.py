"""The commands that the documents name, as words."""

import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer

from mailboat_controller.cli import app

REPOSITORY = Path(__file__).parents[2]


def _pages() -> Iterator[Path]:
    for place, directories, files in os.walk(REPOSITORY):
        # Hidden ones are not walked at all: an environment has ten times as many files as we have.
        directories[:] = [name for name in directories if not name.startswith(".")]
        yield from (Path(place, name) for name in files if name.endswith(".md"))


PAGES = sorted(_pages())


def prose_of(text: str) -> str:
    """Without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def shell_lines(text: str) -> Iterator[str]:
    """Command lines, continuations joined, prompts and comments away."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        yield line.strip().removeprefix("$ ")


def calls(line: str) -> Iterator[list[str]]:
    """The words of each of our commands in one line of shell."""
    if not re.search(r"\bmailboat(?:-agent)?\b", line):
        return
    line = re.sub(r"""(?:\s\d)?[<>]+&?\s*[^\s)"]+""", " ", line.replace("…", ""))  # redirections
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("();|&"):
            words.append(word)
            continue
        begin = _our_place(words)
        if begin is not None:
            yield [Path(words[begin]).name, *words[begin + 1 :]]
        words = []


def _our_place(words: list[str]) -> int | None:
    """Where our command stands in a simple command: first, after assignments or ``$(``, or as a
    bare word with arguments behind another command (``docker compose exec SERVICE mailboat …``)."""
    first = True
    for index, word in enumerate(words):
        if re.match(r"\w+=", word) or word in ("if", "until", "while", "!", "time", "$"):
            continue
        name = Path(word).name if first else word
        if name in ("mailboat", "mailboat-agent") and index + 1 < len(words):
            return index
        first = False
    return None


def documented_calls(path: Path) -> Iterator[tuple[list[str], bool]]:
    """Words, and whether they are a whole command line and not the mention of a command."""
    text = path.read_text()
    if path.suffix != ".md":
        yield from ((words, True) for line in shell_lines(text) for words in calls(line))
        return
    for block in re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        lines = shell_lines(block)
        yield from ((words, "…" not in line) for line in lines for words in calls(line))
    for mention in re.findall(r"`(mailboat(?:-agent)? [^`]+)`", prose_of(text)):
        yield from ((words, False) for words in calls(mention.replace("\n", " ")))


@cache
def mailboat_command() -> Any:
    return typer.main.get_command(app)
