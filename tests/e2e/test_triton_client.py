"""The official client of the protocol against a running agent: lists, checks, infers."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from agent_process import AgentProcess, until
from attack_siege import FACTOR, SERVED, Stronghold
from mailboat_agent.client import Client
from model_fleet import MODEL

pytestmark = pytest.mark.slow
CLIENTS, REQUESTS = 16, 40
EXAMPLE = Path(__file__).parents[2] / "examples" / "triton_client.py"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """A device that serves what it has installed, and reaches nobody."""
    stronghold = Stronghold(tmp_path_factory.mktemp("stronghold"))
    directory = tmp_path_factory.mktemp("device")
    siege = stronghold.besiege(directory)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        port = nobody.getsockname()[1]
        agent = AgentProcess(
            directory,
            stronghold.certificates,
            siege.fleet.factory_root,
            f"https://127.0.0.1:{port}",
            settings={"serve_socket": str(directory / "serve.sock"), "serve_socket_mode": "0600"},
        )
        agent.start(port)
        try:
            until((agent.data / "serving.json").exists)
            yield agent
        finally:
            if agent.process is not None:
                agent.process.send_signal(signal.SIGTERM)
                agent.process.wait(60)


@pytest.fixture
def server(agent: AgentProcess) -> str:
    """Of an agent that has loaded its model: any test may be the first."""
    content = json.loads((agent.data / "serving.json").read_bytes())
    address = f"{content['host']}:{content['port']}"
    with triton.InferenceServerClient(address) as client:
        until(lambda: client.is_model_ready(MODEL))
    return address


@pytest.fixture
def client(server: str) -> Iterator[Any]:
    with triton.InferenceServerClient(server) as client:
        yield client


def tensor(values: np.ndarray[Any, Any], *, binary: bool = True) -> Any:
    made = triton.InferInput("x", values.shape, "FP32")
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def rows(count: int = 1) -> np.ndarray[Any, Any]:
    return np.arange(4 * count, dtype=np.float32).reshape(count, 4)


def test_it_lists_and_checks(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL, SERVED)
    assert not client.is_model_ready(MODEL, "9.9.9")
    assert client.get_server_metadata()["name"] == "mailboat"
    (entry,) = client.get_model_repository_index()
    assert (entry["name"], entry["version"], entry["state"]) == (MODEL, SERVED, "READY")
    metadata = client.get_model_metadata(MODEL)
    assert metadata["versions"] == [SERVED]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert client.get_model_config(MODEL)["input"][0]["data_type"] == "TYPE_FP32"


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary", "json"])
def test_it_infers_with_json_and_with_binary_tensors(
    client: Any, binary_in: bool, binary_out: bool
) -> None:
    asked = triton.InferRequestedOutput("y", binary_data=binary_out)
    result = client.infer(
        MODEL, [tensor(rows(3), binary=binary_in)], outputs=[asked], request_id="7"
    )

    assert np.array_equal(result.as_numpy("y"), FACTOR * rows(3) + 1)
    response = result.get_response()
    assert (response["model_version"], response["id"]) == (SERVED, "7")
    assert (
        response["parameters"]["release"]
        == client.get_model_metadata(MODEL)["parameters"]["release"]
    )


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("answer_coding", [None, "gzip", "deflate"])
def test_it_infers_with_compression(
    client: Any, request_coding: str | None, answer_coding: str | None
) -> None:
    result = client.infer(
        MODEL,
        [tensor(rows(500))],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=answer_coding,
        priority=2,
        timeout=5_000_000,
    )

    assert np.array_equal(result.as_numpy("y"), FACTOR * rows(500) + 1)


def test_it_infers_concurrently(server: str) -> None:
    with (
        triton.InferenceServerClient(server, concurrency=CLIENTS) as client,
    ):
        waiting = [client.async_infer(MODEL, [tensor(rows(n + 1))]) for n in range(REQUESTS)]
        for n, each in enumerate(waiting):
            assert np.array_equal(each.get_result().as_numpy("y"), FACTOR * rows(n + 1) + 1)


def test_clients_in_threads_infer_at_once(server: str) -> None:
    def one(number: int) -> bool:
        with triton.InferenceServerClient(server) as client:
            given = [client.infer(MODEL, [tensor(rows(number + 1))]) for _ in range(10)]
        return all(np.array_equal(g.as_numpy("y"), FACTOR * rows(number + 1) + 1) for g in given)

    with ThreadPoolExecutor(CLIENTS) as threads:
        assert all(threads.map(one, range(CLIENTS)))


def test_json_and_binary_tensors_are_answered_at_once_while_others_list_and_check(
    server: str,
) -> None:
    def one(number: int) -> None:
        values = rows(number + 1)
        with triton.InferenceServerClient(server) as client:
            for binary_in in (True, False):
                for binary_out in (False, True):
                    wanted = [triton.InferRequestedOutput("y", binary_data=binary_out)]
                    given = client.infer(MODEL, [tensor(values, binary=binary_in)], outputs=wanted)
                    assert np.array_equal(given.as_numpy("y"), FACTOR * values + 1)
                    (y,) = given.get_response()["outputs"]
                    assert ("data" in y) is not binary_out
                    assert client.is_server_live()
                    assert client.is_server_ready()
                    assert client.is_model_ready(MODEL)
                    (entry,) = client.get_model_repository_index()
                    assert entry["state"] == "READY"
                    assert client.get_model_metadata(MODEL)["name"] == MODEL

    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(one, range(CLIENTS)))


def test_the_example_with_the_official_client_finds_everything_equal(server: str) -> None:
    command = [sys.executable, EXAMPLE, "--address", server, "--requests", "3", "--shape", "x=2,4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    assert f"{MODEL} {SERVED} READY" in done.stdout
    assert "12 answers, 8 at once, JSON and binary are equal" in done.stdout


def test_its_statistics_count_what_it_asked(client: Any) -> None:
    def count() -> int:
        (stats,) = client.get_inference_statistics(MODEL)["model_stats"]
        return int(stats["inference_stats"]["success"]["count"])

    before = count()
    client.infer(MODEL, [tensor(rows())])

    until(lambda: count() == before + 1)


def test_what_a_device_does_not_do_is_refused_in_words(client: Any) -> None:
    for wish in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="approved"):
            wish(MODEL)
    wrong = triton.InferInput("x", [1, 4], "FP64")
    wrong.set_data_from_numpy(rows().astype(np.float64))
    with pytest.raises(InferenceServerException, match="takes FP32"):
        client.infer(MODEL, [wrong])


def test_our_own_client_finds_the_same_device_over_its_socket(agent: AgentProcess) -> None:
    path = Path(json.loads((agent.data / "serving.json").read_bytes())["socket"])
    with Client(f"unix://{path}") as client:
        answer = client.infer(MODEL, {"x": rows()})

    assert np.array_equal(answer.outputs["y"].numpy(), FACTOR * rows() + 1)
    assert answer.version == SERVED
    assert path.stat().st_mode & 0o777 == 0o600
