"""A release's files, opened from verified bytes: what is loaded is what was signed."""

import logging
import os
from contextlib import ExitStack

from mailboat_agent.artifacts import sealed_store
from mailboat_agent.artifacts.content_keys import ContentKeys
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.sealed_memory import in_memory
from mailboat_agent.serving.bundle import Bundle, open_bundle
from mailboat_agent.serving.golden import read_golden
from mailboat_agent.serving.reference_file import read_reference
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.reference import Reference
from mailboat_schemas.documents.release import File, FileRole, Variant
from mailboat_schemas.errors import MailboatError

WARM_UP_FILE_BYTES_MAX = 4 << 20  # of golden samples that are read for it
WARM_UP_BYTES_MAX = 1 << 20  # kept as long as the release serves, for a worker that starts again
_log = logging.getLogger(__name__)


class VerifiedFiles:
    """Each method may raise DigestMismatch or ArtifactMissing (the file is damaged; it was set
    aside), SealedDamaged, and Transient."""

    def __init__(self, store: ReleaseStore, content_keys: ContentKeys) -> None:
        self._store = store
        self._content_keys = content_keys

    def bundle(self, variant: Variant) -> Bundle:
        return open_bundle(variant, self._descriptor)

    def reference(self, variant: Variant, opened: ExitStack) -> Reference | None:
        """The release's reference statistics; None without any, or if they cannot be read: then
        the release serves all the same, and its soak is not passed.
        """
        file = variant.file_of_role(FileRole.REFERENCE)
        try:
            return None if file is None else read_reference(self.open(file, opened), file.sha256)
        except MailboatError as error:
            _log.warning("Drift is not watched: %s", error)
            return None

    def open(self, file: File, opened: ExitStack) -> int:
        descriptor = self._descriptor(file)
        opened.callback(os.close, descriptor)
        return descriptor

    def _descriptor(self, file: File) -> int:
        """Of verified bytes; the caller's to close."""
        if file.sealed is None:
            return in_memory(self._store.open_verified(file.sha256), file.sha256)
        return sealed_store.open_into_memory(self._store, self._content_keys, file, file.sealed)

    def warm_up(self, variant: Variant, opened: ExitStack) -> tuple[Tensor, ...]:
        """The inputs of the first golden sample, unless it takes long to have them."""
        golden = variant.file_of_role(FileRole.GOLDEN)
        if golden is None or golden.length > WARM_UP_FILE_BYTES_MAX:
            return ()
        try:
            inputs = read_golden(self.open(golden, opened)).inputs[0]
        except MailboatError as error:  # the model is whole; it warms up with zeros
            _log.warning("The golden samples of %s are of no use: %s", golden.path, error)
            return ()
        return inputs if sum(len(each.data) for each in inputs) <= WARM_UP_BYTES_MAX else ()
