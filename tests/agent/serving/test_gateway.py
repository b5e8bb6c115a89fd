import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnxruntime
import pytest

from mailboat_agent.serving.admission import QUEUE_REQUESTS_MAX
from mailboat_agent.serving.front.request import REQUEST_BYTES_MAX, Patience
from mailboat_agent.serving.front.room import Room
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.runtime import Runtime
from mailboat_schemas.errors import ConfigurationInvalid


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Runtime, Gateway]]:
    """One gateway for all of these tests; each finds it without a model."""
    runtime = Runtime(clock=lambda: datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
    with Gateway(runtime, version="1.2.3", request_seconds_max=60) as gateway:
        yield runtime, gateway
    runtime.close()


@pytest.fixture
def runtime(serving: tuple[Runtime, Gateway]) -> Iterator[Runtime]:
    yield serving[0]
    serving[0].stop("m")


@pytest.fixture
def gateway(serving: tuple[Runtime, Gateway]) -> Gateway:
    return serving[1]


def call(
    gateway: Gateway, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Status, JSON, and headers in lower case."""
    connection = http.client.HTTPConnection(*gateway.address, timeout=60)
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        answer = json.loads(response.read() or b"null")
    finally:
        connection.close()
    return response.status, answer, {k.lower(): v for k, v in response.getheaders()}


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.02)


def request(values: Any = ((1.0, 2.0, 3.0, 4.0),), **changes: Any) -> dict[str, Any]:
    array = np.asarray(values, np.float32)
    tensor = {
        "name": "x",
        "shape": list(array.shape),
        "datatype": "FP32",
        "data": array.ravel().tolist(),
    }
    return {"inputs": [tensor | changes]}


def test_an_answer_equals_a_direct_run(
    gateway: Gateway, runtime: Runtime, bench: Any, models: Any
) -> None:
    model = models.affine(0.3)
    release = bench.release(model)
    runtime.serve(release)
    inputs = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    direct = onnxruntime.InferenceSession(model).run(["y"], {"x": inputs})[0]

    status, answer, headers = call(
        gateway, "POST", "/v2/models/m/infer", {"id": "abc", **request(inputs)}
    )

    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("m", "1.0.0", "abc")
    assert headers["mailboat-release"] == release.digest
    (y,) = answer["outputs"]
    assert (y["name"], y["datatype"], y["shape"]) == ("y", "FP32", [5, 4])
    assert np.array_equal(np.array(y["data"], np.float32).reshape(5, 4), direct)


def test_health_and_metadata(gateway: Gateway, runtime: Runtime, bench: Any, models: Any) -> None:
    assert call(gateway, "GET", "/v2/health/live")[0] == 200
    assert call(gateway, "GET", "/v2/health/ready")[0] == 503  # nothing is served yet
    release = bench.release(models.affine())
    runtime.serve(release)

    assert call(gateway, "GET", "/v2/health/ready")[:2] == (200, {"ready": True})
    about = call(gateway, "GET", "/v2")[1]
    assert (about["name"], about["version"]) == ("mailboat", "1.2.3")
    assert "binary_tensor_data" in about["extensions"]
    for path in ("/v2/models/m", "/v2/models/m/versions/1.0.0"):
        status, metadata, _ = call(gateway, "GET", path)
        assert status == 200
        assert metadata["name"] == "m"
        assert metadata["versions"] == ["1.0.0"]
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        assert metadata["parameters"]["release"] == release.digest
        assert call(gateway, "GET", f"{path}/ready")[:2] == (200, {"name": "m", "ready": True})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("GET", "/v2/models/m/versions/9.9.9", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/m/versions/9.9.9/infer", 404),
        ("GET", "/v2/models/m/infer", 405),
        ("POST", "/v2/models/m", 405),
        ("GET", "/v2/models/../../etc/passwd", 404),
    ],
)
def test_what_is_not_there_is_said_so(
    gateway: Gateway, runtime: Runtime, bench: Any, models: Any, method: str, path: str, status: int
) -> None:
    runtime.serve(bench.release(models.affine()))
    got, answer, _ = call(gateway, method, path, request() if method == "POST" else None)

    assert got == status
    assert set(answer) == {"error"}


def test_bad_requests_are_400_with_the_reason(
    gateway: Gateway, runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    wrong: dict[str, Any] = {
        "not JSON": b"{",
        "FLOAT32": request(datatype="FLOAT32"),
        "elements": request(shape=[2, 4]),
        "no input 'z'": request(name="z"),
        "takes FP32": request(datatype="FP64"),
        "takes [-1, 4]": request(np.ones((1, 5))),
        "no output 'q'": {**request(), "outputs": [{"name": "q"}]},
        "a str.": request(data=["1", 2, 3, 4]),
        "are left": request(data=None, parameters={"binary_data_size": 16}),
    }
    for reason, body in wrong.items():
        status, answer, _ = call(gateway, "POST", "/v2/models/m/infer", body)
        assert status == 400
        assert reason in answer["error"]
        assert "Next step" in answer["error"]
    stats = runtime.snapshot("m")
    assert stats is not None
    assert stats.requests == 0


def test_a_body_over_the_bound_is_413_announced_or_not(
    gateway: Gateway, runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    announced = http.client.HTTPConnection(*gateway.address, timeout=60)
    announced.putrequest("POST", "/v2/models/m/infer")
    announced.putheader("content-length", str(REQUEST_BYTES_MAX + 1))
    announced.endheaders()
    assert announced.getresponse().status == 413
    announced.close()

    chunked = socket.create_connection(gateway.address, timeout=60)
    chunked.sendall(
        b"POST /v2/models/m/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    try:
        for _ in range(REQUEST_BYTES_MAX // (1 << 20) + 2):
            chunked.sendall(chunk)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it hung up already
    assert b" 413 " in chunked.recv(200)
    chunked.close()


def test_a_large_body_within_the_bound_is_answered(
    gateway: Gateway, runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    status, answer, _ = call(
        gateway, "POST", "/v2/models/m/infer", request(np.full((50_000, 4), 0.5))
    )

    assert status == 200
    assert answer["outputs"][0]["data"][-1] == 2.0


def test_too_many_bytes_of_bodies_at_once_are_503(runtime: Runtime) -> None:
    with Gateway(runtime, room=Room(50)) as small:
        status, _, headers = call(small, "POST", "/v2/models/m/infer", request())

    assert status == 503
    assert headers["retry-after"] == "1"


def test_a_body_that_never_comes_is_408(runtime: Runtime) -> None:
    with Gateway(runtime, patience=Patience(body=0.2, linger=0.1)) as impatient:
        slow = http.client.HTTPConnection(*impatient.address, timeout=60)
        slow.putrequest("POST", "/v2/models/m/infer")
        slow.putheader("content-length", "100")
        slow.endheaders(b"{")

        assert slow.getresponse().status == 408
        slow.close()


def refused_by(runtime: Runtime) -> int:
    stats = runtime.snapshot("m")
    return 0 if stats is None else stats.requests_refused


def test_a_full_queue_is_503_with_the_time_to_wait(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    pid = runtime.worker_pid("m")
    os.kill(pid, signal.SIGSTOP)
    count = QUEUE_REQUESTS_MAX + 11
    with (
        Gateway(runtime, request_seconds_max=200) as gateway,  # they wait, however slow this is
        ThreadPoolExecutor(count) as clients,
    ):
        futures = [
            clients.submit(call, gateway, "POST", "/v2/models/m/infer", request())
            for _ in range(count)
        ]
        until(lambda: refused_by(runtime) >= 10)
        os.kill(pid, signal.SIGCONT)
        results = [future.result() for future in futures]

    refused = [headers for status, _, headers in results if status == 503]
    assert len(refused) == 10  # one is with the worker, the others wait
    assert all(headers["retry-after"] == "1" for headers in refused)
    assert sum(status == 200 for status, _, _ in results) == QUEUE_REQUESTS_MAX + 1


def test_a_killed_worker_is_503_and_then_all_is_well(
    gateway: Gateway, runtime: Runtime, bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.serve(bench.release(models.affine()))
    pid = runtime.worker_pid("m")
    os.kill(pid, signal.SIGSTOP)
    worker = runtime._lanes.get("m")._standing.worker  # type: ignore[union-attr]
    begin, begun = worker.begin, threading.Event()

    def begins(*inputs: Any, **more: Any) -> None:
        begin(*inputs, **more)
        begun.set()

    monkeypatch.setattr(worker, "begin", begins)
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(call, gateway, "POST", "/v2/models/m/infer", request())
        assert begun.wait(60)
        os.kill(pid, signal.SIGKILL)
        status, answer, headers = asked.result()

    assert status == 503
    assert "SIGKILL" in answer["error"]
    assert "retry-after" in headers
    # Its number stays until its lane has noticed, and so does the word that it is ready.
    until(lambda: runtime.worker_pid("m") not in (0, pid) and runtime.ready("m"))
    assert call(gateway, "GET", "/v2/models/m/ready")[0] == 200
    assert call(gateway, "POST", "/v2/models/m/infer", request())[0] == 200


def test_a_model_that_fails_or_answers_nan_is_500_and_counts(
    gateway: Gateway, runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.logarithm()))

    assert call(gateway, "POST", "/v2/models/m/infer", request())[0] == 200
    status, answer, _ = call(gateway, "POST", "/v2/models/m/infer", request([[-1, 1, 1, 1]]))

    assert status == 500
    assert "NaN" in answer["error"]
    stats = runtime.snapshot("m")
    assert stats is not None
    assert (stats.requests_ok, stats.requests_error) == (1, 1)


def test_a_slow_answer_is_504(runtime: Runtime, bench: Any, models: Any) -> None:
    runtime.serve(bench.release(models.affine()))
    pid = runtime.worker_pid("m")
    with Gateway(runtime, request_seconds_max=0.3) as gateway:
        os.kill(pid, signal.SIGSTOP)
        status, answer, _ = call(gateway, "POST", "/v2/models/m/infer", request())
        os.kill(pid, signal.SIGCONT)

    assert status == 504
    assert "0.3 s" in answer["error"]


def test_a_kept_connection_does_not_wait_for_delayed_acknowledgements(
    gateway: Gateway, runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    connection = http.client.HTTPConnection(*gateway.address, timeout=60)

    def median_ms() -> float:
        latencies_ms = []
        for _ in range(20):
            started = time.monotonic()
            connection.request("POST", "/v2/models/m/infer", json.dumps(request()))
            connection.getresponse().read()
            latencies_ms.append((time.monotonic() - started) * 1000)
        return sorted(latencies_ms)[10]

    # Linux waits 40 ms, every time; a busy machine is slow now and then.
    assert any(median_ms() < 35 for _ in range(20))
    connection.close()


def test_the_gateway_listens_on_loopback_unless_told(gateway: Gateway) -> None:
    assert gateway.address[0] == "127.0.0.1"


def test_an_address_in_use_is_said_with_a_next_step(gateway: Gateway, runtime: Runtime) -> None:
    with pytest.raises(ConfigurationInvalid, match="Next step"):
        Gateway(runtime, port=gateway.address[1])


@pytest.mark.slow
def test_many_clients_and_a_swap_lose_nothing(
    gateway: Gateway, runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine(2)))
    stop = threading.Event()

    def client() -> list[int]:
        statuses = []
        connection = http.client.HTTPConnection(*gateway.address, timeout=60)
        while not stop.is_set():
            connection.request("POST", "/v2/models/m/infer", json.dumps(request()))
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        connection.close()
        return statuses

    with ThreadPoolExecutor(8) as clients:
        futures = [clients.submit(client) for _ in range(8)]
        for n in range(1, 4):
            time.sleep(0.1)
            runtime.serve(bench.release(models.affine(n), version=f"1.{n}.0"))
        stop.set()
        statuses = [status for future in futures for status in future.result()]

    assert len(statuses) >= 8  # each client has been answered
    assert set(statuses) == {200}
