"""Between the front and what answers: a request as it was read, an answer before it is written.

The front hands both ways to answer to whoever was given to it: the release that serves here, and
what is written when something else has to answer. Without anybody given, the release answers.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.serving_policy import Workload

# How many agents have handed a request on already. What another has handed on, none hands on again.
HOPS_HEADER = "mailboat-hops"
DEGRADED_HEADER = "mailboat-degraded"  # which degraded mode answered; absent on an answer in full
BECAUSE_HEADER = "mailboat-degraded-because"
STALE_HEADER = "mailboat-stale"  # how the release is further behind than policy allows

Written = TypeVar("Written")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One inference. ``deadline`` is monotonic time; ``outputs`` empty means all."""

    model: str
    version: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    deadline: float
    workload: Workload | None = None
    hops: int = 0

    @property
    def input_bytes(self) -> int:
        return sum(len(tensor.data) for tensor in self.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer. ``digest`` is of the release that gave it, empty if none did.

    ``degraded`` and ``because`` are words for the two headers, empty where all is as it should be.
    """

    model: str
    version: str
    digest: str
    outputs: tuple[Tensor, ...]
    degraded: str = ""
    because: str = ""


@dataclass(frozen=True, slots=True)
class Local(Generic[Written]):
    """What a release on this device answered, and the same as the front has written it."""

    answered: Answered
    written: Written


class Answering(Protocol):
    """Two real ones: `ByRelease` below, and `mailboat_agent.degraded.answers.Answers`."""

    def stands_in(self, model: str, hops: int, /) -> bool:
        """Whether somebody else may answer for a model that nothing serves here now."""
        ...

    async def answer(
        self,
        asked: Asked,
        local: Callable[[Asked], Awaitable[Local[Written]]],
        write: Callable[[Answered], Awaitable[Written]],
        /,
    ) -> Written:
        """The answer, written.

        Args:
            local: has the release of ``asked.model`` on this device answer; raises what it raises.
            write: writes an answer that came from elsewhere, or that is marked.
        """
        ...


class ByRelease:
    """The release that serves answers, and nothing else does."""

    def stands_in(self, _model: str, _hops: int, /) -> bool:
        return False

    async def answer(
        self,
        asked: Asked,
        local: Callable[[Asked], Awaitable[Local[Written]]],
        _write: Callable[[Answered], Awaitable[Written]],
        /,
    ) -> Written:
        return (await local(asked)).written
