"""A bucket, or a prefix in it, as a source: by obstore, as the artifact store opens its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import obstore

from mailboat_controller.artifacts.s3_refusals import explained
from mailboat_controller.byte_stream import OpenAt
from mailboat_controller.sources.source import FILES_MAX, RemoteFile, SourceRefused
from mailboat_schemas.errors import ArtifactMissing

RANGE_BYTES = 4 << 20  # of one request; each is tried again by itself


class S3Source:
    def __init__(self, bucket: Any, place: str) -> None:
        """``bucket`` is an obstore store that begins at the prefix, ``place`` its s3:// name."""
        self._bucket = bucket
        self._place = place.rstrip("/")

    def files(self) -> Sequence[RemoteFile]:
        found: list[RemoteFile] = []
        with explained(self._place):
            for page in obstore.list(self._bucket):
                found += [
                    RemoteFile(each["path"], each["size"], each["e_tag"] or "") for each in page
                ]
                if len(found) > FILES_MAX:
                    break  # `checked` says so
        return found

    def open_at(self, file: RemoteFile) -> OpenAt:
        @contextmanager
        def opened(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
            yield offset, self._ranges(file, offset)

        return opened

    def _ranges(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        while offset < file.length:
            end = min(offset + RANGE_BYTES, file.length)
            try:
                with explained(self._place):
                    answer = obstore.get(self._bucket, file.name, options={"range": (offset, end)})
                    if (answer.meta["e_tag"] or "") != file.version:
                        raise _changed(self._place, file.name)
                    chunk = bytes(answer.bytes())
            except FileNotFoundError as error:
                raise ArtifactMissing(
                    f"{self._place}/{file.name} has gone while it was read.",
                    next_step="run the command again.",
                ) from error
            if not chunk:
                return
            yield chunk
            offset += len(chunk)

    def reference(self, tree_digest: str) -> str:
        return f"{self._place}@sha256:{tree_digest}"


def _changed(place: str, name: str) -> SourceRefused:
    return SourceRefused(
        f"{place}/{name} has changed while it was read.",
        next_step="run the command again: what changed is fetched anew.",
    )
