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

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "support")]

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
    held = {
        "resident_mib": found["resident_mib"] <= RESIDENT_MIB_MAX,
        "idle_share": found["idle_share"] <= IDLE_SHARE_MAX,
        "cold_start_seconds": besides <= COLD_START_SECONDS_MAX,
    }
    if options.json:
        print(json.dumps({**found, "ok": all(held.values()), "held": held}))
    else:
        besides_load = f"{COLD_START_SECONDS_MAX:g} s besides"
        for what, value in (
            (
                "resident, without workers",
                f"{found['resident_mib']:.1f} MiB of {RESIDENT_MIB_MAX:g}",
            ),
            ("idle", f"{found['idle_share']:.2%} of a core, of {IDLE_SHARE_MAX:.0%}"),
            ("start to first answer", f"{found['cold_start_seconds']:.2f} s, of {besides_load}"),
            ("bare onnxruntime load", f"{found['model_load_seconds']:.2f} s"),
        ):
            print(f"{what:28}{value}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
