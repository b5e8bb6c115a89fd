"""The client that applications use, against the gateway and a real model."""

import json
import random
import select
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mailboat_agent.client
from mailboat_agent.client import Array, Client, ClientError, Late, calls
from mailboat_agent.client.calls import Call, Caller
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.runtime import Absence, Runtime
from serving_models import affine_release

EXAMPLES = Path(__file__).parents[2] / "examples"
ROW = np.array([[1, 2, 3, 4]], np.float32)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """With one model: m answers 2x + 1 over rows of four."""
    runtime = Runtime(clock=lambda: datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
    directory = tmp_path_factory.mktemp("serving")
    runtime.explain_absence("gone", Absence("its release was withdrawn", 1))
    with affine_release() as release:
        runtime.serve(release)
    with Gateway(
        runtime, socket_path=directory / "serve.sock", feedback=runtime.live.feedback
    ) as gateway:
        content = {"url": gateway.url, "socket": str(gateway.socket_path)}
        (directory / "serving.json").write_text(json.dumps(content))
        yield gateway
    runtime.close()


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, gateway: Gateway) -> str:
    return gateway.url if request.param == "tcp" else f"unix://{gateway.socket_path}"


def test_arrays_come_back_with_the_release_that_answered(address: str) -> None:
    with Client(address) as client:
        answer = client.infer("m", {"x": ROW}, request_id="7")

        assert np.array_equal(answer.outputs["y"].numpy(), 2 * ROW + 1)
        assert answer.outputs["y"].values() == (3.0, 5.0, 7.0, 9.0)
        assert (answer.model, answer.version, answer.request_id) == ("m", "1.0.0", "7")
        assert answer.release == client.metadata("m")["parameters"]["release"]
        assert answer.degraded is None
        assert (client.ready("m"), client.ready("nothing"), client.ready()) == (True, False, False)
        assert [each["state"] for each in client.models()] == ["READY", "UNAVAILABLE"]


def test_feedback_counts_for_the_release_that_answered(gateway: Gateway) -> None:
    with Client(gateway.url) as client:
        answer = client.infer("m", {"x": ROW})
        told = client.feedback(
            "m", counters={"right": (1, 1)}, values={"margin": [0.5]}, release=answer.release
        )
        with pytest.raises(ClientError) as caught:
            client.feedback("m", counters={"right": (1, 1)}, release="never")

    assert told["release"] == answer.release
    assert caught.value.status == 409


def test_numpy_is_not_needed(gateway: Gateway) -> None:
    with Client(gateway.url) as client:
        answer = client.infer("m", {"x": Array.of("FP32", (1, 4), [1, 2, 3, 4])}, outputs=["y"])

    assert answer.outputs["y"].values() == (3.0, 5.0, 7.0, 9.0)


def test_the_folder_stands_alone_with_the_standard_library(
    gateway: Gateway, tmp_path: Path
) -> None:
    source = Path(mailboat_agent.client.__file__).parent
    shutil.copytree(source, tmp_path / "mailboat_client")
    program = (
        "import sys; from mailboat_client import Array, Client\n"
        f"y = Client({gateway.url!r}).infer('m', {{'x': Array.of('FP32', (1, 4), [0] * 4)}})\n"
        "assert y.outputs['y'].values() == (1.0,) * 4\n"
        "assert not {'numpy', 'mailboat_agent', 'mailboat_schemas'} & sys.modules.keys()"
    )
    # -S: no site-packages, as where nothing is installed
    subprocess.run([sys.executable, "-S", "-c", program], cwd=tmp_path, check=True, timeout=120)


def test_threads_share_a_client(gateway: Gateway) -> None:
    with Client(gateway.url) as client, ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda n: client.infer("m", {"x": ROW * n}), range(40))

        for n, answer in enumerate(answers):
            assert np.array_equal(answer.outputs["y"].numpy(), 2 * ROW * n + 1)


def test_a_bad_request_is_not_tried_again_and_says_what_to_do(gateway: Gateway) -> None:
    with Client(gateway.url) as client, pytest.raises(ClientError, match="Next step") as caught:
        client.infer("m", {"x": ROW.astype(np.float64)})

    assert (caught.value.status, caught.value.again) == (400, False)


