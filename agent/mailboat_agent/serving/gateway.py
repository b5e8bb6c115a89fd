"""The device's own HTTP front: Open Inference Protocol v2, JSON tensors, on loopback.

A raw ASGI callable under uvicorn, in one thread with its own event loop. It holds no state of its
own but the bytes of the bodies it is reading: what serves is asked of the runtime each time.

Status: 400 the request, 404 the model or version, 405 the method, 408 a body that does not come,
413 its size, 500 the model's fault, 503 with Retry-After try again, 504 the deadline.
"""

import asyncio
import logging
import math
import socket
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import uvicorn

from mailboat_agent.serving.lane import DeadlinePassed, ServedRelease
from mailboat_agent.serving.process import Inference, WorkerHung
from mailboat_agent.serving.protocol import (
    InferenceRequest,
    dump,
    inference_response,
    model_metadata,
    parse_request,
)
from mailboat_agent.serving.runtime import ModelNotServed, ModelSuspended, Runtime
from mailboat_agent.serving.tensors import BadTensors
from mailboat_schemas.errors import ConfigurationInvalid, MailboatError, Transient

REQUEST_BYTES_MAX = 16 << 20
BODIES_BYTES_MAX = 64 << 20  # of all requests being read at once; beyond it 503
PARSE_IN_PLACE_BYTES_MAX = 64 << 10  # larger bodies are parsed beside the event loop
BODY_SECONDS_MAX = 10  # for the whole body: a slow client holds memory that others need
REQUEST_SECONDS_MAX = 10  # from the whole body to the answer
CONNECTIONS_MAX = 1024
START_SECONDS_MAX = 10

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class _Problem(Exception):
    """Answered with this status and the protocol's error object."""

    def __init__(self, status: int, what: str, **headers: str) -> None:
        super().__init__(what)
        self.response = Response(status, dump({"error": what}), headers)


class GatewayApp:
    """The ASGI callable."""

    def __init__(self, runtime: Runtime, *, version: str, request_seconds_max: float) -> None:
        self._runtime = runtime
        self._request_seconds_max = request_seconds_max
        self._version = version
        self._bodies_bytes = 0  # touched by the event loop only
        self._parser = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gateway-parser")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            response = await self._respond(scope, receive)
        except _Problem as problem:
            response = problem.response
        except Exception:  # noqa: BLE001 - one request's failure is not the gateway's end
            _log.exception("The gateway failed on %s", scope["path"])
            response = Response(500, dump({"error": "The gateway failed; see the agent's log."}))
        headers = {
            "content-type": "application/json",
            "content-length": str(len(response.body)),
            **response.headers,
        }
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": encoded})
        body = b"" if scope["method"] == "HEAD" else response.body
        await send({"type": "http.response.body", "body": body})

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        parts = scope["path"].strip("/").split("/")
        match parts:
            case ["v2", "models", model, "infer"]:
                return await self._infer(scope, receive, model, None)
            case ["v2", "models", model, "versions", version, "infer"]:
                return await self._infer(scope, receive, model, version)
        _require(scope, "GET", "HEAD")
        match parts:
            case ["v2"]:
                return _json({"name": "mailboat", "version": self._version, "extensions": []})
            case ["v2", "health", "live"]:
                return _json({"live": True})
            case ["v2", "health", "ready"]:
                return self._all_ready()
            case ["v2", "models", model]:
                return self._metadata(model, None)
            case ["v2", "models", model, "ready"]:
                return self._ready(model, None)
            case ["v2", "models", model, "versions", version]:
                return self._metadata(model, version)
            case ["v2", "models", model, "versions", version, "ready"]:
                return self._ready(model, version)
        raise _Problem(404, "There is nothing here; the protocol begins at /v2.")

    # --- what is asked about ---------------------------------------------------------------------

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
        return _json(content, status=200 if ready else 503)

    def _metadata(self, model: str, version: str | None) -> Response:
        try:
            release, session = self._runtime.serving(model, version)
        except (ModelNotServed, ModelSuspended) as error:
            raise _problem_of(error) from error
        return _json(model_metadata(release, session), headers={"mailboat-release": release.digest})

    def _ready(self, model: str, version: str | None) -> Response:
        try:
            ready = self._runtime.ready(model, version)
        except (ModelNotServed, ModelSuspended) as error:
            raise _problem_of(error) from error
        return _json({"name": model, "ready": ready}, status=200 if ready else 503)

    # --- inference -------------------------------------------------------------------------------

    async def _infer(
        self, scope: Scope, receive: Receive, model: str, version: str | None
    ) -> Response:
        _require(scope, "POST")
        request = await self._read_request(scope, receive, model, version)
        deadline = time.monotonic() + self._request_seconds_max

        def encode(release: ServedRelease, inference: Inference) -> Response:
            return _answer(release, inference, request.request_id)

        try:
            future = self._runtime.submit(
                model, version, request.inputs, request.outputs, deadline=deadline, encode=encode
            )
            return await asyncio.wait_for(asyncio.wrap_future(future), self._request_seconds_max)
        except (TimeoutError, DeadlinePassed, WorkerHung) as error:
            raise _Problem(504, f"No answer within {self._request_seconds_max:.3g} s.") from error
        except MailboatError as error:
            raise _problem_of(error) from error

    async def _read_request(
        self, scope: Scope, receive: Receive, model: str, version: str | None
    ) -> InferenceRequest:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if b"inference-header-content-length" in headers:
            raise _Problem(400, "Binary tensors are not supported; send JSON 'data'.")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > REQUEST_BYTES_MAX:
            raise _too_large()
        self._metadata(model, version)  # 404 before reading what nobody can answer
        held = _Held()
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                await self._read_body(receive, held)
            if len(held.body) <= PARSE_IN_PLACE_BYTES_MAX:
                return parse_request(bytes(held.body))
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._parser, parse_request, bytes(held.body))
        except TimeoutError as error:
            raise _Problem(
                408, f"The body did not come within {BODY_SECONDS_MAX} s.", connection="close"
            ) from error
        except BadTensors as error:
            raise _Problem(400, error.what) from error
        finally:
            self._bodies_bytes -= len(held.body)

    async def _read_body(self, receive: Receive, held: "_Held") -> None:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Problem(400, "The client went away.")
            chunk = message.get("body", b"")
            if len(held.body) + len(chunk) > REQUEST_BYTES_MAX:
                raise _too_large()
            if self._bodies_bytes + len(chunk) > BODIES_BYTES_MAX:
                raise _Problem(
                    503,
                    "Too many large requests at once.",
                    **{"retry-after": "1", "connection": "close"},
                )
            self._bodies_bytes += len(chunk)
            held.body += chunk
            more = message.get("more_body", False)


