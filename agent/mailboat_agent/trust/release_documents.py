"""The release documents that this device holds: kept under their digest, read and parsed once."""

import hashlib
from collections.abc import Set as AbstractSet
from contextlib import suppress

from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.atomic_file import DiskFailing
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.documents.release import DOCUMENT_BYTES_MAX, ReleaseDocument
from mailboat_schemas.errors import ArtifactMissing, MailboatError, ReleaseRejected


class ReleaseDocuments:
    def __init__(self, store: ReleaseStore) -> None:
        self._store = store
        self._parsed: dict[str, ReleaseDocument] = {}

    def get(self, digest: str) -> ReleaseDocument | None:
        """Checked against its digest; None when it is not here, damaged, or no document."""
        found = self._parsed.get(digest)
        if found is None:
            try:
                content = self._store.read_verified(digest, DOCUMENT_BYTES_MAX)
                found = ReleaseDocument.parse(content)
            except (ArtifactMissing, DiskFailing, ReleaseRejected):
                return None
            self._parsed[digest] = found
        return found

    def keep(self, bundle: ManifestBundle, digest: str) -> bool:
        """Take it from a bundle that has it, or repair it; whether it was lacking.

        Raises:
            DiskFull, DiskFailing
        """
        content = bundle.documents.get(digest)
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            return False
        was_lacking = not self._store.has(digest)
        self._store.put(content)
        return was_lacking

    def bring(self, payload: bytes, digest: str) -> None:
        """Take it from the bytes of a bundle, if it is lacking and can be had there."""
        if payload and self.get(digest) is None:
            with suppress(MailboatError):
                self.keep(decode(ManifestBundle, payload), digest)

    def put_back(self, digest: str) -> None:
        """
        Raises:
            DiskFull, DiskFailing
        """
        held = self._parsed.get(digest)
        if held is None or self._store.has(digest):
            return
        content = held.canonical_bytes()
        if hashlib.sha256(content).hexdigest() == digest:
            self._store.put(content)

    def forget_but(self, keep: AbstractSet[str]) -> None:
        """Drop what was read of documents that nothing names any more."""
        self._parsed = {d: each for d, each in self._parsed.items() if d in keep}
