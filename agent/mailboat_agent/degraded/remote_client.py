"""One request to another inference endpoint, within a time and a size. Its only user of httpx2.

A connection of its own, beside that of downloads: an endpoint may be plain HTTP on this host, its
trust is not the fleet's, and what it answers is small and has to come soon.
"""

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass

import httpx2

from mailboat_agent.degraded.settings import RemoteEndpoint
from mailboat_schemas.errors import ConfigurationInvalid

ANSWER_BYTES_MAX = 16 << 20
CLOSE_SECONDS_MAX = 1
CONNECTIONS_MAX = 8  # to one endpoint; more wait, and their time is counted


class NoAnswer(Exception):
    """The endpoint did not answer. ``healthy`` says that it can, but not this request."""

    def __init__(self, because: str, *, healthy: bool = False) -> None:
        super().__init__(because)
        self.because = because
        self.healthy = healthy


class TimeIsUp(NoAnswer):
    """It did not answer within the time it was given."""


@dataclass(frozen=True, slots=True)
class Reply:
    """``body`` is empty where the status is not 200."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class RemoteClient:
    """Used by one event loop."""

    def __init__(self, endpoint: RemoteEndpoint) -> None:
        """
        Raises:
            ConfigurationInvalid: a certificate cannot be read.
        """
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client = httpx2.AsyncClient(
            base_url=endpoint.url.rstrip("/") + "/",
            verify=_context(endpoint),
            timeout=None,  # the whole of it is timed below
            limits=httpx2.Limits(max_connections=CONNECTIONS_MAX),
            headers={"User-Agent": "mailboat-agent", "Accept-Encoding": "identity"},
            follow_redirects=False,
            trust_env=False,  # no proxy and no CA that the configuration does not name
        )

    async def post(
        self, path: str, body: bytes, headers: dict[str, str], *, seconds: float
    ) -> Reply:
        """
        Raises:
            NoAnswer, TimeIsUp
        """
        answer = await self._timed("POST", path, body, headers, seconds)
        if answer.status != httpx2.codes.OK:
            refused = answer.status in (400, 413, 415, 422)
            raise NoAnswer(f"it answered {answer.status}", healthy=refused)
        return answer

    async def get(self, path: str, *, seconds: float) -> Reply | None:
        """None where it has nothing to say there.

        Raises:
            NoAnswer, TimeIsUp
        """
        answer = await self._timed("GET", path, None, {}, seconds)
        return answer if answer.status == httpx2.codes.OK else None

    async def _timed(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], seconds: float
    ) -> Reply:
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                return await self._call(method, path, body, headers)
        except TimeoutError as error:
            raise TimeIsUp(f"no answer within {seconds:.3g} s") from error
        except (httpx2.HTTPError, OSError) as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error

    async def _call(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Reply:
        async with self._client.stream(method, path, content=body, headers=headers) as answer:
            found = {name.lower(): value for name, value in answer.headers.items()}
            content = bytearray()
            if answer.status_code != httpx2.codes.OK:
                return Reply(answer.status_code, found, b"")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise NoAnswer("its answer is compressed, and nobody asked for that")
            async for chunk in answer.aiter_raw():
                content += chunk
                if len(content) > ANSWER_BYTES_MAX:
                    raise NoAnswer(f"its answer is over {ANSWER_BYTES_MAX} bytes", healthy=True)
            return Reply(answer.status_code, found, bytes(content))

    def close(self) -> None:
        """Close its connections, in the loop that opened them. From another thread."""
        if self._loop is not None and self._loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop)
            with suppress(TimeoutError, httpx2.HTTPError, OSError):  # it ends with the process
                closing.result(CLOSE_SECONDS_MAX)


def _context(endpoint: RemoteEndpoint) -> ssl.SSLContext:
    if endpoint.url.startswith("http:") and endpoint.ca is None and endpoint.certificate is None:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used; the system's take a while
    try:
        context = ssl.create_default_context(cafile=endpoint.ca)
        if endpoint.certificate is not None:
            context.load_cert_chain(endpoint.certificate, endpoint.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationInvalid(
            f"The certificates of the endpoint {endpoint.name} cannot be read: {error}.",
            next_step="correct 'ca', 'certificate' and 'key' of its [[remote]] in agent.toml.",
        ) from error
    return context
