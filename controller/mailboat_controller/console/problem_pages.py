"""Errors as pages: what happened, what to do next, and the code that the documents explain."""

from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from mailboat_controller.api.context import context_of
from mailboat_controller.api.problems import (
    ERROR_CODE_HEADER,
    UNEXPECTED,
    UNEXPECTED_NEXT_STEP,
    retry_after,
    status_of,
)
from mailboat_controller.console import render
from mailboat_controller.console.auth import LoginNeeded
from mailboat_controller.console.session import COOKIE, PREFIX, clear_cookie
from mailboat_schemas.errors import MailboatError, NotPermitted


def problem_page(
    request: Request, status: int, *, code: str, what: str, next_step: str
) -> Response:
    response = render.page(
        request,
        "problem.html",
        status_code=status,
        title=HTTPStatus(status).phrase,
        code=code,
        what=what,
        next_step=next_step,
    )
    response.headers[ERROR_CODE_HEADER] = code
    return response


def install(console: FastAPI) -> None:
    """Answer every error of the console in this form."""

    @console.exception_handler(LoginNeeded)
    def to_login(request: Request, error: LoginNeeded) -> Response:
        return _to_login(request, error)

    @console.exception_handler(MailboatError)
    def ours(request: Request, error: MailboatError) -> Response:
        if isinstance(error, NotPermitted):
            context_of(request).refused(error.code)
        answer = problem_page(
            request,
            status_of(error),
            code=error.code,
            what=error.what,
            next_step=error.next_step,
        )
        answer.headers.update(retry_after(error))
        return answer

    @console.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        # Never the input itself: a token may stand in it.
        return problem_page(
            request,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            code="E-REQUEST",
            what=f"{first['loc'][-1]}: {first['msg']}.",
            next_step="go back and correct it.",
        )

    @console.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        answer = problem_page(
            request,
            error.status_code,
            code="E-HTTP",
            what=f"{error.detail}.",
            next_step="use the navigation above; the address may be mistyped.",
        )
        answer.headers.update(error.headers or {})
        return answer

    @console.exception_handler(Exception)
    def unknown(request: Request, _error: Exception) -> Response:
        # The server logs the traceback; whoever asked learns nothing of our insides.
        return problem_page(
            request,
            HTTPStatus.INTERNAL_SERVER_ERROR,
            code="E-INTERNAL",
            what=UNEXPECTED,
            next_step=UNEXPECTED_NEXT_STEP,
        )


def _to_login(request: Request, error: LoginNeeded) -> Response:
    had_session = COOKIE in request.cookies
    if request.method in ("GET", "HEAD") and _came_from_elsewhere(request) and not had_session:
        # SameSite=Strict: a link in a chat or an alert comes without the cookie of somebody who is
        # logged in. Asked again from our own page, the browser sends it.
        return render.page(request, "again.html")
    back = request.url.path if request.method == "GET" else PREFIX
    if request.method == "GET" and request.url.query:
        back += f"?{request.url.query}"
    why = "ended" if had_session else None
    login = f"{PREFIX}/login{render.query(next=back, why=why)}"
    response: Response
    if "hx-request" in request.headers or "text/html" not in request.headers.get("accept", "*/*"):
        # A script would take the login page for what it asked for.
        response = Response(status_code=HTTPStatus.UNAUTHORIZED, headers={"HX-Redirect": login})
    else:
        response = RedirectResponse(login, status_code=303)
    response.headers[ERROR_CODE_HEADER] = error.code
    if had_session:
        clear_cookie(response)
    return response


def _came_from_elsewhere(request: Request) -> bool:
    return request.headers.get("sec-fetch-site") == "cross-site"
