"""One inference, from the bytes of its request to those of its answer.

Parsing of large bodies and compressing happen beside the event loop, running happens in the thread
of the model's lane. A caller who goes away, or whose deadline passes, takes its request with it as
long as that has not begun to run.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mailboat_agent.serving.answering import (
    BECAUSE_HEADER,
    DEGRADED_HEADER,
    STALE_HEADER,
    Answered,
    Answering,
    Asked,
    Local,
)
from mailboat_agent.serving.feedback import Feedback
from mailboat_agent.serving.front.answers import Problem, Response, problem_of
from mailboat_agent.serving.front.encodings import (
    COMPRESS_BYTES_MIN,
    coding_of,
    pack,
    unpack,
    wanted,
)
from mailboat_agent.serving.front.options import JSON_BYTES_HEADER, Options, read_options
from mailboat_agent.serving.front.request import REQUEST_BYTES_MAX, UNASKED_BYTES_MAX, Request
from mailboat_agent.serving.process import Inference
from mailboat_agent.serving.protocol import InferenceRequest, inference_answer, parse_request
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.tensors import Buffer
from mailboat_schemas.errors import MailboatError

PARSE_IN_PLACE_BYTES_MAX = UNASKED_BYTES_MAX  # a larger body is parsed beside the event loop
WRITE_IN_PLACE_BYTES_MAX = 16 << 10  # of tensors: a number has four bytes, as JSON up to twenty
RELEASE_HEADER = "mailboat-release"
_HEADER_CHARS_MAX = 300

_log = logging.getLogger(__name__)
T = TypeVar("T")
Reply = Callable[[Response], None]


class Shared:
    """What all exchanges share."""

    def __init__(
        self,
        runtime: Runtime,
        answering: Answering,
        *,
        feedback: Feedback | None,
        request_seconds_max: float,
    ) -> None:
        self.runtime = runtime
        self.feedback = feedback
        self.answering = answering
        self.request_seconds_max = request_seconds_max
        self.loop = asyncio.get_running_loop()
        # One thread: two would only take turns at the interpreter.
        self.aside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gateway-parser")


class Exchange:
    """Replies once, unless it is abandoned."""

    def __init__(
        self, shared: Shared, request: Request, model: str, version: str | None, reply: Reply
    ) -> None:
        """
        Raises:
            Problem: a header does not say what it should.
        """
        self._shared = shared
        self._request = request
        self._model, self._version = model, version
        self._reply: Reply | None = reply
        self._options: Options = read_options(request.head.headers)
        self._parsed: InferenceRequest
        self._seconds = shared.request_seconds_max
        if self._options.deadline_seconds is not None:
            self._seconds = min(self._seconds, self._options.deadline_seconds)
            self._deadline = request.began + self._seconds
        else:
            self._deadline = time.monotonic() + self._seconds
        self._timer = shared.loop.call_at(self._deadline, self._late)
        self._task = shared.loop.create_task(self._run())
        self._task.add_done_callback(self._done)

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self._reply = None
        self._task.cancel()

    # --- how it ends -----------------------------------------------------------------------------

    def _late(self) -> None:
        self._finish(Problem(504, f"No answer within {self._seconds:.3g} s.").response)
        self._task.cancel()

    def _done(self, task: "asyncio.Task[Response]") -> None:
        self._timer.cancel()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._reply is None:  # answered or abandoned before
            self._request.lease.release()
            return
        match error:
            case None:
                self._finish(task.result())
            case Problem():
                self._finish(error.response)
            case MailboatError():
                self._finish(problem_of(error).response)
            case asyncio.CancelledError():  # the agent stops
                self._finish(Problem(503, "The request was given up.").response)
            case _:
                _log.error("The gateway failed on %r", self._request.head.path, exc_info=error)
                what = "The gateway failed; see the agent's log."
                self._finish(Problem(500, what).response)

    def _finish(self, response: Response) -> None:
        if self._reply is not None:
            reply, self._reply = self._reply, None
            reply(response)

    # --- the way there ---------------------------------------------------------------------------

    async def _run(self) -> Response:
        self._parsed = parsed = await self._parse()
        if parsed.timeout_seconds is not None and parsed.timeout_seconds < self._seconds:
            self._hurry(parsed.timeout_seconds)
        asked = Asked(
            model=self._model,
            version=self._version,
            inputs=parsed.inputs,
            outputs=parsed.outputs,
            deadline=self._deadline,
            workload=self._options.workload or parsed.workload,
            hops=self._options.hops,
        )
        response = await self._shared.answering.answer(asked, self._local, self._write_aside)
        self._remember(response)
        return await self._packed(self._held(response))

    def _remember(self, response: Response) -> None:
        """Feedback may name the request later, and means the release that answered it."""
        feedback, request_id = self._shared.feedback, self._parsed.request_id
        digest = response.headers.get(RELEASE_HEADER)
        if feedback is not None and request_id is not None and digest is not None:
            feedback.answered(self._model, request_id, digest)

    def _hurry(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline = min(self._deadline, self._request.began + seconds)
        self._timer.cancel()
        self._timer = self._shared.loop.call_at(self._deadline, self._late)
        if self._deadline <= time.monotonic():  # it shall not meet the queue first, which says 503
            self._late()

    async def _parse(self) -> InferenceRequest:
        headers, lease = self._request.head.headers, self._request.lease
        body: Buffer = self._request.body
        coding, json_bytes = coding_of(headers), self._options.json_bytes
        if coding is not None:
            body = await self._aside(lambda: unpack(self._request.body, coding, REQUEST_BYTES_MAX))
            if not lease.grow_to(len(body)):
                raise Problem(503, "Too many large requests at once.", {"retry-after": "1"})
        if (len(body) if json_bytes is None else json_bytes) <= PARSE_IN_PLACE_BYTES_MAX:
            parsed = parse_request(body, json_bytes)
        else:
            parsed = await self._aside(lambda: parse_request(body, json_bytes))
        if json_bytes is None:  # no tensor is a view of the body
            self._request.body = bytearray()
            lease.set(sum(len(tensor.data) for tensor in parsed.inputs))
        return parsed

    async def _local(self, asked: Asked) -> Local[Response]:
        def encode(release: ServedRelease, inference: Inference) -> Local[Response]:
            answered = Answered(
                model=release.model,
                version=release.version,
                digest=release.digest,
                outputs=inference.outputs,
            )
            return Local(answered, self._write(answered))

        future = self._shared.runtime.submit(
            asked.model,
            asked.version,
            asked.inputs,
            asked.outputs,
            deadline=asked.deadline,
            workload=asked.workload,
            encode=encode,
        )
        return await asyncio.wrap_future(future)

    def _write(self, answered: Answered) -> Response:
        """May run in the thread of the model's lane."""
        headers = {RELEASE_HEADER: answered.digest} if answered.digest else {}
        parameters = {"release": answered.digest} if answered.digest else {}
        if answered.degraded:
            headers[DEGRADED_HEADER] = parameters["degraded"] = _one_line(answered.degraded)
            headers[BECAUSE_HEADER] = parameters["degraded_because"] = _one_line(answered.because)
        stale = self._shared.runtime.stale_because(answered.model, answered.digest)
        if stale is not None:
            headers[STALE_HEADER] = parameters["stale"] = _one_line(stale)
        answer = inference_answer(
            model=answered.model,
            version=answered.version,
            outputs=answered.outputs,
            request=self._parsed,
            parameters=parameters,
        )
        if answer.json_bytes is None:
            headers["content-type"] = "application/json"
        else:
            headers["content-type"] = "application/octet-stream"
            headers[JSON_BYTES_HEADER] = str(answer.json_bytes)
        return Response(200, answer.body, headers)

    async def _write_aside(self, answered: Answered) -> Response:
        if sum(len(tensor.data) for tensor in answered.outputs) <= WRITE_IN_PLACE_BYTES_MAX:
            return self._write(answered)
        return await self._aside(lambda: self._write(answered))

    def _held(self, response: Response) -> Response:
        """A small request may have a large answer, and its client may not take it.

        Raises:
            Problem: there are too many of them.
        """
        if not self._request.lease.answer(response.body_bytes):
            raise Problem(503, "Too many large answers at once.", {"retry-after": "1"})
        return response

    async def _packed(self, response: Response) -> Response:
        coding = wanted(self._request.head.headers)
        if coding is None or response.body_bytes < COMPRESS_BYTES_MIN:
            return response
        body = await self._aside(lambda: pack(response.body, coding))
        headers = {**response.headers, "content-encoding": coding, "vary": "accept-encoding"}
        return Response(response.status, (body,), headers)

    def _aside(self, work: Callable[[], T]) -> Awaitable[T]:
        return self._shared.loop.run_in_executor(self._shared.aside, work)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_HEADER_CHARS_MAX]
