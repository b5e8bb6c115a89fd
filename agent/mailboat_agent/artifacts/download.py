"""What a device asks over HTTPS: artifacts by digest, manifests, content keys.

Of the controller, and of a site's cache, which answers for artifacts like the controller. Nothing
that arrives is trusted; everything is bounded. A read timeout does not stop a server that sends one
byte a minute, so a transfer has a total deadline and a minimum rate as well.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from ssl import SSLContext

from pydantic import ValidationError

from mailboat_agent.artifacts.arrivals import Arrivals
from mailboat_agent.artifacts.https_connection import (
    Answer,
    HttpsConnection,
    read_bounded,
    refused,
    stopped,
    total_deadline,
)
from mailboat_agent.artifacts.pace import RATE_MIN_BYTES_PER_SECOND, UNCAPPED, Pace
from mailboat_agent.artifacts.part_file import Hashed, PartFile, Progress
from mailboat_agent.artifacts.refusals import CONTROLLER, interrupted
from mailboat_agent.atomic_file import disk_errors
from mailboat_agent.background import in_background
from mailboat_schemas.content_key import WrappedContentKey
from mailboat_schemas.deltas import Source
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.errors import MalformedPayload, TransferTooLong

CONTENT_KEY_BYTES_MAX = 16 * 1024
DEADLINE_PER_MINIMUM = 2  # the total deadline: at the minimum rate, twice over
# Asks the controller to name the place in an object store instead of sending the bytes itself.
ACCEPT_REDIRECT = {"Mailboat-Accept-Redirect": "1"}


class HttpsSource(HttpsConnection):
    def __init__(
        self,
        base_url: str,
        context: SSLContext,
        *,
        source: Source = Source.CONTROLLER,
        pace: Pace = UNCAPPED,
        connect_seconds: float = 10,
        rate_min_bytes_per_second: int = RATE_MIN_BYTES_PER_SECOND,
        rate_window_seconds: float = 60,
        deadline_seconds_min: float = 30,
    ) -> None:
        """
        Args:
            source: what stands at that address: the controller, or a site's cache.
            pace: the cap that it shares with others.

        Raises:
            ConfigurationInvalid: the URL is none, or not https.
        """
        super().__init__(
            base_url,
            context,
            name=CONTROLLER if source is Source.CONTROLLER else f"the site cache {base_url}",
            connect_seconds=connect_seconds,
            silence_seconds=rate_window_seconds,
        )
        self.source = source
        self._pace = pace
        self._rate_min = rate_min_bytes_per_second
        self._window_seconds = rate_window_seconds
        self._deadline_seconds_min = deadline_seconds_min

    # --- artifacts -----------------------------------------------------------------------------

    async def fetch_artifact(
        self,
        digest: str,
        length: int,
        target: Path,
        on_progress: Progress | None = None,
        arrivals: Arrivals | None = None,
    ) -> Hashed:
        """Bring ``target`` to ``length`` bytes, from where it stands, and make them durable.

        Hashes as the bytes come, and does not compare: `ReleaseStore.admit` does.
        ``on_progress`` is told how many bytes are there.

        Raises:
            DownloadInterrupted: cut, too slow, or not what was asked for; a retry resumes.
            ServerUnavailable: no connection, or a refusal; ``retry_after`` if it says when.
            ArtifactMissing, NotPermitted, DiskFull, DiskFailing
        """
        async with open_part(target, length, on_progress) as part:
            await self.transfer(digest, part, arrivals or Arrivals())
            return await in_background(part.sync, name="sync")

    def seconds_max(self, length: int) -> float:
        """What bringing so many bytes may take in all."""
        return max(self._deadline_seconds_min, length / self._rate_min * DEADLINE_PER_MINIMUM)

    async def transfer(
        self,
        digest: str,
        part: PartFile,
        arrivals: Arrivals,
        *,
        store: Callable[[], SSLContext] | None = None,
        keeps_part: bool = False,
        within: tuple[asyncio.Timeout, ...] = (),
    ) -> None:
        """Bring a part to its length, in one request.

        Args:
            store: what to trust an object store by, if the controller may name one instead of
                sending the bytes itself; made when it does.
            keeps_part: rather fail than begin anew, because somebody else may go on with it.
            within: deadlines of the caller; they stop while this device waits for itself.

        Raises:
            As `fetch_artifact`.
        """
        if part.size_bytes >= part.length:
            return
        headers = {}
        if part.size_bytes > 0:
            headers = {"Range": f"bytes={part.size_bytes}-", "If-Range": f'"{digest}"'}
        async with total_deadline(self.seconds_max(part.length), self.name) as deadline:
            deadlines = (deadline, *within)
            path = f"v1/artifacts/sha256/{digest}"
            asked = headers if store is None else headers | ACCEPT_REDIRECT
            async with self.answer("GET", path, headers=asked) as answer:
                if store is None or answer.status_code != HTTPStatus.TEMPORARY_REDIRECT:
                    await self._take(answer, part, arrivals, deadlines, keeps_part=keeps_part)
                    return
                location = answer.headers.get("Location", "")
            headers.pop("If-Range", None)  # the store's ETag is one of its own
            async with self.elsewhere(location, store(), headers) as (answer, name):
                await self._take(answer, part, arrivals, deadlines, keeps_part=True, store=name)

    async def _take(
        self,
        answer: Answer,
        part: PartFile,
        arrivals: Arrivals,
        deadlines: tuple[asyncio.Timeout, ...],
        *,
        keeps_part: bool,
        store: str | None = None,
    ) -> None:
        server = store or self.name
        if answer.status_code == HTTPStatus.PARTIAL_CONTENT:
            expected = f"bytes {part.size_bytes}-{part.length - 1}/{part.length}"
            if answer.headers.get("Content-Range") != expected:
                _begin_anew(part, keeps_part=keeps_part)
                problem = "the server resumed at another place than asked"
                raise interrupted(problem, server=server)
            arrivals.resumed += 1
        elif answer.status_code == HTTPStatus.OK:
            if keeps_part and part.size_bytes > 0:
                raise interrupted("it does not resume", server=server)
            part.start_over()  # it does not resume, or the file has changed
        else:
            if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                _begin_anew(part, keeps_part=keeps_part)
            raise await refused(answer, server, is_secret=store is not None)
        announced = answer.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced[:20]) > part.length - part.size_bytes:
            problem = f"the server announces {announced[:20]} bytes, too many"
            raise interrupted(problem, TransferTooLong, server=server)
        source = self.source if store is None else Source.OBJECT_STORE
        await self._receive(answer, part, arrivals, source, deadlines)
        if part.size_bytes < part.length:
            problem = f"it ended after {part.size_bytes} of {part.length} bytes"
            raise interrupted(problem, server=server)

    async def _receive(
        self,
        answer: Answer,
        part: PartFile,
        arrivals: Arrivals,
        source: Source,
        deadlines: tuple[asyncio.Timeout, ...],
    ) -> None:
        """Every window must bring its share, or the transfer is cut. What this device waits for,
        to keep to its own cap or for its disk, is not the server's time."""
        clock = asyncio.get_running_loop().time
        share_bytes = self._rate_min * self._window_seconds
        window_bytes = 0
        async with asyncio.timeout_at(clock() + self._window_seconds) as window:
            # As they come: chunks of a fixed size would hold back what a slow server sent.
            async for chunk in answer.aiter_raw():
                arrivals.received(source, len(chunk), clock())
                part.append(chunk)
                arrivals.here = part.size_bytes
                window_bytes += len(chunk)
                if window_bytes >= share_bytes:
                    window_bytes = 0
                    window.reschedule(clock() + self._window_seconds)
                with stopped(window, *deadlines):
                    await self._pace.take(len(chunk))
                    if part.is_due_to_sync:
                        await in_background(part.sync_so_far, name="sync")

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
            total_deadline(self._deadline_seconds_min, self.name),
            self.answer("GET", f"v1/manifests/{hardware_class}", headers=headers) as answer,
        ):
            if answer.status_code == HTTPStatus.NOT_MODIFIED:
                return None
            if answer.status_code != HTTPStatus.OK:
                raise await refused(answer, self.name)
            body = await read_bounded(answer, "ManifestBundle", ManifestBundle.wire_bytes_max)
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
            total_deadline(self._deadline_seconds_min, self.name),
            self.answer("POST", path, headers=headers, content=content) as answer,
        ):
            if not answer.is_success:
                raise await refused(answer, self.name)
            return answer.status_code, await read_bounded(answer, kind, bytes_max)


@asynccontextmanager
async def open_part(
    path: Path, length: int, on_progress: Progress | None = None
) -> AsyncIterator[PartFile]:
    """A download on disk, with what an earlier attempt left of it hashed.

    Raises:
        DiskFull, DiskFailing: also for what happens while it is open.
    """
    with disk_errors("opening a staging file"):
        part = PartFile(path, length, on_progress)
    try:
        with disk_errors("writing a download"):
            if part.size_bytes > 0:
                await in_background(part.hash_what_is_there, name="hash")
            yield part
    finally:
        part.close()


def _begin_anew(part: PartFile, *, keeps_part: bool) -> None:
    if not keeps_part:
        part.start_over()


def _no_content_key(problem: str) -> MalformedPayload:
    return MalformedPayload(
        f"The controller's answer is no content key: {problem}.",
        next_step="compare the versions of agent and controller; the device asks again.",
    )