def test_what_is_not_served_now_is_asked_until_the_deadline(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(
        calls, "time", SimpleNamespace(monotonic=lambda: sum(waits), sleep=waits.append)
    )
    with Client(gateway.url) as client, pytest.raises(ClientError, match="withdrawn") as caught:
        client.infer("gone", {"x": ROW}, deadline_seconds=1.6)

    assert caught.value.again
    assert len(waits) == 1  # of a second; a second one would be late
    assert 1.0 <= waits[0] <= 1.25


def test_the_device_is_told_how_long_the_caller_waits(gateway: Gateway) -> None:
    with Client(gateway.url) as client, pytest.raises(Late):
        client.infer("m", {"x": ROW}, deadline_seconds=1e-6)


def test_nobody_there_is_worth_another_try(tmp_path: Path) -> None:
    for address in ("http://127.0.0.1:1", f"unix://{tmp_path}/none"):
        with Client(address) as client, pytest.raises(ClientError) as caught:
            client.infer("m", {"x": ROW}, deadline_seconds=0.2)
        assert caught.value.again


@pytest.mark.parametrize("address", ["", "ftp://a", "http://", "127.0.0.1:80"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ClientError, match="neither"):
        Client(address)


def test_the_device_is_found_by_its_data_directory(gateway: Gateway, tmp_path: Path) -> None:
    assert gateway.socket_path is not None
    with Client.of_device(gateway.socket_path.parent) as client:
        assert client.ready("m")
    with pytest.raises(ClientError, match="No agent serves"):
        Client.of_device(tmp_path)


# --- tries ---------------------------------------------------------------------------------------


@contextmanager
def device_that_says(*answers: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """One answer for each request, on a connection of its own; None hangs up instead."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for each in answers:
                connection, _ = server.accept()
                with connection:
                    heard.append(connection.recv(65536))
                    if each is not None:
                        connection.sendall(each)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", heard
        thread.join(60)


BUSY = b"HTTP/1.1 503 Busy\r\nretry-after: 0\r\ncontent-length: 13\r\n\r\n" + b'{"error":"a"}'
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def test_a_busy_device_and_a_lost_connection_are_tried_again() -> None:
    with device_that_says(BUSY, None, OK) as (address, heard):
        caller = Caller(address, random.Random(1))
        with closing(caller):
            reply = caller.call(Call("GET", "/"), 5)

    assert (reply.status, reply.tries, len(heard)) == (200, 3, 3)


def test_what_counts_is_not_sent_twice() -> None:
    with device_that_says(None) as (address, heard):
        caller = Caller(address, random.Random(1))
        with closing(caller), pytest.raises(ClientError) as caught:
            caller.call(Call("POST", "/v1/feedback", b"{}", repeatable=False), 2)

    assert len(heard) == 1
    assert not isinstance(caught.value, Late)  # as it would be after a second try


def test_a_connection_that_the_device_closed_meanwhile_is_not_used() -> None:
    with device_that_says(OK, OK) as (address, heard):
        caller = Caller(address, random.Random(1))
        with closing(caller):
            for _ in range(2):  # the device hangs up after each answer
                assert caller.call(Call("POST", "/", b"{}", repeatable=False), 60).tries == 1
                (kept,) = caller._kept
                assert select.select([kept.sock], [], [], 60)[0]  # it has hung up

    assert len(heard) == 2


CUT_SHORT = b"HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n" + b'{"outputs": ['


def test_an_answer_that_was_cut_short_is_asked_for_again_and_not_believed() -> None:
    with device_that_says(CUT_SHORT, OK) as (address, heard):
        caller = Caller(address, random.Random(1))
        with closing(caller):
            reply = caller.call(Call("GET", "/"), 5)

    assert (reply.content, reply.tries, len(heard)) == (b"{}", 2, 2)


def said(content: bytes, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\n\r\n%s" % (head, len(content), content)


SHORT = b'{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[2],"parameters":{'
SHORT += b'"binary_data_size":8}}]}'


@pytest.mark.parametrize(
    "answer",
    [
        said(b"<html>"),
        said(b"[]"),
        said(b"{}"),
        said(b'{"model_name":"m","outputs":[{"name":"y"}]}'),
        said(SHORT + b"1234", b"inference-header-content-length: %d\r\n" % len(SHORT)),
        said(SHORT, b"inference-header-content-length: x\r\n"),
    ],
)
def test_what_is_no_answer_of_the_protocol_is_said_to_be_none(answer: bytes) -> None:
    with (
        device_that_says(answer) as (address, _),
        Client(address) as client,
        pytest.raises(ClientError, match="not of the protocol"),
    ):
        client.infer("m", {"x": ROW})


def test_an_answer_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "ANSWER_BYTES_MAX", 10)
    for size, is_read in ((10, True), (11, False)):
        with device_that_says(said(bytes(size))) as (address, _):
            caller = Caller(address, random.Random(1))
            with closing(caller), nullcontext() if is_read else pytest.raises(ClientError):
                assert len(caller.call(Call("GET", "/"), 5).content) == size


# --- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["?", "u1", "<u8", "i1", ">i4", "f2", "f4", ">f8"])
def test_arrays_of_every_kind_and_byte_order_survive(dtype: str) -> None:
    array = np.array([[0, 1], [1, 0]], dtype)

    assert np.array_equal(Array.of_numpy(array).numpy(), array)
    assert Array.of_numpy(array.T).values() == (0, 1, 1, 0)


def test_text_survives_as_bytes() -> None:
    array = Array.of_numpy(np.array(["ä", ""], object))

    assert array.values() == ("ä".encode(), b"")
    assert array.numpy().tolist() == ["ä".encode(), b""]
    with pytest.raises(ClientError, match="complex"):
        Array.of_numpy(np.array([1j]))


def test_elements_that_python_has_not_are_there_as_bytes() -> None:
    half = Array("BF16", (1,), b"\x80\x3f")

    assert half.data == b"\x80\x3f"
    for read in (half.values, half.numpy):
        with pytest.raises(ClientError, match="BF16"):
            read()


# --- examples ------------------------------------------------------------------------------------


def run_example(name: str, *arguments: object) -> str:
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.slow
def test_the_camera_loop_answers_frames_and_never_queues_them(gateway: Gateway) -> None:
    told = run_example("camera_loop.py", "--address", gateway.url, "--model", "m", "--frames", 10)
    numbers = [int(word.strip("(")) for word in told.replace(":", "").split() if word[-1].isdigit()]

    frames, answered, degraded, dropped, late, failed = numbers
    assert frames == answered + dropped + late + failed == 10
    assert (degraded, failed) == (0, 0)


@pytest.mark.slow
def test_the_batch_job_goes_on_where_it_was_stopped(gateway: Gateway, tmp_path: Path) -> None:
    lines, answers = tmp_path / "lines.jsonl", tmp_path / "answers.jsonl"
    rows: list[dict[str, Any]] = [{"x": [[n, 0, 0, 0]]} for n in range(12)]
    lines.write_text("\n".join(map(json.dumps, rows[:5])))
    job = ("batch_job.py", "--address", f"unix://{gateway.socket_path}", "--model", "m")

    assert "0 before, 5 now" in run_example(*job, lines, answers)
    lines.write_text("\n".join(map(json.dumps, rows)))
    assert "5 before, 7 now" in run_example(*job, lines, answers)
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [each["outputs"]["y"][0] for each in found] == [2 * n + 1 for n in range(12)]


@pytest.mark.slow
def test_the_batch_job_outlives_a_wrong_line_and_one_that_was_not_finished(
    gateway: Gateway, tmp_path: Path
) -> None:
    lines, answers = tmp_path / "lines.jsonl", tmp_path / "answers.jsonl"
    lines.write_text('{"x": [[1, 0, 0, 0]]}\n{"x": [[2, 0]]}\n{"x": [[3, 0, 0, 0]]}')
    answers.write_text('{"outputs": {"y": [3.0, 1.0, 1.0, 1.0]}}\n{"outputs": {"y": [')

    told = run_example("batch_job.py", "--address", gateway.url, "--model", "m", lines, answers)

    assert "1 before, 2 now" in told
    first, second, third = map(json.loads, answers.read_text().splitlines())
    assert first["outputs"]["y"][0] == 3.0
    assert "takes [-1, 4]" in second["error"]
    assert third["outputs"]["y"][0] == 7.0
