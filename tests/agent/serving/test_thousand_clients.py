"""A thousand clients connected at once, in a process of their own."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from mailboat_agent.serving.front.listeners import allow_descriptors
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.runtime import Runtime
from serving_models import affine_release

pytestmark = pytest.mark.slow
CLIENTS, ROUNDS = 1000, 5

# All connect first, and stay connected; each then asks as often as it takes to be answered.
PROGRAM = """
import asyncio, json, resource, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
port, clients, rounds = map(int, sys.argv[1:])
body = json.dumps({"inputs": [
    {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).encode()
request = (b"POST /v2/models/m/infer HTTP/1.1\\r\\nhost: a\\r\\nmailboat-deadline-ms: 9000\\r\\n"
           b"content-length: %d\\r\\n\\r\\n" % len(body)) + body
waits_ms, statuses = [], {}

async def ask(reader, writer):
    writer.write(request)
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\\r\\n")[0])
    await reader.readexactly(length)
    status = int(head.split()[1])
    statuses[status] = statuses.get(status, 0) + 1
    return status

async def client(ready, start):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ready.release()
    await start.wait()
    for _ in range(rounds):
        began = time.monotonic()
        while await ask(reader, writer) == 503:
            await asyncio.sleep(0.2)
        waits_ms.append((time.monotonic() - began) * 1000)
    writer.close()

async def main():
    ready, start = asyncio.Semaphore(0), asyncio.Event()
    tasks = [asyncio.create_task(client(ready, start)) for _ in range(clients)]
    for _ in range(clients):
        await ready.acquire()
    began = time.monotonic()
    start.set()
    await asyncio.gather(*tasks)
    seconds = time.monotonic() - began
    waits_ms.sort()
    print(json.dumps({"statuses": statuses, "seconds": seconds,
        "p50_ms": waits_ms[len(waits_ms) // 2], "p99_ms": waits_ms[len(waits_ms) * 99 // 100]}))

asyncio.run(main())
"""


def test_a_thousand_clients_are_all_answered() -> None:
    allow_descriptors()
    runtime = Runtime(clock=lambda: datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
    with affine_release() as release:
        runtime.serve(release)
    with Gateway(runtime) as gateway:
        command = [sys.executable, "-c", PROGRAM, str(gateway.address[1]), str(CLIENTS)]
        done = subprocess.run(
            [*command, str(ROUNDS)], capture_output=True, text=True, timeout=120, check=False
        )
    runtime.close()

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["statuses"]["200"] == CLIENTS * ROUNDS
    assert set(told["statuses"]) <= {"200", "503"}  # a full queue says when to come again
