import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mailboat_agent.serving import golden as golden_module
from mailboat_agent.serving import tensors as tensors_module
from mailboat_agent.serving.golden import (
    GOLDEN_BYTES_MAX,
    SAMPLES_MAX,
    GoldenUnreadable,
    compare,
    read_golden,
)
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.health import Health


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name.replace("__", "."): array for name, array in arrays.items()})
    return buffer.getvalue()


def fp32(name: str, values: Any) -> Tensor:
    array = np.asarray(values, np.float32)
    return Tensor(name, "FP32", array.shape, array.tobytes())


@pytest.mark.parametrize(
    ("dtype", "oip"),
    [("f2", "FP16"), ("f4", "FP32"), ("f8", "FP64"), ("i1", "INT8"), ("i8", "INT64"),
     ("u1", "UINT8"), ("?", "BOOL")],
)  # fmt: skip
def test_every_sample_is_read_as_numpy_wrote_it(bench: Any, dtype: str, oip: str) -> None:
    array = np.arange(12).reshape(3, 2, 2).astype(dtype)
    golden = read_golden(bench.open(npz(in__x=array, out__y=array)))

    assert len(golden) == 3
    assert golden.inputs[2] == (Tensor("x", oip, (2, 2), array[2].tobytes()),)
    assert golden.output_names == {"y"}


def test_text_is_read(bench: Any) -> None:
    golden = read_golden(bench.open(npz(in__x=np.array([["a", "ü"], ["", "cd"]]))))

    assert golden.inputs[0][0].values() == (b"a", "ü".encode())
    assert golden.inputs[1][0].values() == (b"", b"cd")


def test_a_compressed_file_is_read(bench: Any) -> None:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"in.x": np.ones((2, 3), np.float32)}
    np.savez_compressed(buffer, **arrays)

    assert len(read_golden(bench.open(buffer.getvalue()))) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 not a zip",
        npz(in__x=np.ones((2, 1)))[:-30],
        npz(in__x=np.array([{"a": 1}], dtype=object)),
        npz(in__x=np.asfortranarray(np.ones((2, 3)))),
        npz(in__x=np.ones((2, 3), dtype=">f4")),
        npz(in__x=np.ones(2, np.complex64)),
        npz(in__x=np.ones((2, 1)), out__y=np.ones((3, 1))),
        npz(in__x=np.ones((0, 1))),
        npz(in__x=np.float32(1)),
        npz(out__y=np.ones((2, 1))),
        npz(x=np.ones((2, 1))),
        npz(in__x=np.ones((SAMPLES_MAX + 1, 1), np.int8)),
        npz(),
    ],
)
def test_what_is_no_golden_file_is_refused(bench: Any, content: bytes) -> None:
    with pytest.raises(GoldenUnreadable):
        read_golden(bench.open(content))


def test_a_zip_bomb_is_refused_by_its_declared_size(bench: Any) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in.x.npy", bytes(GOLDEN_BYTES_MAX + 1))

    assert len(buffer.getvalue()) < 100_000
    with pytest.raises(GoldenUnreadable, match="unpack to more"):
        read_golden(bench.open(buffer.getvalue()))


def test_a_bomb_that_lies_about_its_size_is_refused(bench: Any) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in.x.npy", b"\x93NUMPY\x01\x00" + bytes(10_000_000))
    lying = buffer.getvalue().replace((10_000_008).to_bytes(4, "little"), b"\x10\0\0\0")

    with pytest.raises(GoldenUnreadable):
        read_golden(bench.open(lying))


def test_a_file_over_the_bound_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "golden.npz").write_bytes(b"PK")
    os.truncate(tmp_path / "golden.npz", GOLDEN_BYTES_MAX + 1)

    with (
        (tmp_path / "golden.npz").open("rb") as file,
        pytest.raises(GoldenUnreadable, match="the file is over"),
    ):
        read_golden(file.fileno())


def test_the_tolerance_of_an_output_goes_before_the_general_one() -> None:
    health = Health(tolerance=0.1, tolerances={"loose": 1.0})
    golden = [fp32("y", [1, 2]), fp32("loose", [1, 2])]
    answer = [fp32("y", [1, 2.5]), fp32("loose", [1, 2.5])]

    y, loose = compare(4, answer, golden, health)

    assert (y.within, y.largest, y.sample) == (False, 0.5, 4)
    assert loose.within


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [fp32("y", [[1, 2]])],
        [fp32("y", [1, 2, 3])],
        [Tensor("y", "FP64", (2,), bytes(16))],
        [fp32("y", [1, float("nan")])],
        [fp32("y", [1, float("inf")])],
    ],
)
def test_another_shape_type_or_nan_is_never_within(answer: list[Tensor]) -> None:
    (difference,) = compare(0, answer, [fp32("y", [1, 2])], Health(tolerance=1e9))

    assert not difference.within


def test_no_more_texts_are_read_than_the_bound(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_module, "TEXTS_MAX", 6)
    at_the_bound = bench.open(npz(**{"in.x": np.array([["a", "b", "c"]] * 2)}))
    over = bench.open(npz(**{"in.x": np.array([["a", "b", "c", "d"]] * 2)}))

    assert len(read_golden(at_the_bound)) == 2
    with pytest.raises(GoldenUnreadable, match="more than 6 texts"):
        read_golden(over)


def test_texts_without_a_length_are_refused(bench: Any) -> None:
    """A shape of any size would hold no byte."""
    array, buffer = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros((1, 0), "<U1"))
    header = array.getvalue().replace(b"'<U1'", b"'<U0'").replace(b"(1, 0)", b"(1, 9)")
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("in.x.npy", header)

    with pytest.raises(GoldenUnreadable, match="type '<U0'"):
        read_golden(bench.open(buffer.getvalue()))


def test_large_outputs_are_compared_without_being_held_as_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """65,536 numbers are 2 MiB as objects, twice."""
    monkeypatch.setattr(tensors_module, "VALUES_AT_ONCE", 1 << 10)
    size = 1 << 16
    wanted = np.zeros((1, size), np.float32)
    given = wanted.copy()
    given[0, size - 1] = 0.5
    pair = [Tensor("y", "FP32", (1, size), each.tobytes()) for each in (given, wanted)]

    tracemalloc.start()
    try:
        [found] = compare(0, pair[:1], pair[1:], Health())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert found.largest == 0.5
    assert peak < 1 << 20


def test_equal_infinities_agree() -> None:
    y = fp32("y", [float("-inf"), 2])
    almost = fp32("y", [float("-inf"), 2.25])

    (same,) = compare(0, [y], [y], Health())
    (near,) = compare(0, [almost], [y], Health())

    assert same.within
    assert near.largest == 0.25
