"""Another endpoint of the protocol: whether it may be asked now, and what came of it."""

import math
import time
from random import Random

from mailboat_agent.degraded import breaker as circuit
from mailboat_agent.degraded.oip import answer_of, aside, path_of
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

    def may_be_asked(self, body_bytes: int, now: float) -> bool:
        """Whether size, breaker and budget let one request through; if so it counts."""
        if body_bytes > self.setting.payload_bytes_max or not circuit.may_ask(self.breaker, now):
            return False
        return self._budget.take(now)

    async def ask(self, asked: Asked, body: bytes, interface: Interface) -> Answered | None:
        """Its answer; None when it has none, which the breaker then knows.

        It has what is left of the caller's time, and not more than its own.
        """
        left = asked.deadline - time.monotonic()
        left -= max(MARGIN_SECONDS_MIN, MARGIN_SHARE * left)
        if left <= 0:
            return None
        seconds = min(left, self.setting.timeout_seconds)
        headers = {
            "content-type": "application/json",
            HOPS_HEADER: str(asked.hops + 1),
            DEADLINE_HEADER: str(math.ceil(seconds * 1000)),
        }
        self.breaker = circuit.asked(self.breaker)
        done = False
        try:
            reply = await self._client.post(path_of(asked), body, headers, seconds=seconds)
            answered = await aside(
                len(reply.body), lambda: answer_of(asked, reply.headers, reply.body, interface)
            )
            done = True
            self._answered()
        except NoAnswer as error:
            done = True
            self._failed(error, had_its_time=seconds >= self.setting.timeout_seconds)
            return None
        except BadTensors as error:
            done = True
            self._failed(NoAnswer(error.what), had_its_time=True)
            return None
        finally:
            if not done:  # the caller went away
                self.breaker = circuit.given_up(self.breaker, time.monotonic(), self._rng)
        return answered

    def close(self) -> None:
        self._client.close()

    def _answered(self) -> None:
        self.breaker, self.problem = circuit.answered(self.breaker), ""

    def _failed(self, error: NoAnswer, *, had_its_time: bool) -> None:
        self.problem = error.because[:200]
        if error.healthy:
            self.breaker = circuit.answered(self.breaker)
        elif isinstance(error, TimeIsUp) and not had_its_time:
            self.breaker = circuit.given_up(self.breaker, time.monotonic(), self._rng)
        else:
            self.breaker = circuit.failed(self.breaker, time.monotonic(), self._rng)
