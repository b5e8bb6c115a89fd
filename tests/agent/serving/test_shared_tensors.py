"""Memory that agent and worker share: what goes through it, and what a hostile worker cannot do."""

import fcntl
import os
import resource
import socket
from typing import Any

import numpy as np
import pytest

from mailboat_agent.serving import shared_tensors
from mailboat_agent.serving.process import Worker, WorkerDied, WorkerOptions
from mailboat_agent.serving.shared_tensors import (
    INPUTS,
    OUTPUTS,
    REGION_BYTES_MAX,
    REGION_BYTES_MIN,
    SHARED_BYTES_MIN,
    JoinedTensor,
    Region,
    SharedByAgent,
    SharedTensors,
    region_bytes,
)
from mailboat_agent.serving.tensors import Tensor

CPU = WorkerOptions(providers=("CPUExecutionProvider",), threads=1, memory_limit_bytes=512 << 20)
LARGE = 4 * SHARED_BYTES_MIN


def x(rows: int, value: float = 1.0) -> Tensor:
    return Tensor("x", "FP32", (rows, 4), np.full((rows, 4), value, np.float32).tobytes())


@pytest.fixture
def worker(bench: Any, models: Any) -> Any:
    worker = Worker.start(bench.open(models.affine()))
    worker.load(CPU, deadline_seconds=20)
    yield worker
    worker.close()


def test_large_tensors_come_through_whole_in_both_directions(worker: Worker) -> None:
    rng = np.random.default_rng(7)
    for rows in (100_000, 10, 30_000, 400_000, 1):
        values = rng.random((rows, 4), np.float32)
        given = Tensor("x", "FP32", (rows, 4), values.tobytes())
        (y,) = worker.infer([given], deadline_seconds=10).outputs
        assert bytes(y.data) == (values * np.float32(2) + np.float32(1)).tobytes()
    held = {name: region.size_bytes for name, region in worker._shared._regions.items()}
    assert held[f"{INPUTS}0"] >= 400_000 * 16
    assert any(name.startswith(OUTPUTS) for name in held)


def test_an_answer_stays_as_it_was_when_the_next_one_comes(worker: Worker) -> None:
    rows = 50_000
    for _ in range(2):  # the first makes the memory
        first = worker.infer([x(rows, 1)], deadline_seconds=10).outputs[0]
    for _ in range(3):
        worker.infer([x(rows, 5)], deadline_seconds=10)

    assert bytes(first.data[:4]) == np.float32(3).tobytes()


