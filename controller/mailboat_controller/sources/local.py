"""A directory on this disk as a source."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mailboat_controller.byte_stream import OpenAt
from mailboat_controller.sources.source import FILES_MAX, RemoteFile, SourceRefused
from mailboat_schemas.errors import ConfigurationInvalid, DownloadInterrupted

_READ_BYTES = 1 << 20


class DirectorySource:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def files(self) -> Sequence[RemoteFile]:
        """All but hidden ones.

        Raises:
            SourceRefused: a link, or another thing that is no file.
            ConfigurationInvalid: it cannot be read.
        """
        found: list[RemoteFile] = []
        try:
            for path in sorted(self._directory.rglob("*")):
                name = path.relative_to(self._directory)
                if any(part.startswith(".") for part in name.parts):
                    continue
                about = path.lstat()
                if stat.S_ISDIR(about.st_mode):
                    continue
                if not stat.S_ISREG(about.st_mode):
                    raise SourceRefused(
                        f"{path} is no file.", next_step="put the file itself there, not a link."
                    )
                version = f"{about.st_mtime_ns}-{about.st_size}"
                found.append(RemoteFile(name.as_posix(), about.st_size, version))
                if len(found) > FILES_MAX:
                    break  # `checked` says so
        except OSError as error:
            raise ConfigurationInvalid(
                f"{self._directory} cannot be read: {error.strerror}.",
                next_step="check the path and its rights.",
            ) from error
        return found

    def open_at(self, file: RemoteFile) -> OpenAt:
        path = self._directory / file.name

        @contextmanager
        def opened(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as error:
                raise DownloadInterrupted(
                    f"{path} cannot be read: {error.strerror}.", next_step="run it again."
                ) from error
            with os.fdopen(descriptor, "rb") as reader:
                reader.seek(offset)
                yield offset, iter(lambda: reader.read(_READ_BYTES), b"")

        return opened

    def reference(self, tree_digest: str) -> str:
        """Without its path: the same files give the same document on every machine."""
        return f"directory@sha256:{tree_digest}"
