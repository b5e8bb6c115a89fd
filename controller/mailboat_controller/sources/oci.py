"""An artifact in an OCI registry, as `oras push` makes it, as a source.

A manifest names files by title, digest and size; every byte is checked against it, and the manifest
against the reference's digest. What a tag stood for is resolved once and recorded.
Source: OCI distribution specification 1.1; OCI image specification 1.1, "Image Manifest".
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydantic import BaseModel, Field, ValidationError

from mailboat_controller.byte_stream import OpenAt
from mailboat_controller.https_stream import Answer, HttpsStream
from mailboat_controller.sources.oci_reference import OciReference
from mailboat_controller.sources.registry_access import Credentials, authorization
from mailboat_controller.sources.source import FILES_MAX, RemoteFile, SourceRefused
from mailboat_schemas.errors import (
    ArtifactMissing,
    DigestMismatch,
    MailboatError,
    NotPermitted,
    ServerUnavailable,
)

MANIFEST_BYTES_MAX = 4 << 20  # what the specification asks registries to take
MANIFEST_KINDS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.artifact.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"
_SHA256 = "sha256:"


class _Descriptor(BaseModel):
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    size: int = Field(ge=0)
    annotations: dict[str, str] = Field(default_factory=dict, max_length=64)


class _Manifest(BaseModel):
    layers: tuple[_Descriptor, ...] = Field(min_length=1, max_length=FILES_MAX)


class OciSource:
    def __init__(
        self, stream: HttpsStream, reference: OciReference, credentials: Credentials | None
    ) -> None:
        self._stream = stream
        self._reference = reference
        self._credentials = credentials
        self._base = f"https://{reference.registry}/v2/{reference.repository}"
        self._authorization: str | None = None
        self._digest = ""

    def files(self) -> Sequence[RemoteFile]:
        """The layers that have a title.

        Raises:
            SourceRefused: it is no manifest of files.
            DigestMismatch: it is not the manifest of that digest.
            PayloadTooLarge, ArtifactMissing, NotPermitted, ServerUnavailable, DownloadInterrupted
        """
        answer = self._manifest()
        self._digest = _SHA256 + hashlib.sha256(answer.content).hexdigest()
        claimed = self._reference.digest or answer.headers.get("docker-content-digest")
        if claimed and claimed.startswith(_SHA256) and claimed != self._digest:
            raise DigestMismatch("The registry's manifest", claimed, self._digest)
        files: list[RemoteFile] = []
        for layer in _parse(answer.content).layers:
            title = layer.annotations.get(TITLE)
            if title is None:
                continue
            if layer.annotations.get(UNPACK) == "true":
                raise SourceRefused(
                    f"{title[:80]!r} was pushed as a directory.",
                    next_step="push the files one by one: `oras push REFERENCE FILE …`.",
                )
            sha256 = layer.digest.removeprefix(_SHA256)
            files.append(RemoteFile(title, layer.size, layer.digest, sha256))
        if not files:
            raise SourceRefused(
                "The artifact has no layer with a title, so it holds no files by name.",
                next_step="push it with `oras push`; container images are none.",
            )
        return files

    def open_at(self, file: RemoteFile) -> OpenAt:
        url = f"{self._base}/blobs/{file.version}"

        @contextmanager
        def opened(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
            try:
                with self._stream.open_at(url, self._headers(), offset) as found:
                    yield found
                    return
            except NotPermitted:
                if self._authorization is None:
                    raise
            # A token lives for minutes, a large file takes longer.
            self._authorization = None
            self._manifest()
            with self._stream.open_at(url, self._headers(), offset) as found:
                yield found

        return opened

    def reference(self, tree_digest: str) -> str:
        del tree_digest  # the manifest's own digest covers everything
        return self._reference.pinned(self._digest)

    def _headers(self) -> dict[str, str]:
        return {} if self._authorization is None else {"Authorization": self._authorization}

    def _manifest(self) -> Answer:
        """Asked for without a login first, since only the answer says how to log in."""
        answer = self._ask_manifest()
        if answer.status == 401 and self._authorization is None:
            challenge = answer.headers.get("www-authenticate", "")
            self._authorization = authorization(
                self._stream, challenge, self._reference.repository, self._credentials
            )
            answer = self._ask_manifest()
        if answer.status != 200:
            raise _refusal(answer, self._reference)
        return answer

    def _ask_manifest(self) -> Answer:
        return self._stream.get(
            f"{self._base}/manifests/{self._reference.wanted}",
            {**self._headers(), "Accept": ", ".join(MANIFEST_KINDS)},
            kind="registry manifest",
            bytes_max=MANIFEST_BYTES_MAX,
        )


def _parse(content: bytes) -> _Manifest:
    try:
        return _Manifest.model_validate_json(content)
    except ValidationError as error:
        if _is_index(content):
            raise SourceRefused(
                "The reference names an index of several artifacts.",
                next_step="name one of them by its digest.",
            ) from error
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SourceRefused(
            f"The registry's manifest does not hold: {place}: {first['msg']}.",
            next_step="push the artifact with `oras push`.",
        ) from error


def _is_index(content: bytes) -> bool:
    try:
        return "manifests" in json.loads(content)
    except (ValueError, TypeError):
        return False


def _refusal(answer: Answer, reference: OciReference) -> MailboatError:
    what = f"{reference.registry} answers {answer.status} for {reference.repository}."
    if answer.status == 404:
        return ArtifactMissing(what, next_step="check repository, tag and digest.")
    if answer.status in (401, 403):
        return NotPermitted(what, next_step="check the credentials; see docs/sources.md.")
    if answer.status == 429 or answer.status >= 500:
        return ServerUnavailable(what, next_step="try again later.")
    return SourceRefused(what, next_step="is it an OCI registry?")
