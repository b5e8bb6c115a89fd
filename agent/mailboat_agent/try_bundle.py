"""A device's part on a developer's machine: ``python -m mailboat_agent.try_bundle``.

`mailboat model` starts it where the agent is installed, too, because controller and agent never
import each other. One order a line as JSON on stdin, one answer a line as JSON on stdout, until
stdin ends:

```text
{"op": "open", "model": path, "providers", "threads", "memory_bytes", "seconds_max",
 "pipeline": null or {"preprocess", "postprocess", "outputs": [[name, datatype, shape]]},
 "files": [{"path", "role", "source"}] that its functions are given}
    -> {"runtime", "provider", "inputs": [[name, datatype, shape]], "outputs": [...]}
{"op": "infer", "inputs": path of .npz, "answers": path to write, "seconds_max"}
    -> {"samples", "run_ms": [...], "peak_memory_bytes"}
{"op": "try", "document": path, "files": {sha256: path}, "hardware_class", "memory_budget_bytes"}
    -> {"passed": true, "report": {...}} or {"passed": false, "reason", "what", "evidence"}
any -> {"error": {"code", "what", "next_step", "kind", "verdict": whether it is on the model}}
```

A trial here is `Workbench.run_trial`, the call that the device makes, on a store of its own.
"""

import asyncio
import ctypes
import dataclasses
import hashlib
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NoReturn

import msgpack

from mailboat_agent.artifacts.content_keys import ContentKeys
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.facts import Device
from mailboat_agent.sealed_memory import in_memory
from mailboat_agent.serving.bundle import BundleFile
from mailboat_agent.serving.descriptor_passing import BUNDLE_BYTES_MAX
from mailboat_agent.serving.golden import GOLDEN_BYTES_MAX, read_golden
from mailboat_agent.serving.process import (
    InferenceFailed,
    Worker,
    WorkerDied,
    WorkerHung,
    WorkerOptions,
)
from mailboat_agent.serving.requirements import hard_limit_bytes
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.trial import GateFailed
from mailboat_agent.serving.worker_values import PipelineOptions, Port
from mailboat_agent.work import Workbench
from mailboat_schemas.documents.release import File, FileRole, ReleaseDocument, Variant
from mailboat_schemas.errors import MailboatError, OperatorNeeded, ReleaseRejected

# Nothing is served and nothing is reported here, so no time has to be right.
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_PR_SET_PDEATHSIG = 1
_COPY_BYTES = 1 << 20


class AnswersTooLarge(ReleaseRejected):
    """The outputs of all samples are more than a file of golden samples may hold."""

    code = "E-GOLDEN-TOO-LARGE"


class BundleTooLarge(ReleaseRejected):
    """The files that a release's own code is given are more than a worker takes."""

    code = "E-BUNDLE-TOO-LARGE"


