"""HTTPS to whoever is not our controller: registries, and object stores that a server points at.

The second home of httpx2 on this side, because everything is the other way round here: addresses
come from strangers, credentials belong to one host of them, and answers may have no end.
"""

import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

import httpx2

from mailboat_schemas.errors import (
    ArtifactMissing,
    ConfigurationInvalid,
    DownloadInterrupted,
    MailboatError,
    NotPermitted,
    PayloadTooLarge,
    ServerUnavailable,
)

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
WHOLE_SECONDS_MAX = 300.0  # of an answer that is read whole: one that drips never ends
REDIRECTS_MAX = 3
PROBLEM_BYTES_MAX = 1000  # of a refusal's body, for the message
RETRY_AFTER_SECONDS_MAX = 60
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    content: bytes


class HttpsStream:
    """Use as a context manager."""

    def __init__(self, ca: Path | None = None) -> None:
        """``ca`` is a file of CA certificates instead of the system's.

        Raises:
            ConfigurationInvalid: it cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationInvalid(
                f"The CA file {ca} cannot be used: {error}.",
                next_step="name a file of PEM certificates.",
            ) from error
        self._client = httpx2.Client(
            verify=context,
            timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            # Sizes and digests are those of the bytes on the wire.
            headers={"Accept-Encoding": "identity", "User-Agent": "mailboat"},
            follow_redirects=False,  # done here, so that credentials stay with their host
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, url: str, headers: Mapping[str, str], *, kind: str, bytes_max: int) -> Answer:
        """An answer of any status but a redirect, whole.

        Raises:
            PayloadTooLarge: over ``bytes_max``; nothing beyond is read.
            DownloadInterrupted: cut, or not done in `WHOLE_SECONDS_MAX`.
            ServerUnavailable, ConfigurationInvalid
        """
        with self._answered(url, headers) as response:
            return _whole(response, kind, bytes_max)

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, kind: str, bytes_max: int
    ) -> Answer:
        """An answer of any status, whole. A redirect is an answer too: what is sent goes to the
        address that was named, and nowhere else.

        Raises:
            PayloadTooLarge, ServerUnavailable, DownloadInterrupted, ConfigurationInvalid
        """
        _require_https(url)
        with (
            connection_errors(url),
            self._client.stream("POST", url, headers=headers, content=body) as response,
        ):
            return _whole(response, kind, bytes_max)

    @contextmanager
    def open_at(
        self, url: str, headers: Mapping[str, str], offset: int
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """As `byte_stream.OpenAt` asks for.

        Raises:
            ArtifactMissing, NotPermitted: what a retry does not cure.
            ServerUnavailable, DownloadInterrupted, ConfigurationInvalid
        """
        ranged = {**headers, **({"Range": f"bytes={offset}-"} if offset else {})}
        with self._answered(url, ranged) as response:
            yield begins_at(response, offset), response.iter_raw()

    @contextmanager
    def _answered(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        for _ in range(REDIRECTS_MAX + 1):
            _require_https(url)
            with connection_errors(url), self._client.stream("GET", url, headers=headers) as answer:
                if answer.status_code not in _REDIRECTS:
                    yield answer
                    return
                following = urljoin(url, answer.headers.get("location", ""))
            if urlsplit(following).netloc != urlsplit(url).netloc:
                headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
            url = following
        raise ConfigurationInvalid(
            f"{urlsplit(url).netloc} redirects more than {REDIRECTS_MAX} times.",
            next_step="look at that server; its answers go in a circle.",
        )


def _whole(response: httpx2.Response, kind: str, bytes_max: int) -> Answer:
    content = bytearray()
    ends = time.monotonic() + WHOLE_SECONDS_MAX
    for chunk in response.iter_raw():
        content += chunk
        if time.monotonic() > ends:
            raise DownloadInterrupted(
                f"{response.request.url.host} took more than {WHOLE_SECONDS_MAX:g} s for a {kind}.",
                next_step="look at that server, and at proxies in between.",
            )
        if len(content) > bytes_max:
            raise PayloadTooLarge(kind, len(content), bytes_max)
    return Answer(response.status_code, dict(response.headers), bytes(content))


def begins_at(response: httpx2.Response, offset: int) -> int:
    """Where a good answer's bytes begin.

    Raises:
        DownloadInterrupted, ServerUnavailable, ArtifactMissing, NotPermitted
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        raise DownloadInterrupted(
            "Something on the way has encoded the content.",
            next_step="look at the proxy in between.",
        )
    if response.status_code == HTTPStatus.OK:
        return 0
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        if response.headers.get("content-range", "").startswith(f"bytes {offset}-"):
            return offset
        raise DownloadInterrupted(
            "The server went on at another place than was asked for.",
            next_step="look at the proxy in between.",
        )
    raise refusal(response)


def refusal(response: httpx2.Response) -> MailboatError:
    """The error for a status that is no success. The address without its query, which may sign."""
    said = ""
    for chunk in response.iter_raw():
        said = chunk[:PROBLEM_BYTES_MAX].decode(errors="replace")
        break
    said = "".join(char if char.isprintable() else " " for char in said)
    url = response.request.url
    what = f"{url.scheme}://{url.host}{url.path} was answered with {response.status_code} {said}"
    what = what.strip()[: 2 * PROBLEM_BYTES_MAX] + "."
    status = response.status_code
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return ArtifactMissing(what, next_step="check the name, and whether it was pushed there.")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return NotPermitted(what, next_step="check the credentials; see docs/sources.md.")
    if status in _BUSY:
        return ServerUnavailable(
            what, next_step="try again later.", retry_after=_retry_after(response)
        )
    return ConfigurationInvalid(what, next_step="check the address; is it that kind of server?")


def _retry_after(response: httpx2.Response) -> timedelta | None:
    text = response.headers.get("retry-after", "")
    if not text.isdecimal():
        return None
    return timedelta(seconds=min(int(text[:9]), RETRY_AFTER_SECONDS_MAX))


@contextmanager
def connection_errors(url: str) -> Iterator[None]:
    """Turns the library's errors into ours, by what the caller does next."""
    host = urlsplit(url).netloc
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        raise ServerUnavailable(
            f"{host} cannot be reached: {str(error) or type(error).__name__}.",
            next_step="check the address, the network and, for a certificate error, the CA file.",
        ) from error
    except (httpx2.RequestError, httpx2.StreamError) as error:
        raise DownloadInterrupted(
            f"A transfer from {host} was cut: {str(error) or type(error).__name__}.",
            next_step="run the command again: it goes on where it stopped.",
        ) from error
    except httpx2.InvalidURL as error:
        raise _no_address(url) from error


def _require_https(url: str) -> None:
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise _no_address(url) from error
    if scheme != "https":
        raise ConfigurationInvalid(
            f"{url[:200]!r} is not https: what comes from there could be anybody's, and "
            "credentials would travel in the clear.",
            next_step="use an https address, with --ca FILE for a CA of your own.",
        )


def _no_address(url: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"{url[:200]!r} is no address that can be asked.", next_step="correct it."
    )
