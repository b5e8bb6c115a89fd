"""The day each bound of building a patch is reached: other work, a larger patch, or none."""

from pathlib import Path

import numpy as np
import pytest

from mailboat_controller.deltas import alignment, equal_runs, portfolio, tensor_delta
from mailboat_controller.deltas.equal_runs import Base, Run, similar_runs
from mailboat_controller.deltas.layouts import onnx, safetensors, tensors_of, tflite
from mailboat_controller.deltas.layouts.tensors import Unreadable
from mailboat_controller.deltas.patch import NotToBePatched
from mailboat_schemas.patch_formats import ZSTD_PATCH_BASE_BYTES_MAX
from tensor_patches import made, patch_of
from weights import fine_tuned, weights
from weights import safetensors as safetensors_file
from weights import tflite as tflite_file

BEFORE = weights(numbers=4000)
BASE, TARGET = safetensors_file(BEFORE), safetensors_file(fine_tuned(BEFORE))
MIB = 1 << 20


def noise(length: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, length, np.uint8)


# --- alignment -----------------------------------------------------------------------------------


def test_a_program_of_too_many_steps_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many more there would be: the list does not grow beyond it."""
    base = noise(40_000)
    target = base.copy()
    target[::2000] ^= 1  # twenty runs, and a byte before each
    monkeypatch.setattr(alignment, "STEPS_MAX", 40)
    assert made(base.tobytes(), patch_of(base.tobytes(), target.tobytes()), 40_000) == (
        target.tobytes()
    )
    monkeypatch.setattr(alignment, "STEPS_MAX", 39)
    with pytest.raises(NotToBePatched, match="more than 39 steps"):
        patch_of(base.tobytes(), target.tobytes())


def test_a_program_of_too_many_bytes_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_delta, "PROGRAM_BYTES_MAX", 5)
    with pytest.raises(NotToBePatched, match="it would take"):
        patch_of(BASE, TARGET)


def test_with_too_much_outside_of_its_tensors_a_file_is_read_without_a_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alignment, "GRAPH_BYTES_MAX", 10)
    parsed = len(patch_of(BASE, TARGET))

    assert made(BASE, patch_of(BASE, TARGET), len(TARGET)) == TARGET
    assert parsed < 0.6 * len(TARGET)


# --- equal runs ----------------------------------------------------------------------------------


def test_of_a_large_base_a_sample_is_enough_to_find_a_long_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(equal_runs, "WINDOWS_MAX", 64)
    content = noise(1 * MIB)
    base = Base(content, length_min=512)
    runs = list(equal_runs.equal_runs(base, content[100_001:700_001]))

    assert len(base.table._hashes) <= 64
    assert runs == [Run(0, 100_001, 600_000)]


def test_a_window_that_stands_everywhere_is_found_without_looking_everywhere() -> None:
    base = np.tile(noise(64), 20_000)
    target = np.concatenate([noise(5000, seed=2), base[:100_000]])

    runs = list(equal_runs.equal_runs(Base(base, length_min=512), target))

    assert sum(run.length for run in runs) == 100_000


@pytest.mark.parametrize(("gap", "count"), [(64, 1), (65, 2)])
def test_a_similar_run_goes_on_over_so_many_differences_and_no_more(gap: int, count: int) -> None:
    base = noise(2000)
    target = base.copy()
    target[1000 : 1000 + gap] ^= 0xFF
    exact = [Run(0, 0, 1000), Run(1000 + gap, 1000 + gap, 1000 - gap)]

    assert len(similar_runs(base, target, exact)) == count


# --- layouts -------------------------------------------------------------------------------------


def field(number: int, content: bytes) -> bytes:
    """Of a protobuf message."""
    size, length = len(content), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


@pytest.mark.parametrize(("graphs", "found"), [(31, 1), (32, 0)])
def test_tensors_are_found_in_so_many_graphs_within_each_other(graphs: int, found: int) -> None:
    graph = field(5, b"\x10\x01" + field(9, bytes(256)))  # an initializer of FLOAT raw_data
    for _ in range(graphs - 1):
        graph = field(1, field(5, field(6, graph)))  # node, attribute, graph
    assert onnx.DEPTH_MAX == 32
    assert len(tensors_of(memoryview(b"\x08\x08" + field(7, graph)))) == found


def test_a_number_of_more_bytes_than_64_bits_need_is_no_onnx() -> None:
    longest = b"\x08" + b"\xff" * 9 + b"\x01"

    assert list(onnx.tensors(memoryview(longest))) == []
    with pytest.raises(Unreadable):
        list(onnx.tensors(memoryview(b"\x08" + b"\xff" * 10 + b"\x01")))


def test_a_safetensors_header_over_its_bound_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    length = int.from_bytes(BASE[:8], "little")
    monkeypatch.setattr(safetensors, "HEADER_BYTES_MAX", length)
    assert tensors_of(memoryview(BASE))
    monkeypatch.setattr(safetensors, "HEADER_BYTES_MAX", length - 1)
    assert tensors_of(memoryview(BASE)) == []


def test_a_tflite_file_of_too_many_tables_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = tflite_file(BEFORE["conv"])  # two buffers
    monkeypatch.setattr(tflite, "TABLES_MAX", 2)
    assert tensors_of(memoryview(content))
    monkeypatch.setattr(tflite, "TABLES_MAX", 1)
    assert tensors_of(memoryview(content)) == []


# --- memory and disk -----------------------------------------------------------------------------


def test_what_is_held_of_a_patch_changes_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = patch_of(BASE, TARGET)
    monkeypatch.setattr(tensor_delta, "KEPT_IN_MEMORY_BYTES_MAX", 1000)
    monkeypatch.setattr(tensor_delta, "PACKING_BLOCKS_MAX", 1)

    assert patch_of(BASE, TARGET) == whole


def test_no_more_blocks_than_the_bound_are_packed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 0
    add = tensor_delta._Packing.add

    def counted(packing: tensor_delta._Packing, *block: object) -> None:
        nonlocal most
        add(packing, *block)  # type: ignore[arg-type]
        most = max(most, len(packing._under_way))

    monkeypatch.setattr(tensor_delta, "PACKING_BLOCKS_MAX", 3)
    monkeypatch.setattr(tensor_delta, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(tensor_delta._Packing, "add", counted)
    patch_of(b"", TARGET)

    assert most == 2


def test_only_a_small_base_needs_the_memory_of_zstd() -> None:
    at, over = (
        portfolio.memory_to_build(base, MIB)
        for base in (ZSTD_PATCH_BASE_BYTES_MAX, ZSTD_PATCH_BASE_BYTES_MAX + 1)
    )

    assert at == over - 1 + portfolio.ZSTD_PATCH_MEMORY_BYTES


def test_a_scratch_directory_that_is_not_there_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        portfolio.build(None, TARGET, tmp_path / "gone")
