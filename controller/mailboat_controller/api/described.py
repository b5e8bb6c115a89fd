"""The published description, beyond what FastAPI works out of the routes by itself.

Who may ask, every status with which an operation may be refused, headers, examples. It is derived
from the same dependencies that let callers in, so it cannot say something else than they do.
"""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from mailboat_controller.access.people import Role
from mailboat_controller.api import problems
from mailboat_controller.api.examples import example_of
from mailboat_controller.api.idempotency import KEY_CHARS_MAX, KEY_HEADER, KEY_PATTERN, REPLAYED
from mailboat_controller.api.identity import allowed_by
from mailboat_controller.api.limits import STREAMED_PREFIX
from mailboat_schemas.enrolment import Kind

SUMMARY = "What `mailboat` itself asks the controller; docs/api.md tells how to."
SECURITY_SCHEMES = {
    "accessToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "people; `mailboat token issue` makes it",
    },
    "clientCertificate": {
        "type": "mutualTLS",
        "description": "devices, pipelines, dashboards",
    },
}
TAGS: Mapping[str, str] = {
    "access": "Tokens of people.",
    "artifacts": "Files by their sha256, and the care of the store.",
    "audit": "Who did what and why; every entry hangs on the one before.",
    "config and policy": "Documents that people signed for classes, sites and devices.",
    "content keys": "Keys of encrypted releases.",
    "deltas": "Ways to bring a file from an older release.",
    "devices": "The fleet, one by one.",
    "drills": "Proofs that a device could go back.",
    "enrolment": "How devices get in and keep their certificates.",
    "gitops": "Documents that are kept in a repository.",
    "hardware classes": "What kinds of devices there are.",
    "health": "Is it up, what is it, and its numbers.",
    "manifests and trust": "Signed metadata, byte for byte.",
    "mlflow": "What MLflow told of.",
    "quarantine": "Messages that could not be taken.",
    "releases": "Handing in, looking at and retiring releases.",
    "rollouts": "How a release spreads, and the orders a person can give.",
    "sites": "Places with a broker of their own.",
    "traces": "One release's story from end to end.",
    "webhooks": "Who is told of outcomes and failures.",
}

# Statuses that stand on a rule and not on a route.
_ANY = (HTTPStatus.BAD_REQUEST, HTTPStatus.TOO_MANY_REQUESTS)
_TROUBLE = (HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE)
_WHO = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_WANTED = (HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY)
_BODY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
_CHANGE = (
    HTTPStatus.FORBIDDEN,  # also where there is no identity: by a token or a signature in it
    *_WANTED,
    *_BODY,
    HTTPStatus.CONFLICT,
    HTTPStatus.INSUFFICIENT_STORAGE,
)
_LATER = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_CHANGES = frozenset({"post", "put", "patch", "delete"})


def operation_id(route: APIRoute) -> str:
    """The handler's name: it stays when an address or a title changes."""
    return route.name


def describe(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Have the app answer `/openapi.json` with all that is known of its routes."""
    plain = app.openapi
    allowed = {route.name: _allowed(route.dependant) for route in _routes(routers)}

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain(), allowed)  # keeps what it made in `openapi_schema`
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _routes(routers: Sequence[APIRouter]) -> Iterator[APIRoute]:
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                yield route


def _allowed(dependant: Dependant) -> tuple[Kind | Role, ...]:
    """Who may ask; nobody in it: whoever likes."""
    found = [allowed_by(each.call) for each in dependant.dependencies if each.call is not None]
    return tuple(one for each in found for one in each)


def _complete(
    document: dict[str, Any], allowed: Mapping[str, tuple[Kind | Role, ...]]
) -> dict[str, Any]:
    components = document["components"]
    problem = problems.Problem.model_json_schema()
    components["schemas"]["Problem"] = problem | {"example": problems.EXAMPLE}
    components["securitySchemes"] = SECURITY_SCHEMES
    document["info"]["summary"] = SUMMARY
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            who = allowed[operation["operationId"]]
            _say_who(operation, who)
            if method in _CHANGES and who and not path.startswith(STREAMED_PREFIX):
                _take_key(operation)
            _say_refusals(method, operation, known=bool(who))
            _link(operation)
            _give_examples(operation, components["schemas"])
    return document


def _say_who(operation: dict[str, Any], who: tuple[Kind | Role, ...]) -> None:
    schemes: list[dict[str, list[str]]] = []
    if any(isinstance(each, Role) for each in who):
        schemes.append({"accessToken": []})
    if any(isinstance(each, Kind) for each in who):
        schemes.append({"clientCertificate": []})
    operation["security"] = schemes
    whom = ", ".join(dict.fromkeys(str(each) for each in who)) or "anybody"
    operation["description"] = f"{operation.get('description', '')}\n\nFor: {whom}.".strip()


def _take_key(operation: dict[str, Any]) -> None:
    operation.setdefault("parameters", []).append(
        {
            "name": KEY_HEADER,
            "in": "header",
            "required": False,
            "description": "one for each change; sent again with it, the change is made once",
            "schema": {
                "type": "string",
                "minLength": 1,
                "maxLength": KEY_CHARS_MAX,
                "pattern": KEY_PATTERN,
                "example": "hold-kiosk-17-2026-05-04",
            },
        }
    )
    replayed = {"description": "true: answered before, and nothing was done now"}
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            headers = answer.setdefault("headers", {})
            headers[REPLAYED] = replayed | {"schema": {"type": "string", "enum": ["true"]}}


def _say_refusals(method: str, operation: dict[str, Any], *, known: bool) -> None:
    wanted = bool(operation.get("parameters") or "requestBody" in operation)
    statuses = {*_ANY, *_TROUBLE}
    statuses |= {*_WHO} if known else set()
    statuses |= {*_WANTED} if wanted else set()
    statuses |= {*_CHANGE} if method in _CHANGES else set()
    if any(each["name"] == "if-match" for each in operation.get("parameters", ())):
        statuses.add(HTTPStatus.PRECONDITION_FAILED)
    answers = operation["responses"]
    for status in sorted(statuses):
        answer = answers.setdefault(str(status.value), {"description": status.phrase})
        answer["content"] = {**answer.get("content", {}), **problems.PROBLEM}
    takes_key = any(each["name"] == KEY_HEADER for each in operation.get("parameters", ()))
    for status in answers:
        if int(status) in _LATER or (takes_key and int(status) == HTTPStatus.CONFLICT):
            after = {"description": "seconds", "schema": {"type": "integer", "minimum": 0}}
            answers[status].setdefault("headers", {})["Retry-After"] = after
    operation["responses"] = dict(sorted(answers.items()))


def _link(operation: dict[str, Any]) -> None:
    """Of lists that come in pages."""
    if any(each["name"] == "limit" for each in operation.get("parameters", ())):
        link = {"description": 'the next page, rel="next"; none: there is no more'}
        headers = operation["responses"]["200"].setdefault("headers", {})
        headers["Link"] = link | {"schema": {"type": "string"}}


def _give_examples(operation: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    bodies = [operation.get("requestBody", {})]
    bodies += [each for status, each in operation["responses"].items() if status.startswith("2")]
    for body in bodies:
        for content in body.get("content", {}).values():
            if "schema" in content and "example" not in content and "examples" not in content:
                content["example"] = example_of(content["schema"], schemas)
    for parameter in operation.get("parameters", []):
        parameter.setdefault("example", example_of(parameter["schema"], schemas, parameter["name"]))
