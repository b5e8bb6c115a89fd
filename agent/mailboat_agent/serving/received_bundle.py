"""The release's own files as a worker has them, and what it does with them."""

import hashlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mailboat_agent.sealed_memory import is_sealed
from mailboat_agent.serving.descriptor_passing import BUNDLE_BYTES_MAX, receive_descriptor
from mailboat_agent.serving.request_failed import RequestFailed

if TYPE_CHECKING:
    from mailboat_agent.serving.arrays import Array
    from mailboat_agent.serving.pipeline import Pipeline, Port

_CHECK = "check"


def import_what_code_needs() -> None:
    """The last moment at which this process can read a file."""
    import mailboat_agent.serving.check_code  # noqa: F401
    from mailboat_agent.serving.pipeline import import_what_code_may_use

    import_what_code_may_use()


class ReceivedBundle:
    """Filled before the model is loaded; nothing of it is looked into until after that."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[str, bytes]] = {}  # role and bytes, by path
        self._size_bytes = 0

    def take(self, sock: socket.socket, request: Mapping[str, Any]) -> None:
        """
        Raises:
            RequestFailed: other bytes than were verified, or too many.
        """
        descriptor = receive_descriptor(sock)
        try:
            content = self._read(descriptor, request)
        finally:
            os.close(descriptor)
        self._files[request["path"]] = (request["role"], content)

    def _read(self, descriptor: int, request: Mapping[str, Any]) -> bytes:
        size, path = request["bytes"], request["path"]
        self._size_bytes += size
        if self._size_bytes > BUNDLE_BYTES_MAX:
            raise RequestFailed("load_failed", f"its files are over {BUNDLE_BYTES_MAX} bytes")
        content = os.pread(descriptor, size, 0)
        if len(content) != size:
            raise RequestFailed("altered", f"{path} has {len(content)} bytes, not {size}")
        if not is_sealed(descriptor):
            actual = hashlib.sha256(content).hexdigest()
            if actual != request["sha256"]:
                raise RequestFailed(
                    "altered", f"the sha256 of {path} is {actual}, not {request['sha256']}"
                )
        return content

    def pipeline(
        self,
        wanted: Mapping[str, Any] | None,
        *,
        model_inputs: "Sequence[Port]",
        model_outputs: Sequence[str],
    ) -> "Pipeline | None":
        """
        Raises:
            PipelineFailed
        """
        if wanted is None:
            return None
        from mailboat_agent.serving.pipeline import Pipeline

        files = {path: file for path, file in self._files.items() if file[0] != _CHECK}
        return Pipeline(wanted, files, model_inputs=model_inputs, model_outputs=model_outputs)

    def check(
        self,
        question: str,
        run: "Callable[[Sequence[str], Mapping[str, Array]], list[Any]]",
        output_names: Sequence[str],
    ) -> dict[str, Any]:
        """What the release's own check said; ``run`` answers as the release does.

        Raises:
            RequestFailed: there is none.
        """
        found = [(path, content) for path, (role, content) in self._files.items() if role == _CHECK]
        if len(found) != 1:
            raise RequestFailed("protocol", "there is no check to run")
        from mailboat_agent.serving.check_code import run_check

        def infer(inputs: Mapping[str, Any]) -> dict[str, Any]:
            return dict(zip(output_names, run(output_names, inputs), strict=True))

        data = {path: content for path, (role, content) in self._files.items() if role != _CHECK}
        return run_check(*found[0], question, infer=infer, bundle=data)
