"""The agent's trial, as a child process: controller and agent never import each other (ADR 0016).

Orders and answers are lines of JSON; `mailboat_agent.try_bundle` says which. A model runs in a
worker of that process, confined as on a device.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any, Self

from mailboat_schemas.errors import OperatorNeeded, ReleaseRejected, Transient

MODULE = "mailboat_agent.try_bundle"
# What the agent needs and a controller does not have by itself.
AGENT_LIBRARIES = ("onnxruntime", "numpy", "ddsketch", "psutil", "paho", "httpx2")
ANSWER_SECONDS_MAX = 2 * 3600  # a trial's own deadline is an hour at most; it is run twice at most
LAST_WORDS_BYTES_MAX = 2000
END_SECONDS_MAX = 2.0  # without an order it ends in a tenth of that


_LOOK_AT_IT = "look at the model with the same version of onnxruntime."


class AgentMissing(OperatorNeeded):
    """This machine cannot do what a device does."""

    code = "E-AGENT-MISSING"

    def __init__(self, missing: tuple[str, ...]) -> None:
        super().__init__(
            f"A model is tried by the agent's own code, and {', '.join(missing)} is not here.",
            next_step="install what it needs: pip install 'mailboat[controller,agent]'.",
        )


class DeviceProcessEnded(Transient):
    """The agent's process ended, or gave no answer in time. No verdict on the model."""

    code = "E-TRY-ENDED"


class ModelRefused(ReleaseRejected):
    """A device would refuse this model. ``kind`` says in what, if the worker said it."""

    code = "E-MODEL-REFUSED"

    def __init__(self, what: str, next_step: str, *, agent_code: str = "", kind: str = "") -> None:
        super().__init__(what, next_step=next_step)
        self.agent_code = agent_code
        self.kind = kind


class DeviceProcess:
    """One conversation with the agent's code; use it as a context manager."""

    def __init__(
        self,
        process: "subprocess.Popen[str]",
        stderr: IO[bytes],
        scratch: "tempfile.TemporaryDirectory[str]",
    ) -> None:
        self._process = process
        self._stderr = stderr
        self._scratch = scratch

    @classmethod
    def start(cls) -> Self:
        """
        Raises:
            AgentMissing: the extra ``agent`` is not installed.
        """
        missing = tuple(name for name in AGENT_LIBRARIES if importlib.util.find_spec(name) is None)
        if missing:
            raise AgentMissing(missing)
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        # Its temporary files go with this, however it ends.
        scratch = tempfile.TemporaryDirectory(prefix="mailboat-device-")
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | {"TMPDIR": scratch.name},
            # Ctrl-C is for the command, which ends it: a worker that dies of one has no verdict.
            start_new_session=True,
        )
        return cls(process, stderr, scratch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends it, and its workers, which die with it: at once if the command was interrupted."""
        if kind is not None and not issubclass(kind, Exception):
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # it is gone, with an order unread
                    pipe.close()
        try:
            self._process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()
        self._scratch.cleanup()

    def ask(
        self, order: Mapping[str, Any], *, seconds_max: float = ANSWER_SECONDS_MAX
    ) -> dict[str, Any]:
        """
        Raises:
            ModelRefused: the model is at fault, or what is around it.
            DeviceProcessEnded: no answer.
        """
        watchdog = threading.Timer(seconds_max, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            line = self._exchange(json.dumps(order))
        finally:
            watchdog.cancel()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:  # nothing, or cut off
            raise self._ended(seconds_max) from None
        if "error" in answer:
            error = answer["error"]
            if not error["verdict"]:
                raise DeviceProcessEnded(error["what"], next_step=error["next_step"])
            ended = error["code"] in ("E-WORKER-DIED", "E-WORKER-HUNG")
            next_step = _LOOK_AT_IT if ended else error["next_step"]
            raise ModelRefused(
                error["what"], next_step, agent_code=error["code"], kind=error["kind"]
            )
        return answer

    def _exchange(self, line: str) -> str:
        assert self._process.stdin is not None  # noqa: S101 - pipes, as started
        assert self._process.stdout is not None  # noqa: S101
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except OSError:
            return ""  # it is gone; said below

    def _ended(self, seconds_max: float) -> DeviceProcessEnded:
        self._process.kill()
        code = self._process.wait()
        size = self._stderr.seek(0, 2)
        self._stderr.seek(max(0, size - LAST_WORDS_BYTES_MAX))
        words = self._stderr.read().decode(errors="replace").strip().splitlines()
        said = f": {words[-1]}" if words else f" (exit status {code}, {seconds_max:.0f} s at most)"
        return DeviceProcessEnded(
            f"The agent's process ended without an answer{said}.",
            next_step="try again; if it repeats, run `mailboat-agent doctor` on this machine.",
        )
