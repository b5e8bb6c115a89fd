"""The client: as many connections as asked for, each sending its next request once it has the last.

Bodies are made before the clock runs and answers are read but not parsed, so that what is measured
is the server. One for all servers.
"""

import http.client
import json
import threading
import time
from dataclasses import dataclass, field

from bench.serving.models import Model

WARM_UP_SECONDS = 0.7
TIMEOUT_SECONDS = 60
RECONNECT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    body: bytes
    headers: dict[str, str]


@dataclass(slots=True)
class Found:
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    failed: int = 0

    @property
    def per_second(self) -> float:
        return len(self.latencies_ms) / self.seconds if self.seconds else 0.0


def request(model: Model, rows: int, *, binary: bool) -> Request:
    """Open Inference Protocol, with JSON or with the binary extension, both ways."""
    data = model.rows(rows)
    entry: dict[str, object] = {
        "name": model.input_name,
        "shape": [rows, *model.row_shape],
        "datatype": "FP32",
    }
    content: dict[str, object] = {"inputs": [entry]}
    headers = {"content-type": "application/json"}
    path = f"/v2/models/{model.name}/infer"
    if not binary:
        entry["data"] = memoryview(data).cast("f").tolist()
        return Request(path, json.dumps(content).encode(), headers)
    entry["parameters"] = {"binary_data_size": len(data)}
    content["parameters"] = {"binary_data_output": True}
    head = json.dumps(content).encode()
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(head)),
    }
    return Request(path, head + data, headers)


def run(port: int, asked: Request, *, clients: int, seconds: float) -> Found:
    """Ask for so long after a warm-up."""
    found, lock = Found(), threading.Lock()
    begin = time.perf_counter() + WARM_UP_SECONDS
    end = begin + seconds

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        latencies, failed = [], 0
        while (began := time.perf_counter()) < end:
            try:
                connection.request("POST", asked.path, asked.body, asked.headers)
                answer = connection.getresponse()
                answer.read()
                answered = answer.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()  # the next request connects again
                time.sleep(RECONNECT_SECONDS)
                answered = False
            if began < begin:
                continue
            if answered:
                latencies.append((time.perf_counter() - began) * 1000)
            else:
                failed += 1
        connection.close()
        with lock:
            found.latencies_ms += latencies
            found.failed += failed

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The last of each began before the end and came after it; it is counted, and so is its time.
    found.seconds = time.perf_counter() - begin
    return found
