"""HTTPS to the controller: artifacts by digest, manifests, enrolment. The only user of httpx2.

Nothing that arrives is trusted; everything is bounded. A read timeout does not stop a server that
sends one byte a minute, so a transfer has a total deadline and a minimum rate as well.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from ssl import SSLContext

import httpx2
from pydantic import ValidationError

from mailboat_agent.artifacts.part_file import Hashed, PartFile, Progress
from mailboat_agent.atomic_file import disk_errors
from mailboat_agent.background import in_background
from mailboat_schemas.content_key import WrappedContentKey
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.errors import (
    ArtifactMissing,
    ConfigurationInvalid,
    Conflict,
    DownloadInterrupted,
    MailboatError,
    MalformedPayload,
    NotPermitted,
    PayloadTooLarge,
    ServerUnavailable,
    TransferTooLong,
    TransferTooSlow,
)

CONTENT_KEY_BYTES_MAX = 16 * 1024
PROBLEM_BYTES_MAX = 4096  # of a refusal's body, for the message to the operator
RETRY_AFTER_SECONDS_MAX = 3600  # a server that asks for more is not believed
DEADLINE_PER_MINIMUM = 2  # the total deadline: at the minimum rate, twice over


class HttpsSource:
    def __init__(
        self,
        base_url: str,
        context: SSLContext,
        *,
        connect_seconds: float = 10,
        rate_min_bytes_per_second: int = 4096,
        rate_window_seconds: float = 60,
        deadline_seconds_min: float = 30,
    ) -> None:
        """
        Raises:
            ConfigurationInvalid: the URL is none, or not https.
        """
        self._rate_min = rate_min_bytes_per_second
        self._window_seconds = rate_window_seconds
        self._deadline_seconds_min = deadline_seconds_min
        try:
            url = httpx2.URL(base_url.rstrip("/") + "/")
        except httpx2.InvalidURL as error:
            raise _not_https(base_url) from error
        if url.scheme != "https" or not url.host:
            raise _not_https(base_url)
        self._client = httpx2.AsyncClient(
            base_url=url,
            verify=context,
            timeout=httpx2.Timeout(rate_window_seconds, connect=connect_seconds),
            # Nothing in between may unpack: sizes and offsets are those of the bytes on the wire.
            headers={"Accept-Encoding": "identity", "User-Agent": "mailboat-agent"},
            follow_redirects=False,
            trust_env=False,  # no proxy and no CA that the configuration does not name
        )

    async def close(self) -> None:
        await self._client.aclose()

    # --- artifacts -----------------------------------------------------------------------------

    async def fetch_artifact(
        self, digest: str, length: int, target: Path, on_progress: Progress | None = None
    ) -> Hashed:
        """Bring ``target`` to ``length`` bytes, from where it stands, and make them durable.

        Hashes as the bytes come, and does not compare: `ReleaseStore.admit` does.
        ``on_progress`` is told how many bytes are there.

        Raises:
            DownloadInterrupted: cut, too slow, or not what was asked for; a retry resumes.
            ServerUnavailable: no connection, or a refusal; ``retry_after`` if it says when.
            ArtifactMissing, NotPermitted, DiskFull, DiskFailing
        """
        with disk_errors("opening a staging file"):
            part = PartFile(target, length, on_progress)
        try:
            deadline = max(
                self._deadline_seconds_min, length / self._rate_min * DEADLINE_PER_MINIMUM
            )
            with disk_errors("writing a download"):
                if part.size_bytes > 0:
                    await in_background(part.hash_what_is_there, name="hash")
                async with _deadline(deadline):
                    if part.size_bytes < length:
                        await self._transfer(digest, part)
                return await in_background(part.sync, name="sync")
        finally:
            part.close()

    async def _transfer(self, digest: str, part: PartFile) -> None:
        headers = {}
        if part.size_bytes > 0:
            headers = {"Range": f"bytes={part.size_bytes}-", "If-Range": f'"{digest}"'}
        path = f"v1/artifacts/sha256/{digest}"
        async with self._answer("GET", path, headers=headers) as answer:
            if answer.status_code == HTTPStatus.PARTIAL_CONTENT:
                expected = f"bytes {part.size_bytes}-{part.length - 1}/{part.length}"
                if answer.headers.get("Content-Range") != expected:
                    part.start_over()
                    raise _interrupted("the server resumed at another place than asked")
            elif answer.status_code == HTTPStatus.OK:
                part.start_over()  # it does not resume, or the file has changed
            else:
                if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    part.start_over()
                raise await _refusal(answer)
            announced = answer.headers.get("Content-Length", "")
            if announced.isdecimal() and int(announced) > part.length - part.size_bytes:
                problem = f"the server announces {announced} bytes, too many"
                raise _interrupted(problem, TransferTooLong)
            await self._receive(answer, part)
        if part.size_bytes < part.length:
            raise _interrupted(f"it ended after {part.size_bytes} of {part.length} bytes")

    async def _receive(self, answer: httpx2.Response, part: PartFile) -> None:
        """Every window must bring its share, or the transfer is cut."""
        clock = asyncio.get_running_loop().time
        share_bytes = self._rate_min * self._window_seconds
        window_bytes = 0
        async with asyncio.timeout_at(clock() + self._window_seconds) as window:
            # As they come: chunks of a fixed size would hold back what a slow server sent.
            async for chunk in answer.aiter_raw():
                part.append(chunk)
                window_bytes += len(chunk)
                if window_bytes >= share_bytes:
                    window_bytes = 0
                    window.reschedule(clock() + self._window_seconds)

    # --- documents -----------------------------------------------------------------------------

    async def get_manifest(self, hardware_class: str, etag: str | None) -> tuple[bytes, str] | None:
        """The newest bundle of a class and its ETag; None when it is still the one of ``etag``.

        Raises:
            PayloadTooLarge: over the bound of a bundle.
            ArtifactMissing: nothing has been published for this class yet.
            DownloadInterrupted, ServerUnavailable, NotPermitted
        """
        headers = {} if etag is None else {"If-None-Match": etag}
        async with (
            _deadline(self._deadline_seconds_min),
            self._answer("GET", f"v1/manifests/{hardware_class}", headers=headers) as answer,
        ):
            if answer.status_code == HTTPStatus.NOT_MODIFIED:
                return None
            if answer.status_code != HTTPStatus.OK:
                raise await _refusal(answer)
            body = await _read_bounded(answer, "ManifestBundle", ManifestBundle.wire_bytes_max)
            return body, answer.headers.get("ETag", "")

    async def fetch_content_key(self, key_id: str) -> WrappedContentKey:
        """The key of an encrypted release, wrapped to the key of this device's certificate.

        Raises:
            ArtifactMissing: nobody has handed it over yet.
            NotPermitted: not for this device, or the device is revoked.
            MalformedPayload: the answer is none, or is another key's.
            ConfigurationInvalid, DownloadInterrupted, ServerUnavailable
        """
        path = f"v1/content-keys/{key_id}"
        _, body = await self.post(path, b"", "WrappedContentKey", CONTENT_KEY_BYTES_MAX)
        try:
            answer = WrappedContentKey.model_validate_json(body)
        except ValidationError as error:
            raise _no_content_key(f"{error.error_count()} fields do not hold") from error
        if answer.content_key != key_id:
            raise _no_content_key(f"it is for {answer.content_key}")
        return answer

    async def post(self, path: str, content: bytes, kind: str, bytes_max: int) -> tuple[int, bytes]:
        """The status and body of a good answer.

        Raises:
            NotPermitted, Conflict, ConfigurationInvalid, PayloadTooLarge
            ArtifactMissing, DownloadInterrupted, ServerUnavailable
        """
        headers = {"Content-Type": "application/json"}
        async with (
            _deadline(self._deadline_seconds_min),
            self._answer("POST", path, headers=headers, content=content) as answer,
        ):
            if not answer.is_success:
                raise await _refusal(answer)
            return answer.status_code, await _read_bounded(answer, kind, bytes_max)

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, *, headers: dict[str, str], content: bytes | None = None
    ) -> AsyncIterator[httpx2.Response]:
        with _connection_errors():
            async with self._client.stream(
                method, path, headers=headers, content=content
            ) as answer:
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise _interrupted("something in between has encoded the content")
                yield answer


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise _interrupted("it was too slow", TransferTooSlow) from error


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Turns the library's errors into ours, by what the caller does next."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        raise ServerUnavailable(
            f"The controller cannot be reached: {str(error) or type(error).__name__}.",
            next_step="check api_url, the network and, for a certificate error, the ca file; "
            "the device tries again by itself.",
        ) from error
    except (httpx2.RequestError, httpx2.StreamError) as error:
        raise _interrupted(str(error) or type(error).__name__) from error


async def _read_bounded(answer: httpx2.Response, kind: str, bytes_max: int) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > bytes_max:
            raise PayloadTooLarge(kind, len(body), bytes_max)
    return bytes(body)


async def _refusal(answer: httpx2.Response) -> MailboatError:
    """The error for a status that is none of those asked for."""
    status = answer.status_code
    try:
        said = (await _read_bounded(answer, "refusal", PROBLEM_BYTES_MAX)).decode(errors="replace")
    except PayloadTooLarge:
        said = ""
    what = f"{answer.request.url.path} was answered with {status} {said}".strip() + "."
    match status:
        case HTTPStatus.NOT_FOUND | HTTPStatus.GONE:
            next_step = "nothing, if it is still being uploaded or published; else upload it again."
            return ArtifactMissing(what, next_step=next_step)
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            next_step = "check that the device is not revoked; enrol it again with a new token."
            return NotPermitted(what, next_step=next_step)
        case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _interrupted("the server cannot resume there")
        case HTTPStatus.CONFLICT:
            next_step = "choose another device name, or revoke the device that has this one."
            return Conflict(what, next_step=next_step)
        case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY:
            next_step = "compare the versions of agent and controller, and the enrolment kit."
            return ConfigurationInvalid(what, next_step=next_step)
    return ServerUnavailable(
        what,
        next_step="nothing, the device tries again; if it repeats, look at the controller's log.",
        retry_after=_retry_after(answer),
    )


def _retry_after(answer: httpx2.Response) -> timedelta | None:
    """Seconds only: a date would need a clock that is right."""
    text = answer.headers.get("Retry-After", "")
    if not text.isdecimal():
        return None
    return timedelta(seconds=min(int(text[:9]), RETRY_AFTER_SECONDS_MAX))


def _interrupted(
    problem: str, kind: type[DownloadInterrupted] = DownloadInterrupted
) -> DownloadInterrupted:
    return kind(
        f"A transfer from the controller was interrupted: {problem}.",
        next_step="nothing; it goes on where it stopped.",
    )


def _no_content_key(problem: str) -> MalformedPayload:
    return MalformedPayload(
        f"The controller's answer is no content key: {problem}.",
        next_step="compare the versions of agent and controller; the device asks again.",
    )


def _not_https(url: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"{url[:200]!r} is not an https URL.",
        next_step="set api_url to the controller, such as https://controller.example:8443.",
    )