class Trier:
    """Carries out orders. One model is open at a time; `close` ends its worker."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        """
        Raises:
            MailboatError: as the device would; ValueError, KeyError for no order at all.
        """
        match order["op"]:
            case "open":
                return self._open(order)
            case "infer":
                return self._infer(order)
            case "try":
                return _try(order)
        raise ValueError(f"unknown order {order['op']!r}")

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def _open(self, order: dict[str, Any]) -> dict[str, Any]:
        self.close()
        path = Path(order["model"])
        sha256 = _sha256(path)
        model_fd = in_memory(os.open(path, os.O_RDONLY | os.O_CLOEXEC), sha256)
        try:
            self._worker = worker = Worker.start(model_fd)
        finally:
            os.close(model_fd)
        held = worker.facts.providers
        provider = next((name for name in order["providers"] if name in held), "")
        if not provider:
            raise OperatorNeeded(
                f"None of {', '.join(order['providers'])} is here; onnxruntime has "
                f"{', '.join(held)}.",
                next_step="name a provider that this machine has, or build where the device's is.",
            )
        options = WorkerOptions(
            providers=(provider,),
            threads=order["threads"],
            memory_limit_bytes=hard_limit_bytes(order["memory_bytes"], order["threads"]),
            model_sha256=sha256,
            pipeline=_pipeline_options(order.get("pipeline")),
        )
        session = worker.load(
            options,
            bundle=_bundle_files(order.get("files", ())),
            deadline_seconds=order["seconds_max"],
        )
        return {
            "runtime": worker.facts.version,
            "provider": provider,
            "inputs": [[port.name, port.datatype, list(port.shape)] for port in session.inputs],
            "outputs": [[port.name, port.datatype, list(port.shape)] for port in session.outputs],
        }

    def _infer(self, order: dict[str, Any]) -> dict[str, Any]:
        if self._worker is None:
            raise ValueError("no model is open")
        inputs_fd = os.open(order["inputs"], os.O_RDONLY | os.O_CLOEXEC)
        try:
            samples = read_golden(inputs_fd).inputs
        finally:
            os.close(inputs_fd)
        answers: list[list[Any]] = []
        run_ms: list[float] = []
        size_bytes = 0
        for inputs in samples:
            answer = self._worker.infer(inputs, deadline_seconds=order["seconds_max"])
            size_bytes += sum(len(tensor.data) for tensor in answer.outputs)
            if size_bytes > GOLDEN_BYTES_MAX:
                raise AnswersTooLarge(
                    f"The outputs of {len(answers) + 1} samples are over {GOLDEN_BYTES_MAX} bytes.",
                    next_step="build with fewer samples: --samples N, or less data.",
                )
            answers.append([tensor.to_wire() for tensor in answer.outputs])
            run_ms.append(answer.run_ms)
        Path(order["answers"]).write_bytes(msgpack.packb(answers))
        return {
            "samples": len(answers),
            "run_ms": run_ms,
            "peak_memory_bytes": self._worker.peak_memory_bytes(),
        }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pipeline_options(told: dict[str, Any] | None) -> PipelineOptions | None:
    if told is None:
        return None
    outputs = (Port(name, datatype, tuple(shape)) for name, datatype, shape in told["outputs"])
    return PipelineOptions(told["preprocess"], told["postprocess"], tuple(outputs))


def _bundle_files(told: Sequence[dict[str, str]]) -> tuple[BundleFile, ...]:
    """What the release's own code is given, as after a download: sealed, and of this digest.

    Raises:
        BundleTooLarge
    """
    sizes = sum(Path(each["source"]).stat().st_size for each in told)
    if sizes > BUNDLE_BYTES_MAX:
        raise BundleTooLarge(
            f"The release's own code is given files of {sizes} bytes; {BUNDLE_BYTES_MAX} are "
            "allowed.",
            next_step="leave out what it does not read.",
        )
    return tuple(_bundle_file(each) for each in told)


def _bundle_file(told: dict[str, str]) -> BundleFile:
    source = Path(told["source"])
    sha256 = _sha256(source)
    descriptor = in_memory(os.open(source, os.O_RDONLY | os.O_CLOEXEC), sha256)
    length = os.fstat(descriptor).st_size
    file = File(path=told["path"], role=FileRole(told["role"]), sha256=sha256, length=length)
    return BundleFile(file, descriptor)


def _try(order: dict[str, Any]) -> dict[str, Any]:
    document = ReleaseDocument.parse(Path(order["document"]).read_bytes())
    hardware_class, budget = order["hardware_class"], order["memory_budget_bytes"]
    with tempfile.TemporaryDirectory(prefix="mailboat-trial-") as scratch, ExitStack() as opened:
        store = ReleaseStore(Path(scratch))
        _admit_files(store, document.variant_for(hardware_class), order["files"])
        runtime = Runtime(clock=lambda: _NO_TIME)
        opened.callback(runtime.close)
        bench = Workbench(
            store=store,
            content_keys=ContentKeys(
                store.content_keys, _device(hardware_class, budget), tuple, _no_source
            ),
            source=_no_source,
            runtime=runtime,
            hardware_class=hardware_class,
            memory_budget_bytes=budget,
        )
        try:
            report = asyncio.run(bench.run_trial(document))
        except GateFailed as error:
            return {
                "passed": False,
                "reason": error.reason,
                "what": error.what,
                "evidence": error.evidence,
            }
    return {"passed": True, "report": dataclasses.asdict(report)}


def _admit_files(store: ReleaseStore, variant: Variant | None, places: dict[str, str]) -> None:
    """As after a download: hashed, durable, read-only. The build's own files are left alone."""
    for file in variant.files if variant is not None else ():
        staged = store.staging_path(file.sha256)
        with open(places[file.sha256], "rb") as source, staged.open("wb") as target:  # noqa: PTH123
            # One byte more than it may have is enough to be refused for; a terabyte is not copied.
            _copy(source, target, file.length + 1)
        store.admit(file.sha256, file.length)


def _copy(source: IO[bytes], target: IO[bytes], bytes_max: int) -> None:
    while bytes_max > 0 and (chunk := source.read(min(_COPY_BYTES, bytes_max))):
        target.write(chunk)
        bytes_max -= len(chunk)


def _device(hardware_class: str, memory_budget_bytes: int) -> Device:
    return Device(
        device="this-machine",
        fleet="none",
        hardware_class=hardware_class,
        site="",
        labels={},
        enrolment_number=0,
        memory_budget_bytes=memory_budget_bytes,
        disk_budget_bytes=None,
        arch=platform.machine(),
        agent_version=version("mailboat"),
    )


def _no_source() -> NoReturn:
    raise AssertionError("a trial fetches nothing")


def main() -> None:
    """Answer orders until stdin ends, or whoever asks is no more."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # What a library or a worker prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    trier = Trier()
    for line in sys.stdin:
        try:
            answer = trier.carry_out(json.loads(line))
        except MailboatError as error:
            trier.close()
            kind = error.kind if isinstance(error, InferenceFailed) else ""
            verdict = isinstance(error, (ReleaseRejected, WorkerDied, WorkerHung))
            answer = {
                "error": {
                    "code": error.code,
                    "what": error.what,
                    "next_step": error.next_step,
                    "kind": kind,
                    "verdict": verdict,
                }
            }
        # A model may call its tensors anything; JSON has a way to write all of it.
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()
    trier.close()


if __name__ == "__main__":
    main()
