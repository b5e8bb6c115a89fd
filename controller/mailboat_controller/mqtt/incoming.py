"""A message as the broker delivered it, whatever library brought it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """Nothing about it has been checked.

    ``retain`` is set only on what the broker kept and delivers because we subscribed: old news.
    """

    topic: str
    payload: bytes
    retain: bool = False
    response_topic: str | None = None
    correlation_data: bytes | None = None
