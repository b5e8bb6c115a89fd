"""What a source of files is, and the bounds on what it may offer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mailboat_controller.byte_stream import OpenAt
from mailboat_schemas.documents.release import ARTIFACT_BYTES_MAX
from mailboat_schemas.errors import ReleaseRejected

FILES_MAX = 1024  # offered in one place; a release takes 64 of them per variant
NAME_CHARS_MAX = 255
PART_SUFFIX = ".part"  # of what is on its way
# A name becomes a path here. Nothing hidden, nothing above, nothing a shell would stumble over.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}(?:/[A-Za-z0-9][A-Za-z0-9._+-]{0,127}){0,7}")


class SourceRefused(ReleaseRejected):
    """What a registry, bucket or directory offers is not what it says, or beyond a bound."""

    code = "E-SOURCE-REFUSED"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """``version`` tells one content of the name from another: a digest, an ETag, a time."""

    name: str
    length: int
    version: str
    sha256: str | None = None  # where the source says it; then it is checked


class Source(Protocol):
    """Three real ones: `OciSource`, `S3Source`, `DirectorySource`."""

    def files(self) -> Sequence[RemoteFile]:
        """What is there, each name once; raises what its kind raises."""
        ...

    def open_at(self, file: RemoteFile) -> OpenAt: ...

    def reference(self, tree_digest: str) -> str:
        """How a release document names this source: address and digest. ``tree_digest`` is of the
        files taken from it, for sources that have no digest of their own."""
        ...


def checked(files: Sequence[RemoteFile], where: str) -> tuple[RemoteFile, ...]:
    """
    Raises:
        SourceRefused: too many, too long, a name that is no path below a directory, or one twice.
    """
    if len(files) > FILES_MAX:
        raise SourceRefused(
            f"{where} offers {len(files)} files, more than {FILES_MAX}.",
            next_step="name a place that holds the files of one release.",
        )
    seen: set[str] = set()
    for file in files:
        plain = len(file.name) <= NAME_CHARS_MAX and _NAME.fullmatch(file.name)
        if not plain or file.name.endswith(PART_SUFFIX):
            raise SourceRefused(
                f"{where} offers a file called {file.name[:80]!r}.",
                next_step="rename it: letters, digits, '.', '_', '+' and '-', in plain folders.",
            )
        if file.name in seen or any(name.startswith(f"{file.name}/") for name in seen):
            raise SourceRefused(
                f"{where} offers {file.name!r} twice.", next_step="push every file once."
            )
        if not 0 <= file.length <= ARTIFACT_BYTES_MAX:
            raise SourceRefused(
                f"{where} offers {file.name!r} with {file.length} bytes, over "
                f"{ARTIFACT_BYTES_MAX}.",
                next_step="split the model, or quantise it.",
            )
        seen.add(file.name)
    return tuple(files)
