"""What is published says what the code does; what was once sent is still understood."""

import base64
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from golden import GOLDEN, plain
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.examples import EXAMPLES
from mailboat_schemas.submission import SubmissionReply
from mailboat_schemas.topics import TOPICS

REPOSITORY = Path(__file__).parents[2]
PROTOCOL = (REPOSITORY / "docs" / "protocol.md").read_text()


def writer() -> ModuleType:
    path = REPOSITORY / "docs" / "contract" / "write.py"
    spec = importlib.util.spec_from_file_location("contract_writer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_published_page_is_what_the_code_would_write_now() -> None:
    for path, content in writer().pages():
        assert path.read_text() == content, f"{path.name} is stale: run `make schemas`"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_in_protocol_md_decodes(name: str) -> None:
    block = re.search(rf"```base64 {name}\n(.*?)```", PROTOCOL, re.DOTALL)
    assert block is not None

    assert decode(type(EXAMPLES[name]), base64.b64decode(block[1])) == EXAMPLES[name]


def test_the_reply_in_protocol_md_reads() -> None:
    block = re.search(r"```json SubmissionReply\n(.*?)```", PROTOCOL, re.DOTALL)
    assert block is not None

    assert SubmissionReply.model_validate_json(block[1]).status == "accepted"


def test_every_payload_of_the_topic_table_has_an_example() -> None:
    without = {rule.payload for rule in TOPICS.values()} - EXAMPLES.keys()

    # JSON, and a flat object of the dashboard's choosing.
    assert without == {"SubmissionReply", "RollUp"}


def test_every_topic_of_the_table_stands_in_protocol_md() -> None:
    for rule in TOPICS.values():
        tail = rule.template.removeprefix("mb/1/{fleet}/")
        tail = tail.replace("{hardware_class}", "{class}").replace("{device}", "{id}")
        assert f"`{tail}`" in PROTOCOL, tail


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("v*/*.bin")), ids=lambda path: path.stem)
def test_bytes_once_sent_still_mean_the_same(path: Path) -> None:
    kind = type(EXAMPLES[path.stem])
    meant = json.loads(path.with_suffix(".json").read_text())
    now = plain(decode(kind, path.read_bytes()))

    # Fields added since have their defaults; what was said then is still said.
    assert said(meant, now)


def said(meant: object, now: object) -> bool:
    """Whether everything that was meant is still there, at every depth."""
    match meant, now:
        case dict(), dict():
            return all(key in now and said(value, now[key]) for key, value in meant.items())
        case list(), list():
            pairs = zip(meant, now, strict=True)
            return len(meant) == len(now) and all(said(a, b) for a, b in pairs)
        case _:
            return meant == now


def test_every_message_has_a_golden_file_of_this_version() -> None:
    assert {path.stem for path in GOLDEN.glob("v1/*.bin")} == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_encoding_is_deterministic(name: str) -> None:
    assert encode(EXAMPLES[name]) == encode(EXAMPLES[name].model_copy())
