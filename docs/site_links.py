"""A hook of mkdocs: pages of the root join the site, links to sources become their names.

A link whose text is a file's name, as readers of the repository need it, shows the page's title.
"""

import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).parents[1]
# Pages outside of docs/, and where they stand in the site.
JOINING = {
    "README.md": "project/mailboat.md",
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
}
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(```.*?^```)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    for name, place in JOINING.items():
        content = (REPOSITORY / name).read_text()
        files.append(File.generated(config, place, content=content))
    return files


@cache
def _title(name: str) -> str:
    """Of a page, by its first heading."""
    found = re.search(r"^# (.+)$", (REPOSITORY / name).read_text(), re.MULTILINE)
    return found[1].strip() if found else ""


def _shown(text: str, aim: str) -> str:
    """What a link shows: a title for the bare name of a page, else its own words."""
    if posixpath.basename(text) != posixpath.basename(aim) or not aim.endswith(".md"):
        return text
    return _title(aim) or text


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    place = page.file.src_uri
    root = {to: name for name, to in JOINING.items()}.get(place)
    # Where the page stands in the repository, which its links are relative to.
    here = posixpath.dirname(root) if root else posixpath.dirname(f"docs/{place}")
    to_root = posixpath.relpath(".", posixpath.dirname(place) or ".")

    def replaced(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        aim = posixpath.normpath(posixpath.join(here, target))
        if (REPOSITORY / aim).is_file():
            text = _shown(text, aim)
        if aim in JOINING:
            return f"[{text}]({posixpath.join(to_root, JOINING[aim])}{anchor})"
        inside = aim.removeprefix("docs/")
        if aim.startswith("docs/") and (REPOSITORY / aim).is_file() and not aim.endswith(".py"):
            return f"[{text}]({posixpath.join(to_root, inside)}{anchor})"
        if aim == "docs":
            return f"[{text}]({posixpath.join(to_root, 'README.md')})"
        return f"{text} (`{aim}`)"

    parts = _FENCE.split(markdown)
    return "".join(part if i % 2 else _LINK.sub(replaced, part) for i, part in enumerate(parts))
