"""Bytes of known length from far away, gone on with where a connection broke."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from mailboat_schemas.errors import (
    DownloadInterrupted,
    ServerUnavailable,
    TransferTooLong,
    TransferTooSlow,
)

ATTEMPTS_MAX = 6  # without progress, before it is given up
PROGRESS_BYTES_MIN = 4096  # of one attempt: a byte at a time could go on for years
WAIT_SECONDS_MAX = 20.0
RATE_MIN_BYTES_PER_SECOND = 4096
RATE_WINDOW_SECONDS = 60.0

# Opens the bytes from an offset on. Gives where they really begin: at 0 if it cannot resume.
OpenAt = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]


def receive(
    open_at: OpenAt,
    *,
    begin: int,
    length: int,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[bytes]:
    """What lies from ``begin`` to ``length``, in pieces.

    Raises:
        DownloadInterrupted: cut, or too slow, again and again.
        TransferTooLong: it does not end at ``length``.
        ServerUnavailable, and whatever ``open_at`` raises that a retry does not cure.
    """
    at, failed = begin, 0
    while at < length:
        before = at
        try:
            with open_at(at) as (start, chunks):
                sent = start
                for chunk in _watched(chunks, monotonic):
                    # A server that cannot resume sends again what is here already.
                    fresh = chunk[max(0, at - sent) :]
                    sent += len(chunk)
                    _refuse_more(at + len(fresh), length)
                    if fresh:
                        at += len(fresh)
                        yield fresh
            _refuse_less(at, length)
        except TransferTooLong:
            raise
        except (DownloadInterrupted, ServerUnavailable) as error:
            progressed = at - before >= PROGRESS_BYTES_MIN and not isinstance(
                error, TransferTooSlow
            )
            failed = 1 if progressed else failed + 1
            if failed >= ATTEMPTS_MAX:
                raise
            asked = error.retry_after.total_seconds() if error.retry_after else 0.0
            sleep(min(max(asked, 0.25 * 2**failed), WAIT_SECONDS_MAX))


def _refuse_more(at: int, length: int) -> None:
    if at > length:
        raise TransferTooLong(
            f"More than the {length} bytes expected are sent.",
            next_step="look at the server, and the caches in between.",
        )


def _refuse_less(at: int, length: int) -> None:
    if at < length:
        raise DownloadInterrupted(
            f"A transfer ended after {at} of {length} bytes.",
            next_step="run the command again: it goes on where it stopped.",
        )


def _watched(chunks: Iterator[bytes], monotonic: Callable[[], float]) -> Iterator[bytes]:
    """A read timeout does not stop whoever sends a byte a minute: every window brings its share.

    Raises:
        TransferTooSlow
    """
    window_began, window_bytes = monotonic(), 0
    for chunk in chunks:
        yield chunk
        window_bytes += len(chunk)
        if monotonic() - window_began < RATE_WINDOW_SECONDS:
            continue
        if window_bytes < RATE_MIN_BYTES_PER_SECOND * RATE_WINDOW_SECONDS:
            raise TransferTooSlow(
                f"A transfer is slower than {RATE_MIN_BYTES_PER_SECOND} bytes a second.",
                next_step="run the command again over a better connection; what came is kept.",
            )
        window_began, window_bytes = monotonic(), 0
