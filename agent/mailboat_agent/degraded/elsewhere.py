"""The other endpoints of this device: which are asked, and in which order."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mailboat_agent.degraded.modes import Mode
from mailboat_agent.degraded.oip import Question
from mailboat_agent.degraded.settings import Kind, Why
from mailboat_agent.degraded.trouble import Trouble
from mailboat_agent.serving.answering import Answered, Asked

if TYPE_CHECKING:
    # It brings a library that takes long to import, and most devices name no endpoint.
    from mailboat_agent.degraded.endpoint import Endpoint

_MODES = {Kind.NEIGHBOUR: Mode.NEIGHBOUR, Kind.REMOTE: Mode.REMOTE}


class Elsewhere:
    """Neighbours first, then the others; among equals in the order of the file."""

    def __init__(
        self, endpoints: Sequence["Endpoint"], *, is_barred: Callable[[str, str], bool]
    ) -> None:
        """``is_barred`` takes a model and a digest: what this device knows to be withdrawn counts
        from whoever it comes."""
        self._endpoints = sorted(endpoints, key=lambda endpoint: endpoint.rank)
        self._is_barred = is_barred

    def serves(self, model: str, why: Why) -> bool:
        """Whether any endpoint is named for this model and this reason."""
        return any(endpoint.serves(model, why) for endpoint in self._endpoints)

    async def ask(self, asked: Asked, trouble: Trouble) -> Answered | None:
        """The first answer. None when nobody may be asked, or nobody answers in time.

        What another agent has handed on is never handed on again, so two neighbours that name each
        other do not send a request to and fro.
        """
        if asked.hops or not trouble.may_leave_device or trouble.interface is None:
            return None
        now = time.monotonic()
        named = [
            endpoint
            for endpoint in self._endpoints
            if endpoint.serves(asked.model, trouble.why)
            and endpoint.might_take(asked.input_bytes, now)
        ]
        if not named:
            return None
        question = Question(asked)
        for endpoint in named:
            answered = await endpoint.ask(asked, question, trouble.interface)
            if answered is None or self._is_barred(asked.model, answered.digest):
                continue
            return replace(
                answered, degraded=str(_MODES[endpoint.setting.kind]), because=trouble.word
            )
        return None

    def status(self) -> list[dict[str, object]]:
        """For people, in the order of asking."""
        return [
            {
                "name": endpoint.setting.name,
                "kind": str(endpoint.setting.kind),
                "circuit": str(endpoint.breaker.state),
                "problem": endpoint.problem,
            }
            for endpoint in self._endpoints
        ]

    def close(self) -> None:
        for endpoint in self._endpoints:
            endpoint.close()
