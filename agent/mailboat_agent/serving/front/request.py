"""Between a connection and what answers: a whole request, and how long its client may take."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from mailboat_agent.serving.front.answers import Response
from mailboat_agent.serving.front.http_message import Head
from mailboat_agent.serving.front.room import Lease

REQUEST_BYTES_MAX = 16 << 20
UNASKED_BYTES_MAX = 64 << 10  # a smaller body is read before it is known whether anyone wants it


@dataclass(slots=True)
class Patience:
    """Seconds that a client may take. Tests shorten them."""

    head: float = 10.0  # from its first byte
    body: float = 10.0  # for the whole of it: a slow client holds memory that others need
    answer: float = 10.0  # until it has taken its answer
    linger: float = 2.0


class Welcome(Enum):
    """What becomes of a client that connects."""

    SERVED = auto()
    REFUSED = auto()  # it is told that too many are connected, whatever it wants
    CUT_OFF = auto()  # and so many have to be told that it is not


@dataclass(slots=True)
class Request:
    """A whole request. ``lease`` is what its body holds of the room."""

    head: Head
    body: bytearray
    lease: Lease
    began: float  # time.monotonic of the head's end


class Application(Protocol):
    """Implemented by `routes.Application`; the tests of a connection bring one of their own."""

    def admit(self, head: Head) -> None:
        """Refuse before the body is read.

        Raises:
            Problem
        """

    def begin(
        self, request: Request, reply: Callable[[Response], None]
    ) -> Callable[[], None] | None:
        """Answer by one call of ``reply``, in the event loop, now or later.

        What is returned is called when the client goes away before that.

        Raises:
            Problem
        """
