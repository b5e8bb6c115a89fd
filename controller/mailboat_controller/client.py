"""The controller's API as the command line uses it. httpx2 is known here and in
`https_stream.py`, for everybody who is not our controller.

Problems come back as the errors they were on the server, with code and next step, so the command
line treats near and far alike.
"""

import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from mailboat_controller import api_paths
from mailboat_controller.answered_problems import problem_in
from mailboat_controller.connection_file import load_connection, load_token
from mailboat_controller.https_stream import begins_at, connection_errors
from mailboat_schemas.enrolment import Connection
from mailboat_schemas.errors import (
    ArtifactMissing,
    ConfigurationInvalid,
    MailboatError,
    NotFound,
    ServerUnavailable,
)
from mailboat_schemas.submission import SubmissionReply

ATTEMPTS_MAX = 4
RETRY_AFTER_SECONDS_MAX = 10.0
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
KEY_HEADER = "Idempotency-Key"
_OF_ONE_PAGE = frozenset({"after", "before", "limit"})
TOKEN_ENDS_HEADER = "mailboat-token-ends"  # noqa: S105  a name
_BUSY = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})
_CHUNK_BYTES = 256 * 1024

Progress = Callable[[int], None]  # bytes sent since the last call


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a controller that does not answer is waited for."""

    attempts_max: int = ATTEMPTS_MAX
    connect_seconds: float = CONNECT_SECONDS
    answer_seconds: float = ANSWER_SECONDS


USUAL = Patience()


class ApiClient:
    """One connection to one controller, as one holder. Use as a context manager."""

    def __init__(
        self,
        connection: Connection,
        directory: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        remind: Callable[[str], None] = lambda _text: None,
        patience: Patience = USUAL,
    ) -> None:
        """
        Args:
            directory: where the connection file stands; its paths are relative to that.
            remind: takes a sentence for the person, once, when their token ends soon.

        Raises:
            ConfigurationInvalid: token, certificate, key or CA cannot be used.
        """
        self.connection = connection
        self._sleep = sleep
        self._attempts_max = patience.attempts_max
        self._remind: Callable[[str], None] | None = remind
        self._client = httpx2.Client(
            base_url=_address(connection),
            verify=tls_of(connection, directory),
            headers=_authorization(connection, directory),
            follow_redirects=False,  # a token goes to the address in the connection file alone
            timeout=httpx2.Timeout(patience.answer_seconds, connect=patience.connect_seconds),
            trust_env=False,  # a proxy in the environment cannot carry our client certificate
        )

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        remind: Callable[[str], None] = lambda _text: None,
        patience: Patience = USUAL,
    ) -> Self:
        """The client of a connection file."""
        return cls(load_connection(path), path.parent, remind=remind, patience=patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, path: str, **parameters: Any) -> Any:
        """The JSON at a path; parameters that are None are left out. Of a list every page, unless
        the caller says where to begin or how much to get."""
        wanted = {name: value for name, value in parameters.items() if value is not None}
        response = self._request("GET", api_paths.checked(path), params=wanted)
        found = response.json()
        if isinstance(found, list) and not _OF_ONE_PAGE & set(wanted):
            while further := _next_of(response):
                response = self._request("GET", further)
                found += response.json()
        return found

    def post(self, path: str, content: Mapping[str, Any]) -> Any:
        return self._change("POST", path, json=dict(content)).json()

    def put(self, path: str, content: Mapping[str, Any], **parameters: Any) -> Any:
        return self._change("PUT", path, json=dict(content), params=parameters).json()

    def patch(self, path: str, content: Mapping[str, Any]) -> Any:
        return self._change("PATCH", path, json=dict(content)).json()

    def delete(self, path: str, **parameters: Any) -> None:
        self._change("DELETE", path, params=parameters)

    def _change(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Under a key of its own: it is made once, however often it has to be sent."""
        path = api_paths.checked(path)
        return self._request(method, path, headers={KEY_HEADER: str(uuid.uuid4())}, **options)

    def pages(self, path: str, key: str, **parameters: Any) -> Iterator[Any]:
        """Every row of a paged list; ``key`` names the number that pages go by."""
        after = 0
        while rows := self.get(path, after=after, **parameters):
            yield from rows
            after = rows[-1][key]

    def role(self, role: str) -> bytes:
        """The newest signed bytes of a TUF role.

        Raises:
            NotFound: no such role.
        """
        return self.content(f"/v1/trust/roles/{role}")

    def content(self, path: str) -> bytes:
        """Signed bytes at a path, as they are."""
        return self._request("GET", api_paths.checked(path)).content

    def release_document(self, model: str, version: str) -> bytes:
        return self.content(f"/v1/releases/{model}/{version}")

    def manifest(self, hardware_class: str) -> bytes:
        """The newest bundle of a class, as it was published."""
        return self.content(f"/v1/manifests/{hardware_class}")

    @contextmanager
    def artifact_at(self, digest: str, offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """An artifact from ``offset`` on, as `byte_stream.OpenAt` asks for."""
        url = f"{self.connection.api_url.rstrip('/')}/v1/artifacts/sha256/{digest}"
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": f'"{digest}"'}
        with connection_errors(url), self._client.stream("GET", url, headers=headers) as response:
            self._look_at_end(response)
            if response.status_code >= HTTPStatus.BAD_REQUEST:
                response.read()
                raise _problem(response)
            yield begins_at(response, offset), response.iter_raw()

    def has_artifact(self, digest: str) -> bool:
        try:
            self._request("HEAD", f"/v1/artifacts/sha256/{digest}")
        except (NotFound, ArtifactMissing):
            return False
        return True

    def put_artifact(self, digest: str, path: Path, progress: Progress | None = None) -> bool:
        """Upload a file unless the server has it; says whether it was sent.

        Raises:
            DigestMismatch: the file is not what the digest says. DiskFull, ServerUnavailable.
        """
        if self.has_artifact(digest):
            return False
        size = path.stat().st_size
        self._request(
            "PUT",
            f"/v1/artifacts/sha256/{digest}",
            # Made anew for every attempt: a generator can be read once.
            body=lambda: _read(path, progress),
            headers={"Content-Length": str(size)},
        )
        return True

    def submit(self, content: bytes) -> SubmissionReply:
        """Hand in an encoded Submission; a refusal is an answer, not an error."""
        response = self._request(
            "POST",
            "/v1/submissions",
            content=content,
            headers={"Content-Type": "application/vnd.msgpack"},
            answers=frozenset({HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}),
        )
        if response.headers.get("content-type", "").startswith("application/problem"):
            raise _problem(response)
        return SubmissionReply.model_validate_json(response.content)

    def _request(
        self,
        method: str,
        path: str,
        *,
        answers: frozenset[int] = frozenset(),
        body: Callable[[], Iterator[bytes]] | None = None,
        **options: Any,
    ) -> httpx2.Response:
        """One request, tried again while the server is busy or cannot be reached.

        Trying again is safe: the server answers 503 and 429 only when it has kept nothing, and a
        change under a key is made once.
        """
        for attempt in range(self._attempts_max):
            try:
                if body is not None:
                    options["content"] = body()
                response = self._client.request(method, path, **options)
            except httpx2.HTTPError as error:
                failure: MailboatError = self._unreachable(error)
                again = isinstance(error, httpx2.ConnectError) or _is_safe(options, error)
                wait_seconds = float(2**attempt)
            else:
                self._look_at_end(response)
                if response.is_success or response.status_code in answers:
                    return response
                failure = _problem(response)
                again = response.status_code in _BUSY
                wait_seconds = _retry_after(response, float(2**attempt))
            if not again or attempt == self._attempts_max - 1:
                raise failure
            self._sleep(min(wait_seconds, RETRY_AFTER_SECONDS_MAX))
        raise AssertionError("the loop returns or raises")

    def _look_at_end(self, response: httpx2.Response) -> None:
        ends = response.headers.get(TOKEN_ENDS_HEADER, "")[:10]
        if ends and ends.isprintable() and self._remind is not None:
            remind, self._remind = self._remind, None
            remind(f"Your token ends on {ends}: renew it with `mailboat token renew`.")

    def _unreachable(self, error: httpx2.HTTPError) -> ServerUnavailable:
        return ServerUnavailable(
            f"The controller at {self.connection.api_url} cannot be reached: "
            f"{error or type(error).__name__}.",
            next_step="check that `mailboat serve` runs there and that api_url in the "
            "connection file is right.",
        )


def _next_of(response: httpx2.Response) -> str | None:
    """The address of a list's next page, on the same controller."""
    further = response.links.get("next", {}).get("url")
    # Anywhere else the token does not go.
    return further if further is not None and further.startswith("/v1/") else None


def _is_safe(options: Mapping[str, Any], error: httpx2.HTTPError) -> bool:
    """Whether a change may be sent again although it may have arrived."""
    lost = isinstance(error, httpx2.RemoteProtocolError | httpx2.ReadError | httpx2.WriteError)
    return lost and KEY_HEADER in options.get("headers", {})


def tls_of(connection: Connection, directory: Path) -> ssl.SSLContext:
    """
    Raises:
        ConfigurationInvalid: CA, certificate or key cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=str(directory / connection.ca))
        if connection.certificate is not None and connection.key is not None:
            context.load_cert_chain(directory / connection.certificate, directory / connection.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationInvalid(
            f"The certificate of connection {connection.name} cannot be used: {error}.",
            next_step="keep ca, certificate and key beside the connection file, "
            "or issue the credential again.",
        ) from error
    return context


def _address(connection: Connection) -> httpx2.URL:
    try:
        return httpx2.URL(connection.api_url)
    except httpx2.InvalidURL as error:
        raise ConfigurationInvalid(
            f"The address {connection.api_url[:200]!r} of connection {connection.name} is none: "
            f"{error}.",
            next_step="write api_url like https://controller.example:8443 in the connection file.",
        ) from error


def _authorization(connection: Connection, directory: Path) -> dict[str, str]:
    if connection.token is None:
        return {}
    if not connection.api_url.lower().startswith("https://"):
        raise ConfigurationInvalid(
            f"The token of connection {connection.name} would travel unencrypted to "
            f"{connection.api_url[:200]!r}.",
            next_step="write api_url with https:// in the connection file.",
        )
    return {"Authorization": f"Bearer {load_token(directory / connection.token).text()}"}


def _read(path: Path, progress: Progress | None) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
            if progress is not None:
                progress(len(chunk))


def _retry_after(response: httpx2.Response, otherwise: float) -> float:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdigit() else otherwise


def _problem(response: httpx2.Response) -> MailboatError:
    return problem_in(response.status_code, response.headers, response.content)
