"""The agent's front and runtime in a process of their own, serving one model as a device does.

    python -m bench.serving.ours ORDER    (a JSON object; see `main`)

Prints its port, and serves until its stdin closes. Each line that comes there is a version, to
which it switches; it prints the seconds that took.
"""

import hashlib
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mailboat_agent.sealed_memory import verified_memory
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_schemas.documents.health import Health
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import File, FileRole, Variant
from mailboat_schemas.documents.release import Runtime as RuntimeNeeds
from mailboat_schemas.documents.serving_policy import ServingPolicy

PEAK_BYTES = 1 << 30


def release(order: dict[str, Any], version: str = "1.0.0") -> ServedRelease:
    """``order``: model (a path), name, input, output (each name and shape of a row), threads,
    batch_size_max, batch_delay_ms_max."""
    content = Path(order["model"]).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    sides = {
        side: [{"name": order[side][0], "dtype": "float32", "shape": [-1, *order[side][1]]}]
        for side in ("input", "output")
    }
    return ServedRelease(
        model=order["name"],
        version=version,
        digest=hashlib.sha256(version.encode()).hexdigest(),
        interface=Interface.model_validate({"inputs": sides["input"], "outputs": sides["output"]}),
        variant=Variant(
            hardware_classes=("bench",),
            files=(File(path="m", role=FileRole.MODEL, sha256=digest, length=len(content)),),
            runtime=RuntimeNeeds(threads=order["threads"]),
            peak_memory=PEAK_BYTES,
            health=Health(),
            serving=ServingPolicy(
                batch_size_max=order["batch_size_max"],
                batch_delay_ms_max=order["batch_delay_ms_max"],
            ),
        ),
        model_fd=verified_memory([content], digest),
        memory_limit_bytes=PEAK_BYTES,
    )


def main() -> None:
    order = json.loads(sys.argv[1])
    runtime = Runtime(clock=lambda: datetime.now(UTC), spare_seconds=order.get("spare_seconds", 0))
    serve(runtime, order, "1.0.0")
    with Gateway(runtime, request_seconds_max=30) as gateway:
        print(gateway.address[1], flush=True)
        for line in sys.stdin:  # a version to switch to
            began = time.monotonic()
            serve(runtime, order, line.strip())
            print(time.monotonic() - began, flush=True)
    runtime.close()


def serve(runtime: Runtime, order: dict[str, Any], version: str) -> None:
    served = release(order, version)
    try:
        runtime.serve(served)
    finally:
        os.close(served.model_fd)


if __name__ == "__main__":
    main()
