"""The published description of the API is complete, and its examples are what it describes."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from mailboat_controller.api import problems
from mailboat_controller.api.app import make_app
from mailboat_controller.api.described import SECURITY_SCHEMES, TAGS

# Lists of what is bounded by something else: one release's files, one device's five requests, the
# versions of one document that are kept.
BOUNDED = {"explain_deltas", "order_deltas", "list_log_requests", "list_history"}


@cache
def description() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(make_app().openapi()))
    return document


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in description()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_operation_says_what_it_is_and_for_whom() -> None:
    seen = set()
    for path, method, operation in operations():
        what = f"{method} {path}"
        text, _, whom = operation["description"].rpartition("For: ")
        assert text.strip(), what
        assert operation["summary"], what
        assert set(operation["tags"]) <= set(TAGS), what
        assert operation["operationId"].isidentifier(), what
        assert all(set(each) <= set(SECURITY_SCHEMES) for each in operation["security"]), what
        assert (operation["security"] == []) == (whom == "anybody."), what
        seen.add(operation["operationId"])

    assert len(seen) == sum(1 for _ in operations())


def test_every_refusal_has_the_form_of_a_problem() -> None:
    for path, method, operation in operations():
        refusals = {status for status in operation["responses"] if status >= "4"}
        assert {"400", "429", "500", "503"} <= refusals, (path, method)
        assert not refusals & {"4XX", "5XX", "default"}
        for status in refusals - {"416"}:
            content = operation["responses"][status]["content"]
            assert problems.MEDIA_TYPE in content, (path, method, status)
        assert bool(operation["security"]) == ("401" in refusals), (path, method)


def test_every_list_has_a_bound_and_a_link() -> None:
    for path, method, operation in operations():
        answer = operation["responses"].get("200", {})
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        if schema.get("type") != "array" or operation["operationId"] in BOUNDED:
            continue
        limit = [each for each in operation["parameters"] if each["name"] == "limit"]
        assert [each["schema"]["maximum"] <= 1000 for each in limit] == [True], (path, method)
        assert "Link" in answer["headers"], (path, method)


def test_every_change_by_somebody_known_takes_a_key() -> None:
    without = {
        operation["operationId"]
        for _, method, operation in operations()
        if method != "get"
        and "Idempotency-Key" not in {each["name"] for each in operation.get("parameters", ())}
    }

    assert without == {"enrol", "challenge", "renew_proven", "receive", "put_artifact"}


def examples() -> Iterator[tuple[str, Any, Any]]:
    for path, method, operation in operations():
        what = f"{method} {path}"
        for each in operation.get("parameters", ()):
            yield f"{what} {each['name']}", each["schema"], each["example"]
        bodies: list[Mapping[str, Any]] = [operation.get("requestBody", {})]
        bodies += [each for status, each in operation["responses"].items() if status < "3"]
        for body in bodies:
            for media_type, content in body.get("content", {}).items():
                yield f"{what} {media_type}", content["schema"], content["example"]


def test_every_example_is_what_it_is_an_example_of() -> None:
    components = {"components": description()["components"]}
    wrong = []
    for what, schema, example in examples():
        validator = Draft202012Validator({**schema, **components})
        wrong += [
            f"{what}: {error.json_path} {error.message[:200]}"
            for error in validator.iter_errors(example)
        ]

    assert not wrong, "\n".join(wrong)


def test_every_body_and_every_answer_in_json_has_an_example() -> None:
    assert sum(1 for _ in examples()) > 250


def test_the_page_of_the_api_names_every_code_of_it() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()

    for code in ("E-CURSOR", "E-PRECONDITION", "E-IDEMPOTENCY-REUSED", "E-IDEMPOTENCY-ANSWER"):
        assert f"`{code}`" in text