def test_what_is_over_the_bound_of_a_region_goes_in_the_message(worker: Worker) -> None:
    assert SharedTensors().lacking([x(REGION_BYTES_MAX // 16 + 1)]) == {}


def test_without_memory_to_share_everything_goes_in_the_message(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: int) -> Region:
        raise OSError("no memory")

    monkeypatch.setattr("mailboat_agent.serving.process.Region", none)
    (y,) = worker.infer([x(50_000)], deadline_seconds=10).outputs

    assert y.data[:4] == np.float32(3).tobytes()
    assert worker._shared._regions == {}


def test_a_region_cannot_be_made_shorter_and_its_seals_not_be_changed() -> None:
    region = Region(REGION_BYTES_MIN)
    descriptor = os.dup(region.descriptor)

    for size in (0, REGION_BYTES_MIN - 1, REGION_BYTES_MIN + 1):
        with pytest.raises(PermissionError):
            os.truncate(descriptor, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    os.close(descriptor)
    region.close_descriptor()
    region.memory.close()


@pytest.mark.parametrize(
    "place",
    [
        [0, REGION_BYTES_MIN + 1],
        [REGION_BYTES_MIN, 1],
        [-1, 4],
        [4, -4],
        [2**63, 4],
        [0, 2**64],
        [0],
        [0, 16, 0],
        ["0", 16],
        [0.0, 16],
        [None, None],
        [],
    ],
)
def test_a_place_outside_of_the_memory_is_nonsense(place: list[Any]) -> None:
    shared = SharedTensors()
    shared.hold(f"{OUTPUTS}0", Region(REGION_BYTES_MIN))
    answer = {"outputs": [["y", "FP32", [4], place]], "output_bytes": 0}

    with pytest.raises(ValueError, match="shared memory"):
        shared.take(0, answer)
    shared.close()


def test_the_same_place_twice_is_nonsense() -> None:
    """A frame of a thousand of them would be copied to 64 GiB."""
    shared = SharedTensors()
    shared.hold(f"{OUTPUTS}0", Region(REGION_BYTES_MIN))
    half = REGION_BYTES_MIN // 2
    output = ["y", "UINT8", [half], [0, half]]
    assert len(shared.take(0, {"outputs": [output] * 2})) == 2

    with pytest.raises(ValueError, match="more outputs than"):
        shared.take(0, {"outputs": [output] * 3})
    shared.close()


def test_a_place_where_there_is_no_memory_is_nonsense() -> None:
    with pytest.raises(ValueError, match="not a place"):
        SharedTensors().take(0, {"outputs": [["y", "FP32", [4], [0, 16]]], "output_bytes": 0})


@pytest.mark.parametrize("wanted", [2**70, -5, REGION_BYTES_MAX + 1])
def test_a_worker_cannot_have_the_agent_take_more_memory_than_the_bound(wanted: int) -> None:
    shared = SharedTensors()
    shared.take(0, {"outputs": [], "output_bytes": wanted})

    assert shared.lacking([]) == {}


@pytest.mark.parametrize("wanted", ["1", 1.5, None, True, []])
def test_a_size_that_is_no_number_is_nonsense(wanted: Any) -> None:
    with pytest.raises(ValueError, match="not a size"):
        SharedTensors().take(0, {"outputs": [], "output_bytes": wanted})


def test_parts_are_joined_in_the_memory_and_in_the_message_alike() -> None:
    for size in (8, SHARED_BYTES_MIN):
        parts = (bytes([1]) * size, bytes([2]) * size)
        tensor = JoinedTensor("x", "UINT8", (2, size), parts)
        shared = SharedTensors()
        region = Region(region_bytes(LARGE))
        memory = region.memory
        shared.hold(f"{INPUTS}0", region)
        _, [[_, _, _, data]] = shared.put([tensor])

        found = memory[data[0] : data[0] + data[1]] if isinstance(data, list) else data
        assert isinstance(data, list) == (2 * size >= SHARED_BYTES_MIN)
        assert found == b"".join(parts)
        shared.close()


def test_the_size_of_a_region_is_the_next_power_of_two() -> None:
    sizes = [region_bytes(n) for n in (1, REGION_BYTES_MIN, REGION_BYTES_MIN + 1, REGION_BYTES_MAX)]

    assert sizes == [REGION_BYTES_MIN, REGION_BYTES_MIN, 2 * REGION_BYTES_MIN, REGION_BYTES_MAX]


def test_the_worker_takes_a_descriptor_though_it_may_open_none() -> None:
    """As it is once a model is loaded: no number is left, but the one that was kept."""
    ours, theirs = socket.socketpair()
    shared = SharedByAgent(theirs)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    regions = [Region(REGION_BYTES_MIN) for _ in range(3)]
    regions[0].memory[:4] = b"abcd"
    for region in regions:
        region.send(ours)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        for _ in regions:
            shared.receive(f"{INPUTS}0", REGION_BYTES_MIN)
            with pytest.raises(OSError, match="Too many open files"):
                os.dup(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    shared.begin_answer(0)

    assert bytes(shared.view([0, 4])) == b"\0" * 4  # the last of them
    ours.close()
    theirs.close()
    for region in regions:
        region.close_descriptor()
        region.memory.close()


def test_a_view_of_memory_that_was_exchanged_can_still_be_read() -> None:
    """A model's own code may have kept it."""
    ours, theirs = socket.socketpair()
    shared = SharedByAgent(theirs)
    views = []
    for letter in (b"a", b"b"):
        region = Region(REGION_BYTES_MIN)
        region.memory[:1] = letter
        region.send(ours)
        shared.receive(f"{INPUTS}0", REGION_BYTES_MIN)
        views.append(np.frombuffer(shared.view([0, 4]), np.uint8))
        region.close_descriptor()
        region.memory.close()

    assert [chr(view[0]) for view in views] == ["a", "b"]
    ours.close()
    theirs.close()


def test_a_worker_that_points_outside_is_not_trusted_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = Worker._receive

    def lying(self: Worker, deadline: float, seconds: float) -> dict[str, Any]:
        answer = receive(self, deadline, seconds)
        if "outputs" in answer:
            answer["outputs"] = [["y", "FP32", [1, 4], [1 << 40, 16]]]
        return answer

    monkeypatch.setattr(Worker, "_receive", lying)
    with pytest.raises(WorkerDied, match="nonsense"):
        worker.infer([x(50_000)], deadline_seconds=10)
    assert not worker.alive
    assert shared_tensors.SLOTS == 2
