"""One connection to a server over HTTPS, and what can go wrong with it. The only user of httpx2."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from ssl import SSLContext

import httpx2

from mailboat_agent.artifacts.refusals import CONTROLLER, interrupted, refusal
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    MailboatError,
    PayloadTooLarge,
    ServerUnavailable,
    TransferTooSlow,
)

PROBLEM_BYTES_MAX = 4096  # of a refusal's body, for the message to the operator
REFUSAL_SECONDS_MAX = 10.0  # for that body; what is refused is known without it
# Nothing in between may unpack: sizes and offsets are those of the bytes on the wire.
IDENTITY = {"Accept-Encoding": "identity"}
LOCATION_CHARS_MAX = 8192

Answer = httpx2.Response


class HttpsConnection:
    """``name`` is whom one talks to, as part of a sentence."""

    def __init__(
        self,
        base_url: str,
        context: SSLContext,
        *,
        name: str = CONTROLLER,
        connect_seconds: float,
        silence_seconds: float,
    ) -> None:
        """
        Raises:
            ConfigurationInvalid: the URL is none, or not https.
        """
        url = _https_url(base_url.rstrip("/") + "/")
        if url is None:
            raise _not_https(base_url)
        self.name = name
        self._timeout = httpx2.Timeout(silence_seconds, connect=connect_seconds)
        # Until an answer's head is here. It may drip like anything else, and the deadline of a
        # large file is days.
        self._answer_seconds_max = connect_seconds + silence_seconds
        self._client = httpx2.AsyncClient(
            base_url=url,
            verify=context,
            timeout=self._timeout,
            headers={**IDENTITY, "User-Agent": "mailboat-agent"},
            follow_redirects=False,
            trust_env=False,  # no proxy and no CA that the configuration does not name
        )

    async def close(self) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def answer(
        self, method: str, path: str, *, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncIterator[httpx2.Response]:
        with _connection_errors(self.name):
            async with (
                total_deadline(self._answer_seconds_max, self.name) as head,
                self._client.stream(method, path, headers=headers, content=content) as answer,
            ):
                head.reschedule(None)
                _refuse_encoded(answer, self.name)
                yield answer

    @asynccontextmanager
    async def elsewhere(
        self, location: str, context: SSLContext, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[Answer, str]]:
        """What an object store answers, and its name. As a stranger to it: without certificate,
        with no header but those given. Its address is a secret, so nothing of it is repeated.

        Raises:
            DownloadInterrupted, ServerUnavailable
        """
        url = _https_url(location) if len(location) <= LOCATION_CHARS_MAX else None
        if url is None or url.userinfo:
            raise interrupted("it names no https address to go to", server=self.name)
        server = f"the object store {url.host}"
        client = httpx2.AsyncClient(
            verify=context, timeout=self._timeout, follow_redirects=False, trust_env=False
        )
        client.headers.clear()
        with _connection_errors(server, is_secret=True):
            async with (
                client,
                total_deadline(self._answer_seconds_max, server) as head,
                client.stream("GET", url, headers={**headers, **IDENTITY}) as answer,
            ):
                head.reschedule(None)
                _refuse_encoded(answer, server)
                yield answer, server


@asynccontextmanager
async def total_deadline(seconds: float, server: str) -> AsyncIterator[asyncio.Timeout]:
    try:
        async with asyncio.timeout(seconds) as deadline:
            yield deadline
    except TimeoutError as error:
        raise interrupted("it was too slow", TransferTooSlow, server=server) from error


@contextmanager
def stopped(*timers: asyncio.Timeout) -> Iterator[None]:
    """They go on afterwards with what they had left."""
    clock = asyncio.get_running_loop().time
    began = clock()
    ends = [timer.when() for timer in timers]
    for timer in timers:
        timer.reschedule(None)
    try:
        yield
    finally:
        passed = clock() - began
        for timer, end in zip(timers, ends, strict=True):
            if end is not None:
                timer.reschedule(end + passed)


@contextmanager
def _connection_errors(server: str, *, is_secret: bool = False) -> Iterator[None]:
    """Turns the library's errors into ours, by what the caller does next.

    Args:
        is_secret: what was asked for, so that nothing the library says of it is repeated.
    """
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        raise ServerUnavailable(
            f"{server[0].upper()}{server[1:]} cannot be reached: {_said(error, is_secret)}.",
            next_step="check api_url, the network and, for a certificate error, the ca file; "
            "the device tries again by itself.",
        ) from (None if is_secret else error)
    except (httpx2.RequestError, httpx2.StreamError, httpx2.InvalidURL) as error:
        raise interrupted(_said(error, is_secret), server=server) from (
            None if is_secret else error
        )


def _said(error: Exception, is_secret: bool) -> str:
    return type(error).__name__ if is_secret else str(error) or type(error).__name__


async def read_bounded(answer: Answer, kind: str, bytes_max: int) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > bytes_max:
            raise PayloadTooLarge(kind, len(body), bytes_max)
    return bytes(body)


async def refused(answer: Answer, server: str, *, is_secret: bool = False) -> MailboatError:
    """The error for a status that is none of those asked for."""
    said, path = "", server
    if not is_secret:  # an object store repeats in its body what it was asked
        path = answer.request.url.path
        try:
            async with asyncio.timeout(REFUSAL_SECONDS_MAX):
                body = await read_bounded(answer, "refusal", PROBLEM_BYTES_MAX)
                said = body.decode(errors="replace")
        except (PayloadTooLarge, TimeoutError):
            pass
    asked_to_wait = answer.headers.get("Retry-After", "")
    return refusal(answer.status_code, path, said, asked_to_wait, server)


def _refuse_encoded(answer: Answer, server: str) -> None:
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise interrupted("something in between has encoded the content", server=server)


def _https_url(text: str) -> httpx2.URL | None:
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        return None
    return url if url.scheme == "https" and url.host else None


def _not_https(url: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"{url[:200]!r} is not an https URL.",
        next_step="set api_url to the controller, such as https://controller.example:8443.",
    )
