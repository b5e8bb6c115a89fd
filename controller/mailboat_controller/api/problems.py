"""Errors as ``application/problem+json`` (RFC 9457) with our stable code and the next step."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from mailboat_controller.access.artifact_tokens import ArtifactTokenExpired, ArtifactTokenInvalid
from mailboat_controller.access.rate_limits import RateLimited
from mailboat_controller.api.authentication import TokenInUrl, TokenRefused
from mailboat_controller.api.context import context_of
from mailboat_controller.api.identity import IdentityRequired
from mailboat_controller.api.preconditions import PreconditionFailed
from mailboat_controller.artifacts.store_refusals import ObjectStoreRefused
from mailboat_controller.store.engine import DatabaseUnusable
from mailboat_schemas.errors import (
    ArtifactMissing,
    Conflict,
    DigestMismatch,
    DiskFull,
    MailboatError,
    MalformedPayload,
    NotFound,
    NotPermitted,
    PayloadTooLarge,
    Transient,
)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
ERROR_CODE_HEADER = "Mailboat-Error-Code"
UNEXPECTED = "The controller met an error it did not expect."
UNEXPECTED_NEXT_STEP = "look at the controller's log at this moment, and report it as a bug."


class Problem(BaseModel):
    """RFC 9457, with two members of ours."""

    type: Literal["about:blank"]
    title: str
    status: int
    code: str = Field(description="stable; docs/errors.md explains it")
    detail: str
    next_step: str = Field(description="what a person does about it")


# What the description says of the content of any refusal.
PROBLEM: Mapping[str, Any] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
EXAMPLE = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "code": "E-NOT-FOUND",
    "detail": "There is no device kiosk-17.",
    "next_step": "`mailboat device list` shows those there are.",
}

# The first that fits; leaves stand before their branches.
_STATUS: tuple[tuple[type[MailboatError], HTTPStatus], ...] = (
    (IdentityRequired, HTTPStatus.UNAUTHORIZED),
    (TokenInUrl, HTTPStatus.BAD_REQUEST),
    (TokenRefused, HTTPStatus.UNAUTHORIZED),
    (ArtifactTokenInvalid, HTTPStatus.UNAUTHORIZED),
    (ArtifactTokenExpired, HTTPStatus.UNAUTHORIZED),
    (NotPermitted, HTTPStatus.FORBIDDEN),
    (NotFound, HTTPStatus.NOT_FOUND),
    (ArtifactMissing, HTTPStatus.NOT_FOUND),
    (PreconditionFailed, HTTPStatus.PRECONDITION_FAILED),
    (Conflict, HTTPStatus.CONFLICT),
    (PayloadTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (DigestMismatch, HTTPStatus.UNPROCESSABLE_ENTITY),
    (MalformedPayload, HTTPStatus.BAD_REQUEST),
    (RateLimited, HTTPStatus.TOO_MANY_REQUESTS),
    (DatabaseUnusable, HTTPStatus.SERVICE_UNAVAILABLE),
    (ObjectStoreRefused, HTTPStatus.SERVICE_UNAVAILABLE),
    (DiskFull, HTTPStatus.INSUFFICIENT_STORAGE),
    (Transient, HTTPStatus.SERVICE_UNAVAILABLE),
    (MailboatError, HTTPStatus.UNPROCESSABLE_ENTITY),
)


def status_of(error: MailboatError) -> HTTPStatus:
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def problem(status: int, *, code: str, detail: str, next_step: str) -> JSONResponse:
    return JSONResponse(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "code": code,
            "detail": detail,
            "next_step": next_step,
        },
        status,
        media_type=MEDIA_TYPE,
        headers={ERROR_CODE_HEADER: code},  # all that an answer to HEAD can say
    )


def retry_after(error: MailboatError) -> Mapping[str, str]:
    """The header that says when to come again; none where that would not help."""
    if not isinstance(error, Transient) or isinstance(error, ArtifactMissing):
        return {}
    after = error.retry_after
    seconds = RETRY_AFTER_SECONDS if after is None else math.ceil(after.total_seconds())
    return {"Retry-After": str(seconds)}


def problem_of(error: MailboatError) -> JSONResponse:
    status = status_of(error)
    answer = problem(status, code=error.code, detail=error.what, next_step=error.next_step)
    answer.headers.update(retry_after(error))
    if status == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def install(app: FastAPI) -> None:
    """Answer every error of the app in this form."""

    @app.exception_handler(MailboatError)
    def ours(request: Request, error: MailboatError) -> Response:
        if isinstance(error, NotPermitted):
            context_of(request).refused(error.code)
        return problem_of(error)

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        # Never the input itself: a token may stand in it.
        return problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            code="E-REQUEST",
            detail=f"{place}: {first['msg']}.",
            next_step="correct the request; /openapi.json describes it.",
        )

    @app.exception_handler(HTTPException)
    def http(_request: Request, error: HTTPException) -> Response:
        answer = problem(
            error.status_code,
            code="E-HTTP",
            detail=f"{error.detail}.",
            next_step="see /openapi.json for what there is.",
        )
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    def unknown(_request: Request, _error: Exception) -> Response:
        # The server logs the traceback; whoever asked learns nothing of our insides.
        return problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            code="E-INTERNAL",
            detail=UNEXPECTED,
            next_step=UNEXPECTED_NEXT_STEP,
        )
