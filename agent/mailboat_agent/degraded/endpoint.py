"""Another endpoint of the protocol: whether it may be asked now, and what came of it."""

import math
import time
from collections.abc import Awaitable
from random import Random

from mailboat_agent.degraded import breaker as circuit
from mailboat_agent.degraded.oip import (
    ABOUT_PATH,
    Message,
    Question,
    answer_of,
    aside,
    path_of,
    speaks_binary,
)
from mailboat_agent.degraded.remote_client import NoAnswer, RemoteClient, TimeIsUp
from mailboat_agent.degraded.settings import Kind, RemoteEndpoint, Why
from mailboat_agent.serving.answering import HOPS_HEADER, Answered, Asked
from mailboat_agent.serving.tensors import BadTensors
from mailboat_agent.update.allowance import Allowance
from mailboat_schemas.documents.interface import Interface

# Kept back of the caller's time, to say what else there is when the endpoint says nothing.
MARGIN_SECONDS_MIN = 0.05
MARGIN_SHARE = 0.1
DEADLINE_HEADER = "mailboat-deadline-ms"
_JSON_BYTES_MIN, _ELEMENT_BYTES_MAX = 2, 8


class Endpoint:
    """Used by the event loop of the gateway alone, but for `close`."""

    def __init__(self, setting: RemoteEndpoint, rng: Random) -> None:
        """
        Raises:
            ConfigurationInvalid: its certificates cannot be read.
        """
        self.setting = setting
        self._client = RemoteClient(setting)
        self._rng = rng
        per_minute = setting.requests_per_minute
        self._budget = Allowance(burst=max(1, math.ceil(per_minute)), seconds_each=60 / per_minute)
        self.breaker = circuit.Breaker()
        self._binary: bool | None = None  # whether it takes tensors as bytes; None: not known
        self.problem = ""  # why it did not answer when it was last asked

    @property
    def rank(self) -> int:
        """Neighbours first: they are near, and stay when the site is cut off."""
        match self.setting.kind:
            case Kind.NEIGHBOUR:
                return 0
            case Kind.REMOTE:
                return 1

    def serves(self, model: str, why: Why) -> bool:
        return model in self.setting.models and why in self.setting.when

    def might_take(self, input_bytes: int, now: float) -> bool:
        """Whether it is worth writing the request down: as JSON an element has at least two
        bytes, whatever it has in memory."""
        bytes_min = input_bytes * _JSON_BYTES_MIN // _ELEMENT_BYTES_MAX
        return bytes_min <= self.setting.payload_bytes_max and circuit.may_ask(self.breaker, now)

    async def ask(self, asked: Asked, question: Question, interface: Interface) -> Answered | None:
        """Its answer; None when size, breaker or budget let nothing through, or it has none, which
        the breaker then knows.

        It has what is left of the caller's time, and not more than its own.
        """
        now = time.monotonic()
        left = asked.deadline - now
        left -= max(MARGIN_SECONDS_MIN, MARGIN_SHARE * left)
        if left <= 0 or not circuit.may_ask(self.breaker, now):
            return None
        had_its_time = left >= self.setting.timeout_seconds
        until = now + min(left, self.setting.timeout_seconds)
        if self._binary is not None and self._of_size(await question.written(self._binary)) is None:
            return None
        now = time.monotonic()
        if not circuit.may_ask(self.breaker, now) or not self._budget.take(now):
            return None
        return await self._through(
            self._answer(asked, question, interface, until), had_its_time=had_its_time
        )

    def close(self) -> None:
        self._client.close()

    async def _answer(
        self, asked: Asked, question: Question, interface: Interface, until: float
    ) -> Answered:
        """
        Raises:
            NoAnswer, BadTensors
        """
        if (binary := self._binary) is None:
            about = await self._client.get(ABOUT_PATH, seconds=until - time.monotonic())
            # Who does not say so is sent JSON, which any can read.
            self._binary = binary = about is not None and speaks_binary(about.body)
        message = self._of_size(await question.written(binary))
        if message is None:
            raise NoAnswer("the request cannot be sent there", healthy=True)
        seconds = until - time.monotonic()
        headers = {
            **message.headers,
            HOPS_HEADER: str(asked.hops + 1),
            DEADLINE_HEADER: str(max(1, math.ceil(seconds * 1000))),
        }
        try:
            reply = await self._client.post(path_of(asked), message.body, headers, seconds=seconds)
        except NoAnswer as error:
            if error.healthy:  # it refuses: another one may be there by now
                self._binary = None
            raise
        return await aside(
            len(reply.body), lambda: answer_of(asked, reply.headers, reply.body, interface)
        )

    def _of_size(self, message: Message | None) -> Message | None:
        if message is None or len(message.body) > self.setting.payload_bytes_max:
            return None
        return message

    async def _through(self, work: Awaitable[Answered], *, had_its_time: bool) -> Answered | None:
        """What comes of it, and the breaker knows."""
        self.breaker = circuit.asked(self.breaker)
        done = False
        try:
            found = await work
            done = True
        except NoAnswer as error:
            done = True
            self._failed(error, had_its_time=had_its_time)
            return None
        except BadTensors as error:
            done = True
            self._failed(NoAnswer(error.what), had_its_time=True)
            return None
        finally:
            if not done:  # the caller went away
                self.breaker = circuit.given_up(self.breaker, time.monotonic(), self._rng)
        self.breaker, self.problem = circuit.answered(self.breaker), ""
        return found

    def _failed(self, error: NoAnswer, *, had_its_time: bool) -> None:
        self.problem = error.because[:200]
        if error.healthy:
            self.breaker = circuit.answered(self.breaker)
        elif isinstance(error, TimeIsUp) and not had_its_time:
            self.breaker = circuit.given_up(self.breaker, time.monotonic(), self._rng)
        else:
            self.breaker = circuit.failed(self.breaker, time.monotonic(), self._rng)
        if self.breaker.state is not circuit.State.CLOSED:
            self._binary = None  # it may be another one when it is back
