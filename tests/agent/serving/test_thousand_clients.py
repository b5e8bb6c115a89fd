"""A thousand clients connected at once, in a process of their own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from mailboat_agent.serving.front.listeners import allow_descriptors
from mailboat_agent.serving.front.request import Patience
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
        while await ask(reader, writer) in (503, 504):
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


# As a crowd is: most ask as they should, the others are slow, silent, gone, or want too much.
MIXED = """
import asyncio, json, resource, socket, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
port = int(sys.argv[1])
body = json.dumps({"inputs": [
    {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).encode()
HEAD = b"POST /v2/models/m/infer HTTP/1.1\\r\\nhost: a\\r\\nmailboat-deadline-ms: 9000\\r\\n"
whole = HEAD + b"content-length: %d\\r\\n\\r\\n" % len(body) + body
found, longest, over, enough = {}, 0.0, asyncio.Event(), asyncio.Event()

def note(kind, what):
    told = found.setdefault(kind, {})
    told[str(what)] = told.get(str(what), 0) + 1

async def status(reader):
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\\r\\n\\r\\n"), 60)
        length = int(head.lower().split(b"content-length:")[1].split(b"\\r\\n")[0])
        await reader.readexactly(length)
        return int(head.split()[1])
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        return type(error).__name__
    except TimeoutError:
        return "no answer"

async def asks(reader, writer, times=3):  # as often as it takes, and until one has had enough
    done = 0
    while done < times or (times > 1 and not enough.is_set()):
        done += 1
        while True:
            writer.write(whole)
            if (answered := await status(reader)) not in (503, 504):
                break
            await asyncio.sleep(0.3)
        if answered != 200:
            return answered
    return 200

async def drips(reader, writer):  # slowly, and to the end
    for start in range(0, len(whole), 40):
        writer.write(whole[start:start + 40])
        await asyncio.sleep(0.1)
    answered = await status(reader)
    return answered if answered not in (503, 504) else await asks(reader, writer)

async def stalls_in_head(reader, writer):
    writer.write(whole[:30])
    return await status(reader)

async def stalls_in_body(reader, writer):
    writer.write(whole[:-5])
    return await status(reader)

async def announces_too_much(reader, writer):
    writer.write(HEAD + b"content-length: 17000000\\r\\n\\r\\n" + bytes(50_000))
    return await status(reader)

async def sends_too_much(reader, writer):  # in chunks, so that it shows only when it is there
    writer.write(HEAD + b"transfer-encoding: chunked\\r\\n\\r\\n")
    for _ in range(17):
        writer.write(b"100000\\r\\n" + bytes(1 << 20) + b"\\r\\n")
        try:
            await writer.drain()
        except ConnectionError:
            break
    return await status(reader)

async def has_large_headers(reader, writer):
    writer.write(HEAD + b"x: " + bytes(b"a") * 20_000)
    return await status(reader)

async def is_silent(reader, writer):
    await over.wait()
    return "silent"

async def goes_in_the_middle(reader, writer):
    writer.write(whole[:-5])
    await asyncio.sleep(0.1)
    writer.write_eof()
    return await status(reader)

async def never_reads(reader, writer):
    writer.transport.pause_reading()
    writer.write(whole)
    await over.wait()
    return "did not read"

CROWD = {asks: 700, drips: 50, stalls_in_head: 50, stalls_in_body: 50, announces_too_much: 40,
         sends_too_much: 4, has_large_headers: 26, is_silent: 40, goes_in_the_middle: 20,
         never_reads: 20}
assert sum(CROWD.values()) == 1000

async def client(behave, ready, start):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ready.release()
    await start.wait()
    note(behave.__name__, await behave(reader, writer))
    writer.transport.abort()

async def steady():
    global longest
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not over.is_set():
        began = time.monotonic()
        note("steady", await asks(reader, writer, 1))
        longest = max(longest, time.monotonic() - began)
        if found["steady"].get("200", 0) >= 6:
            enough.set()
        await asyncio.sleep(0.02)

async def main():
    ready, start = asyncio.Semaphore(0), asyncio.Event()
    tasks = {asyncio.create_task(client(behave, ready, start)): behave
             for behave, count in CROWD.items() for _ in range(count)}
    for _ in tasks:
        await ready.acquire()
    began = time.monotonic()
    start.set()
    along = asyncio.create_task(steady())
    await asyncio.gather(*(task for task, behave in tasks.items()
                           if behave not in (is_silent, never_reads)))
    seconds = time.monotonic() - began
    over.set()
    await asyncio.gather(*tasks, along)
    print(json.dumps({"found": found, "seconds": seconds, "longest": longest}))

asyncio.run(main())
"""


@contextmanager
def serving(patience: Patience | None = None) -> Iterator[Gateway]:
    allow_descriptors()
    runtime = Runtime(clock=lambda: datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
    with affine_release() as release:
        runtime.serve(release)
    with Gateway(runtime, patience=patience) as gateway:
        yield gateway
    runtime.close()


def run(program: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_thousand_clients_are_all_answered() -> None:
    with serving() as gateway:
        told = run(PROGRAM, gateway.address[1], CLIENTS, ROUNDS)

    assert told["statuses"]["200"] == CLIENTS * ROUNDS
    # A full queue says when to come again; whose time was over in it is told so.
    assert set(told["statuses"]) <= {"200", "503", "504"}


def test_among_a_thousand_clients_of_all_kinds_each_is_told_how_it_stands() -> None:
    """None that asked is without an answer, and who asks as it should is always answered."""
    with serving(Patience(head=12, body=12, answer=12)) as gateway:
        told = run(MIXED, gateway.address[1])
    found = told["found"]

    steady = found.pop("steady")
    assert set(steady) == {"200"}
    assert steady["200"] >= 6  # one that asks as it should, while all the others do as they do
    cut = {"ConnectionResetError", "BrokenPipeError"}  # who writes on hears either
    assert found.pop("sends_too_much").keys() <= {"413", "503"} | cut
    assert found == {
        "asks": {"200": 700},
        "drips": {"200": 50},
        "stalls_in_head": {"408": 50},
        "stalls_in_body": {"408": 50},
        "announces_too_much": {"413": 40},
        "has_large_headers": {"431": 26},
        "is_silent": {"silent": 40},
        "goes_in_the_middle": {"IncompleteReadError": 20},  # it has hung up
        "never_reads": {"did not read": 20},
    }