@dataclass(slots=True)
class _Held:
    body: bytearray = field(default_factory=bytearray)


def _answer(release: ServedRelease, inference: Inference, request_id: str | None) -> Response:
    return Response(
        200,
        inference_response(release, inference, request_id),
        {"mailboat-release": release.digest},
    )


def _problem_of(error: MailboatError) -> _Problem:
    match error:
        case BadTensors():
            return _Problem(400, error.what)
        case ModelNotServed():
            return _Problem(404, error.what)
        case Transient():  # a full queue, a worker that died or is being started
            seconds = 1 if error.retry_after is None else error.retry_after.total_seconds()
            return _Problem(503, error.what, **{"retry-after": str(math.ceil(seconds))})
    return _Problem(500, error.what)


def _too_large() -> _Problem:
    # The rest of the body is not read, so the connection cannot be used again.
    return _Problem(413, f"A request may have {REQUEST_BYTES_MAX} bytes.", connection="close")


def _require(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        raise _Problem(405, f"Use {methods[0]} here.", allow=", ".join(methods))


def _json(
    content: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(status, dump(content), headers or {})


class Gateway:
    """The server around the callable: a listening socket and a thread, until `close`."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        version: str = "0",
        request_seconds_max: float = REQUEST_SECONDS_MAX,
    ) -> None:
        """Listen at once; port 0 takes a free one.

        Raises:
            ConfigurationInvalid: the address is in use or not this device's.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Without the protocol named asyncio does not set TCP_NODELAY, and each answer waits 40 ms
        # for the client's delayed acknowledgement of its headers.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise ConfigurationInvalid(
                f"The gateway cannot listen on {host} port {port}: {error.strerror}.",
                next_step="choose another address for serving in the agent's configuration.",
            ) from error
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        config = uvicorn.Config(
            GatewayApp(runtime, version=version, request_seconds_max=request_seconds_max),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=BODY_SECONDS_MAX,
        )
        self._server = uvicorn.Server(config)
        # Not the main thread, so uvicorn installs no signal handlers: those are the agent's.
        self._thread = threading.Thread(target=self._serve, name="serving-gateway", daemon=True)
        self._thread.start()
        self._wait_until_started()

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Accept no more, let what runs finish, end the thread."""
        self._server.should_exit = True
        self._thread.join(2 * BODY_SECONDS_MAX)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def _wait_until_started(self) -> None:
        give_up = time.monotonic() + START_SECONDS_MAX
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > give_up:
                raise ConfigurationInvalid(
                    f"The gateway on {self.url} did not start.",
                    next_step="look at the agent's log just before this.",
                )
            time.sleep(0.005)
