"""Which path asks for what. Holds no state: what serves is asked of the runtime each time."""

import json
import time
from collections.abc import Callable
from typing import Any

from mailboat_agent.overlays.shown import Shown
from mailboat_agent.serving.answering import Answering
from mailboat_agent.serving.feedback import Feedback
from mailboat_agent.serving.front.answers import Problem, Response, json_response, problem_of
from mailboat_agent.serving.front.exchange import RELEASE_HEADER, Exchange, Reply, Shared
from mailboat_agent.serving.front.http_message import Head
from mailboat_agent.serving.front.model_listing import (
    configuration,
    index,
    metadata,
    statistics,
)
from mailboat_agent.serving.front.options import read_options
from mailboat_agent.serving.front.request import Request
from mailboat_agent.serving.not_served import ModelNotServed, ModelSuspended
from mailboat_agent.serving.protocol import EXTENSIONS
from mailboat_agent.serving.runtime import Runtime
from mailboat_schemas.errors import MailboatError

CONFIG_HEADER = "mailboat-config"  # names and versions of the documents that were merged
POST_BYTES_MAX = 64 << 10  # of what is not an inference


class Routes:
    """The `connection.Application` of the gateway."""

    def __init__(
        self,
        runtime: Runtime,
        answering: Answering,
        *,
        version: str,
        request_seconds_max: float,
        feedback: Feedback | None,
        config: Callable[[], Shown] | None = None,
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._answering = answering
        self._version = version
        self._feedback = feedback
        self._shared = Shared(
            runtime, answering, feedback=feedback, request_seconds_max=request_seconds_max
        )

    def admit(self, head: Head) -> None:
        """A large body is only read for an inference that somebody could answer.

        Raises:
            Problem
        """
        match _parts(head):
            case ["v2", "models", model, "infer"]:
                self._answerable(head, model, None)
            case ["v2", "models", model, "versions", version, "infer"]:
                self._answerable(head, model, version)
            case _:
                raise Problem(413, f"A body of more than {POST_BYTES_MAX} bytes has no place here.")

    def begin(self, request: Request, reply: Reply) -> Callable[[], None] | None:
        """
        Raises:
            Problem
        """
        match _parts(request.head):
            case ["v2", "models", model, "infer"]:
                return self._infer(request, reply, model, None)
            case ["v2", "models", model, "versions", version, "infer"]:
                return self._infer(request, reply, model, version)
        try:
            reply(self._answer(request))
        except MailboatError as error:
            raise problem_of(error) from error
        return None

    # --- inference -------------------------------------------------------------------------------

    def _infer(
        self, request: Request, reply: Reply, model: str, version: str | None
    ) -> Callable[[], None]:
        self._answerable(request.head, model, version)
        return Exchange(self._shared, request, model, version, reply).abandon

    def _answerable(self, head: Head, model: str, version: str | None) -> None:
        _require(head, "POST")
        try:
            self._runtime.serving(model, version)
        except (ModelNotServed, ModelSuspended) as error:
            if not self._answering.stands_in(model, read_options(head.headers).hops):
                raise problem_of(error) from error

    # --- everything else -------------------------------------------------------------------------

    def _answer(self, request: Request) -> Response:
        head = request.head
        match _parts(head):
            case ["v2", "repository", "index"]:
                _require(head, "POST")
                return json_response(index(self._runtime, only_ready=_only_ready(request.body)))
            case ["v2", "repository", "models", _, "load" | "unload"]:
                raise Problem(
                    403,
                    "A device loads what is approved for it and nothing else. "
                    "Next step: make a rollout, or withdraw the release.",
                )
            case ["v1", "feedback"] if self._feedback is not None:
                _require(head, "POST")
                return json_response(self._feedback.post(request.body, time.monotonic()))
            case ["v1", "config"] if self._config is not None:
                _require(head, "GET", "HEAD")
                return _config_answer(head, self._config())
            case ["v2", *what]:
                return self._look(head, what)
        raise _nothing_here()

    def _look(self, head: Head, parts: list[str]) -> Response:
        _require(head, "GET", "HEAD")
        match parts:
            case []:
                about = {"name": "mailboat", "version": self._version, "extensions": EXTENSIONS}
                return json_response(about)
            case ["health", "live"]:
                return json_response({"live": True})
            case ["health", "ready"]:
                return self._all_ready()
            case ["models"]:
                return json_response({"models": index(self._runtime, only_ready=False)})
            case ["models", "stats"]:
                return json_response(statistics(self._runtime, self._runtime.models()))
            case ["models", model, "versions", version, *what]:
                return self._of_model(model, version, what)
            case ["models", model, *what]:
                return self._of_model(model, None, what)
        raise _nothing_here()

    def _of_model(self, model: str, version: str | None, what: list[str]) -> Response:
        match what:
            case []:
                release, content = metadata(self._runtime, model, version)
            case ["config"]:
                release, content = configuration(self._runtime, model, version)
            case ["stats"]:
                release, _ = self._runtime.serving(model, version)
                content = statistics(self._runtime, [model])
            case ["ready"]:
                ready = self._runtime.ready(model, version)
                return json_response({"name": model, "ready": ready}, status=200 if ready else 503)
            case _:
                raise _nothing_here()
        return json_response(content, headers={RELEASE_HEADER: release.digest})

    def _all_ready(self) -> Response:
        """Ready when something is served, all of it stands, and nothing that belongs is missing."""
        models, absences = self._runtime.models(), self._runtime.absences()
        try:
            ready = bool(models) and not absences and all(map(self._runtime.ready, models))
        except (ModelNotServed, ModelSuspended):  # stopped in between
            ready = False
        content: dict[str, Any] = {"ready": ready}
        if absences:
            content["not_served"] = {model: each.because for model, each in absences.items()}
        return json_response(content, status=200 if ready else 503)


def _config_answer(head: Head, shown: Shown) -> Response:
    """The values as they are, with their digest as the tag: asking again costs next to nothing."""
    tag = f'"{shown.digest}"'
    headers = {"etag": tag, CONFIG_HEADER: shown.titles, "cache-control": "no-cache"}
    asked = head.headers.get("if-none-match", "")
    if tag in {each.strip() for each in asked.split(",")}:
        return Response(304, (), headers)
    return Response(200, (shown.content,), {"content-type": "application/json", **headers})


def _parts(head: Head) -> list[str]:
    return head.path.strip("/").split("/")


def _only_ready(body: bytearray) -> bool:
    if not body.strip():
        return False
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise Problem(400, "The body is a JSON object, or nothing.")
    return content.get("ready") is True


def _require(head: Head, *methods: str) -> None:
    if head.method not in methods:
        raise Problem(405, f"Use {methods[0]} here.", {"allow": ", ".join(methods)})


def _nothing_here() -> Problem:
    return Problem(404, "There is nothing here; the protocol begins at /v2.")
