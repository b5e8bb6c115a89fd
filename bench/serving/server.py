"""A server in a process of its own, from its start to its end."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving.models import Model

ROOT = Path(__file__).parents[2]
END_SECONDS_MAX = 20


@dataclass(slots=True)
class Ours:
    port: int
    process: subprocess.Popen[str]

    def switch_to(self, version: str) -> float:
        """The seconds it took."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{version}\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"it ended with {self.process.wait(END_SECONDS_MAX)}")
        return line


@contextmanager
def ours(model: Model, scratch: Path, **more: Any) -> Iterator[Ours]:
    """``more``: threads, batch_size_max, batch_delay_ms_max, spare_seconds."""
    path = scratch / f"{model.name}.onnx"
    path.write_bytes(model.content)
    order = {
        "model": str(path),
        "name": model.name,
        "input": [model.input_name, model.row_shape],
        "output": [model.output_name, model.output_row_shape],
        "threads": 1,
        "batch_size_max": 1,
        "batch_delay_ms_max": 0,
    } | more
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.serving.ours", json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    try:
        server = Ours(0, process)
        server.port = int(server._line())
        yield server
        assert process.stdin is not None
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS_MAX)
    finally:
        process.kill()
        process.wait()
