"""``mailboat-agent help``: what an error code means, on a device without a network."""

import argparse
import json

from mailboat_schemas.errors import NotFound

_PAGE = "docs/errors.md"


def add_parser(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> argparse.ArgumentParser:
    told = commands.add_parser("help", help="what an error code or a word of an event means")
    told.add_argument("code", metavar="CODE", help="such as E-MANIFEST-EXPIRED")
    told.add_argument("--json", action="store_true", help="one JSON list")
    told.set_defaults(text=lambda given: explain_code(given.code, as_json=given.json))
    return told


def explain_code(code: str, *, as_json: bool) -> str:
    """
    Raises:
        NotFound: no such code, or the page is not installed.
    """
    from mailboat_schemas.error_page import explained, in_words, near, page_path

    try:
        page = page_path().read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(
            f"The page of error codes is not installed here: {error.strerror}.",
            next_step=f"read {_PAGE} of the repository.",
        ) from error
    found = explained(code, page)
    if not found:
        meant = ", ".join(near(code, page))
        raise NotFound(
            f"There is no error code or word {code!r}."
            + (f" Did you mean {meant}?" if meant else ""),
            next_step=f"`mailboat-agent --help` lists the commands, {_PAGE} the codes.",
        )
    if as_json:
        rows = [{name: getattr(each, name) for name in type(each).__slots__} for each in found]
        return json.dumps(rows)
    return in_words(found)
