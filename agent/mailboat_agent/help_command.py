"""``mailboat-agent help``: what an error code means, on a device without a network."""

import argparse
import json


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
    from mailboat_schemas.error_page import in_words, look_up, rows

    found = look_up(code, program="mailboat-agent")
    return json.dumps(rows(found)) if as_json else in_words(found)
