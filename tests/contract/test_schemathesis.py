"""Every operation of the API as its own description says, with good requests and with bad ones.

The real application with a real database, over real TLS: no answer is a 500, and every answer has a
status, a type and a form that the description names. The cases come from a fixed seed.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from explored_api import ExploredApi, explored_api

SEED = 20_260_504
CASES_MIN = 1500
DONE_MIN = 300
GOOD_PER_OPERATION = 12
BAD_PER_OPERATION = 6
REFUSED_PER_OPERATION = 2
SETTINGS = settings(
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExploredApi]:
    with explored_api(tmp_path_factory.mktemp("controller")) as api:
        yield api


def exchange(explored: ExploredApi, case: Case[Any], by: str | None) -> Any:
    headers = {} if by is None else {"Authorization": f"Bearer {explored.tokens[by]}"}
    return case.call(
        base_url=explored.url, session=explored.session, headers=headers, **explored.options
    )


def explore(explored: ExploredApi, operation: Any, mode: GenerationMode, count: int) -> list[str]:
    """Cases of one operation; what was found, a sentence each."""
    found: list[str] = []

    @seed(SEED)
    @settings(SETTINGS, max_examples=count)
    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def each(case: Case[Any], known: bool) -> None:
        if known and mode is GenerationMode.POSITIVE:
            explored.name_what_there_is(case)
        response = exchange(explored, case, "alice")
        explored.statuses[response.status_code] += 1
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as failure:
            found.append(_sentence(case, response, failure))

    each()
    return found


@pytest.mark.parametrize("by", ["vera", None])
def test_nobody_changes_what_is_not_theirs_to_change(explored: ExploredApi, by: str | None) -> None:
    """A viewer, and somebody without a token: refused whatever they send, and nothing is kept."""
    before = explored.everything_kept()
    asked = 0
    for result in explored.schema.get_all_operations():
        operation = result.ok()
        if operation.method == "get" or explored.is_for(operation, by):
            continue

        @seed(SEED)
        @settings(SETTINGS, max_examples=REFUSED_PER_OPERATION)
        @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
        def each(case: Case[Any]) -> None:
            nonlocal asked
            explored.name_what_there_is(case)
            response = exchange(explored, case, by)
            assert response.status_code == (401 if by is None else 403), case.as_curl_command()
            asked += 1

        each()

    assert asked > REFUSED_PER_OPERATION
    assert explored.everything_kept() == before


def _sentence(case: Case[Any], response: Any, failure: FailureGroup) -> str:
    problems = " ".join(str(each) for each in failure.exceptions)
    body = str(case.body)[:300]
    return (
        f"{case.method} {case.formatted_path} {case.query} {case.headers} {body}: "
        f"{response.status_code} {response.content[:400]!r}: {problems[:600]}"
    )


def test_no_operation_answers_with_what_is_not_described(explored: ExploredApi) -> None:
    found: list[str] = []
    for result in explored.schema.get_all_operations():
        operation = result.ok()
        found += explore(explored, operation, GenerationMode.POSITIVE, GOOD_PER_OPERATION)
        if operation.path_parameters or operation.query or operation.body:
            found += explore(explored, operation, GenerationMode.NEGATIVE, BAD_PER_OPERATION)

    assert not found, "\n\n".join(found)
    assert sum(explored.statuses.values()) >= CASES_MIN
    done = sum(count for status, count in explored.statuses.items() if status < 300)
    assert done >= DONE_MIN, explored.statuses  # not all of it fell at the first hurdle
