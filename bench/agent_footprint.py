"""What an agent costs a device that does nothing else: memory, processor, and the way back up.

A real agent process on an installed release, a real broker, TLS. Resident memory is that of the
agent's own process, without its workers; the processor time is that of an agent nobody asks
anything for ``IDLE_SECONDS``. The cold start is without broker and server, from the start of the
process to the first answered inference; what a bare onnxruntime takes to import and load the same
model is taken off, because every server would pay it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_process import AgentProcess

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from bench.serving import bar  # noqa: E402 - found by the line above, however this is started

RESIDENT_MIB_MAX = 60.0
IDLE_SHARE_MAX = 0.01  # of one core
COLD_START_SECONDS_MAX = 3.0  # besides loading the model
IDLE_SECONDS = 30.0
SETTLE_SECONDS = 10.0
STARTS = 5

_LOAD = """
import sys, time
began = time.monotonic()
import onnxruntime
onnxruntime.InferenceSession(open(sys.argv[1], "rb").read(), providers=["CPUExecutionProvider"])
print(time.monotonic() - began)
"""


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


def cpu_seconds(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def measure(directory: Path) -> dict[str, float]:
    from agent_process import AgentProcess, broker_that_retains
    from attack_siege import Stronghold, served

    stronghold = Stronghold(directory / "stronghold")
    siege = stronghold.besiege(directory / "device")
    model = next(path for path in sorted((stronghold.data / "store").iterdir()) if is_onnx(path))
    closed_port = 9  # nothing listens there: a device without network
    with (
        served(stronghold.certificates, siege.fleet) as server,
        broker_that_retains(directory / "broker", stronghold.certificates, siege.bundle) as port,
    ):
        agent = AgentProcess(
            directory / "device", stronghold.certificates, siege.fleet.factory_root, server.url
        )
        try:
            agent.start(port)
            first_answer(agent)
            time.sleep(SETTLE_SECONDS)
            assert agent.process is not None
            pid = agent.process.pid
            began, spent = time.monotonic(), cpu_seconds(pid)
            time.sleep(IDLE_SECONDS)
            idle = (cpu_seconds(pid) - spent) / (time.monotonic() - began)
            resident = resident_mib(pid)  # connected, reported, and at rest
            connected = json.loads((agent.data / "status.json").read_bytes())["connected"]
            assert connected, "an agent without its broker is not the one to measure"
        finally:
            agent.kill()
    starts = []
    for _ in range(STARTS):
        began = time.monotonic()
        agent.start(closed_port)
        try:
            first_answer(agent)
            starts.append(time.monotonic() - began)
        finally:
            agent.kill()
    loads = [
        float(subprocess.check_output([sys.executable, "-c", _LOAD, str(model)]))
        for _ in range(STARTS)
    ]
    return {
        "resident_mib": resident,
        "idle_share": idle,
        "cold_start_seconds": statistics.median(starts),
        "model_load_seconds": statistics.median(loads),
    }


def first_answer(agent: "AgentProcess") -> None:
    """Ask until it answers: 503 and refused connections are an agent on its way up."""
    from agent_process import until

    def answered() -> bool:
        try:
            agent.infer([0, 1, 2, 3])
        except OSError:
            return False
        return True

    until(answered)


def is_onnx(path: Path) -> bool:
    import onnx

    try:
        return bool(onnx.load_model_from_string(path.read_bytes()).graph.node)
    except Exception:  # noqa: BLE001 - the other files of the release are no models
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch))
    besides = found["cold_start_seconds"] - found["model_load_seconds"]
    held = [
        bar.at_most("resident without workers, MiB", found["resident_mib"], RESIDENT_MIB_MAX),
        bar.at_most("idle, % of a core", 100 * found["idle_share"], 100 * IDLE_SHARE_MAX),
        bar.at_most("start to first answer less load, s", besides, COLD_START_SECONDS_MAX),
    ]
    if options.json:
        print(bar.as_json(held, **found))
    else:
        print(f"{'start to first answer, s':44}{found['cold_start_seconds']:10.2f}")
        print(f"{'bare onnxruntime and model load, s':44}{found['model_load_seconds']:10.2f}")
        print("\n".join(each.told for each in held))
    return bar.status(held)


if __name__ == "__main__":
    sys.exit(main())
