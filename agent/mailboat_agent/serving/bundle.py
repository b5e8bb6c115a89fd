"""What a release brings along for its own code: the code, a tokenizer, labels, calibration data.

Each file is verified bytes behind a descriptor, which a worker gets from the agent and reads before
it gives up reading files. The agent itself never looks into any of them.
"""

import os
import socket
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mailboat_agent.serving.descriptor_passing import BUNDLE_BYTES_MAX, send_descriptor
from mailboat_agent.serving.gate_failed import GateFailed
from mailboat_schemas.documents.release import File, FileRole, Variant

# The rest is for others: the agent reads golden samples and references, people read model cards.
CODE_ROLES = (FileRole.PREPROCESS, FileRole.POSTPROCESS, FileRole.CHECK)
DATA_ROLES = (FileRole.TOKENIZER, FileRole.LABELS, FileRole.CALIBRATION, FileRole.OTHER)


class BundleFile:
    """One file. The descriptor is closed with the last one who holds this object."""

    def __init__(self, file: File, descriptor: int) -> None:
        """Takes the descriptor of verified bytes."""
        self.path = file.path
        self.role = file.role
        self.sha256 = file.sha256
        self.length = file.length
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def described(self) -> dict[str, Any]:
        """For a frame."""
        return {
            "path": self.path,
            "role": self.role.value,
            "sha256": self.sha256,
            "bytes": self.length,
        }

    def send(self, sock: socket.socket) -> None:
        send_descriptor(sock, self._descriptor)


@dataclass(frozen=True, slots=True)
class Bundle:
    files: tuple[BundleFile, ...] = ()

    @property
    def for_serving(self) -> tuple[BundleFile, ...]:
        return tuple(file for file in self.files if file.role is not FileRole.CHECK)

    @property
    def check(self) -> BundleFile | None:
        return next((file for file in self.files if file.role is FileRole.CHECK), None)


NO_BUNDLE = Bundle()


def open_bundle(variant: Variant, open_file: Callable[[File], int]) -> Bundle:
    """Nothing for a release without code of its own. ``open_file`` gives a descriptor to keep.

    Raises:
        GateFailed, and as ``open_file``
    """
    roles = {file.role for file in variant.files}
    if roles.isdisjoint(CODE_ROLES):
        return NO_BUNDLE
    wanted = [file for file in variant.files if file.role in (*CODE_ROLES, *DATA_ROLES)]
    size = sum(file.length for file in wanted)
    if size > BUNDLE_BYTES_MAX:
        raise GateFailed(
            "bundle_too_large",
            f"The release's code is given files of {size} bytes; {BUNDLE_BYTES_MAX} are allowed.",
            {"bytes": size, "bytes_max": BUNDLE_BYTES_MAX},
        )
    return Bundle(tuple(BundleFile(file, open_file(file)) for file in wanted))
