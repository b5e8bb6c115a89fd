"""What ``docs/errors.md`` says of a code, read from the page itself, which is installed with us."""

import difflib
import re
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path

from mailboat_schemas.errors import NotFound

DOCUMENT = "docs/errors.md"
WIDTH_CHARS = 88
_ROW = re.compile(r"^\| `(?P<code>[^`]+)` \| (?P<cells>.*) \|$")
_CELL_BORDER = " | "


@dataclass(frozen=True, slots=True)
class Entry:
    """One row, as plain text. ``section`` is the heading it stands under; words that a device
    tells have no ``next_step``."""

    code: str
    section: str
    means: str
    next_step: str


def page_path() -> Path:
    """``errors.md``: inside the installed package, or in a checkout's documents."""
    package = Path(__file__).parent
    installed = package / "documents" / "errors.md"
    return installed if installed.is_file() else package.parents[1] / "docs" / "errors.md"


def entries(page: str) -> tuple[Entry, ...]:
    """Every code and word of the page, in its order."""
    found: list[Entry] = []
    section = ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        elif row := _ROW.match(line):
            means, _, next_step = row["cells"].partition(_CELL_BORDER)
            found.append(Entry(row["code"], section, _plain(means), _plain(next_step)))
    return tuple(found)


def explained(code: str, page: str) -> tuple[Entry, ...]:
    """Rows of a code, however it is written: ``rebase``, ``E-REBASE``; more than one word of the
    page may be told under two headings."""
    wanted = {code.lower(), f"e-{code.lower()}"}
    return tuple(each for each in entries(page) if each.code.lower() in wanted)


def near(code: str, page: str) -> list[str]:
    """Codes that may have been meant."""
    known = {each.code.lower(): each.code for each in entries(page)}
    wanted = [code.lower(), f"e-{code.lower()}"]
    close = [name for word in wanted for name in difflib.get_close_matches(word, known, n=3)]
    return [known[name] for name in dict.fromkeys(close)]


def look_up(code: str, *, program: str, kinds: str = "error code or word") -> tuple[Entry, ...]:
    """What the installed page says of a code; at least one row.

    Args:
        program: whose help is asked; kinds: what its help explains.

    Raises:
        NotFound: no such code, or the page is not installed.
    """
    try:
        page = page_path().read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(
            f"The page of error codes is not installed here: {error.strerror}.",
            next_step=f"read {DOCUMENT} of the repository.",
        ) from error
    found = explained(code, page)
    if not found:
        meant = ", ".join(near(code, page))
        raise NotFound(
            f"There is no {kinds} {code!r}." + (f" Did you mean {meant}?" if meant else ""),
            next_step=f"`{program} --help` lists the commands, {DOCUMENT} the codes.",
        )
    return found


def rows(found: tuple[Entry, ...]) -> list[dict[str, str]]:
    """As a program reads it."""
    return [asdict(each) for each in found]


def in_words(found: tuple[Entry, ...]) -> str:
    """As a person reads it."""
    return "\n\n".join(_text(each) for each in found)


def _text(entry: Entry) -> str:
    lines = [f"{entry.code}   ({entry.section})", ""]
    for title, text in (("means", entry.means), ("next step", entry.next_step)):
        wrapped = textwrap.wrap(text, WIDTH_CHARS, break_long_words=False, break_on_hyphens=False)
        lines += [f"{'' if number else title:<11}{line}" for number, line in enumerate(wrapped)]
    return "\n".join(lines)


def _plain(cell: str) -> str:
    """Markdown of one cell as plain text; links keep the page they lead to."""
    text = re.sub(r"\[([^\]]*)\]\(([^)]*)\)", _link, cell)
    return text.replace("\\|", "|").replace("**", "").strip()


def _link(found: re.Match[str]) -> str:
    words, aim = found[1].replace("`", ""), found[2]
    if aim.startswith("#"):
        return words
    page = aim.partition("#")[0]
    return words if words == page else f"{words} [docs/{page}]"
