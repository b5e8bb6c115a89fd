"""Golden samples: inputs with the outputs that the publisher vouches for, and the comparison.

An ``.npz`` with arrays ``in.<tensor>`` and ``out.<tensor>``, first axis = sample. Read without
numpy: the format is a zip of a one-line header and raw elements, and the agent should not carry
numpy for it. Nothing is unpickled, and sizes are bounded before anything is read.

Source of the format: numpy.lib.format, versions 1.0 to 3.0 (NEP 1).
"""

import ast
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from mailboat_agent.serving.tensors import (
    FLOATS,
    RANK_MAX,
    TENSORS_MAX,
    Buffer,
    Tensor,
    element_count,
)
from mailboat_schemas.documents.health import Health
from mailboat_schemas.errors import ReleaseRejected

GOLDEN_BYTES_MAX = 64 << 20  # unpacked, all arrays together
SAMPLES_MAX = 10_000
TEXTS_MAX = 1 << 18  # of all samples; each is an object of the agent's for a moment
_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HEADER_BYTES_MAX = 10_000  # numpy's own bound
_MAGIC = b"\x93NUMPY"
_OIP_OF_NUMPY = {
    "|b1": "BOOL",
    "|u1": "UINT8",
    "<u2": "UINT16",
    "<u4": "UINT32",
    "<u8": "UINT64",
    "|i1": "INT8",
    "<i2": "INT16",
    "<i4": "INT32",
    "<i8": "INT64",
    "<f2": "FP16",
    "<f4": "FP32",
    "<f8": "FP64",
}
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    EOFError,
    OSError,
    RuntimeError,
)


class GoldenUnreadable(ReleaseRejected):
    """The golden samples are not what the format asks for, so the gate cannot be evaluated."""

    code = "E-GOLDEN"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The golden samples cannot be used: {what}.",
            next_step="make them again with `numpy.savez` and arrays in.<tensor>, out.<tensor>.",
        )


@dataclass(frozen=True, slots=True)
class Golden:
    """``inputs[i]`` and ``outputs[i]`` belong to sample i; there is at least one."""

    inputs: tuple[tuple[Tensor, ...], ...]
    outputs: tuple[tuple[Tensor, ...], ...]

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def output_names(self) -> frozenset[str]:
        return frozenset(tensor.name for tensor in self.outputs[0])


def read_golden(golden_fd: int) -> Golden:
    """Read verified golden samples from an open descriptor, which stays the caller's.

    Raises:
        GoldenUnreadable: says what is wrong.
    """
    # Opened again by number, so that reading moves no offset that another reader shares.
    with open(f"/proc/self/fd/{golden_fd}", "rb") as file:  # noqa: PTH123 - not a path of ours
        if os.fstat(file.fileno()).st_size > GOLDEN_BYTES_MAX:
            raise GoldenUnreadable(f"the file is over {GOLDEN_BYTES_MAX} bytes")
        try:
            with zipfile.ZipFile(file) as archive:
                arrays = _read_arrays(archive)
        except _UNREADABLE as error:
            raise GoldenUnreadable(f"it is not a readable .npz: {error}") from error
    return _by_sample(arrays)


def _read_arrays(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    members = archive.infolist()
    if len(members) > 2 * TENSORS_MAX:
        raise GoldenUnreadable(f"it has {len(members)} arrays")
    # Other methods may ask for gigabytes to decompress a few bytes.
    if any(member.compress_type not in _COMPRESSION for member in members):
        raise GoldenUnreadable("it is compressed with something else than deflate")
    # A declared size that is a lie ends the read early, so the sum is a bound on what is unpacked.
    if sum(member.file_size for member in members) > GOLDEN_BYTES_MAX:
        raise GoldenUnreadable(f"its arrays unpack to more than {GOLDEN_BYTES_MAX} bytes")
    arrays = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        with archive.open(member) as stream:
            arrays[name] = _read_array(name, stream, member.file_size)
    return arrays


def _read_array(name: str, stream: IO[bytes], size_bytes: int) -> Tensor:
    prefix = stream.read(8)
    if prefix[:6] != _MAGIC or prefix[6] not in (1, 2, 3):
        raise GoldenUnreadable(f"{name!r} is not a numpy array")
    length_format = "<H" if prefix[6] == 1 else "<I"
    (length,) = struct.unpack(length_format, stream.read(struct.calcsize(length_format)))
    if length > _HEADER_BYTES_MAX:
        raise GoldenUnreadable(f"{name!r} has a header of {length} bytes")
    dtype, shape = _read_header(name, stream.read(length))
    data = stream.read(size_bytes)
    if dtype in _OIP_OF_NUMPY:
        item_bytes = int(dtype[2:])
        datatype = _OIP_OF_NUMPY[dtype]
    elif match := re.fullmatch(r"<U([1-9]\d{0,5})", dtype):
        item_bytes = 4 * int(match[1])
        datatype = "BYTES"
        if len(data) > TEXTS_MAX * item_bytes:
            raise GoldenUnreadable(f"{name!r} holds more than {TEXTS_MAX} texts")
    else:
        raise GoldenUnreadable(f"{name!r} has the type {dtype!r}, which no tensor has")
    if len(data) != element_count(shape) * item_bytes:
        raise GoldenUnreadable(f"{name!r} holds {len(data)} bytes, its shape {shape} says another")
    if datatype == "BYTES":
        data = _bytes_of_text(name, data, item_bytes)
    return Tensor(name, datatype, shape, data)


def _read_header(name: str, header: bytes) -> tuple[str, tuple[int, ...]]:
    try:
        content = ast.literal_eval(header.decode("latin1").strip())
        dtype, fortran, shape = content["descr"], content["fortran_order"], content["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise GoldenUnreadable(f"{name!r} has a header that does not parse") from error
    if not isinstance(dtype, str) or not isinstance(shape, tuple) or fortran is not False:
        raise GoldenUnreadable(f"{name!r} is not a plain array in row-major order")
    if not 1 <= len(shape) <= RANK_MAX + 1 or any(type(d) is not int or d < 0 for d in shape):
        raise GoldenUnreadable(f"{name!r} has the shape {shape}")
    return dtype, shape


def _bytes_of_text(name: str, data: bytes, item_bytes: int) -> bytes:
    encoded = []
    for start in range(0, len(data), item_bytes):
        try:
            text = data[start : start + item_bytes].decode("utf-32-le").rstrip("\0").encode()
        except UnicodeError as error:
            raise GoldenUnreadable(f"{name!r} holds text that does not decode") from error
        encoded.append(struct.pack("<I", len(text)) + text)
    return b"".join(encoded)


def _by_sample(arrays: Mapping[str, Tensor]) -> Golden:
    sides: dict[str, list[list[Tensor]]] = {"in": [], "out": []}
    counts = {array.shape[0] for array in arrays.values()}
    if len(counts) != 1:
        raise GoldenUnreadable("its arrays have different numbers of samples, or there are none")
    (count,) = counts
    if not 1 <= count <= SAMPLES_MAX:
        raise GoldenUnreadable(f"it has {count} samples; 1 to {SAMPLES_MAX} may be")
    for name, array in arrays.items():
        side, _, tensor_name = name.partition(".")
        if side not in sides or not tensor_name:
            raise GoldenUnreadable(f"{name!r} is neither in.<tensor> nor out.<tensor>")
        sides[side].append(_split(tensor_name, array, count))
    if not sides["in"]:
        raise GoldenUnreadable("it has no inputs")
    return Golden(
        inputs=tuple(zip(*sides["in"], strict=True)),
        outputs=tuple(zip(*sides["out"], strict=True)) or ((),) * count,
    )


def _split(name: str, array: Tensor, count: int) -> list[Tensor]:
    shape = array.shape[1:]
    parts: Sequence[Buffer]
    if array.datatype == "BYTES":
        elements = [struct.pack("<I", len(text)) + text for text in array.values()]
        size = element_count(shape)
        parts = [b"".join(elements[i * size : (i + 1) * size]) for i in range(count)]
    else:
        size = len(array.data) // count
        parts = [array.data[i * size : (i + 1) * size] for i in range(count)]
    return [Tensor(name, array.datatype, shape, part) for part in parts]


# --- the comparison ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far one output of one sample is from its golden value.

    ``largest`` is |output - golden| at the worst element, for text and bool 1 per wrong element;
    None where it cannot be said: another type or shape, or NaN.
    """

    tensor: str
    sample: int
    largest: float | None
    tolerance: float
    problem: str = ""

    @property
    def excess(self) -> float:
        """For ordering: how many tolerances too far, infinite where it cannot be said."""
        if self.problem or self.largest is None:
            return math.inf
        if self.largest <= self.tolerance:
            return self.largest / self.tolerance if self.tolerance else 0.0
        return self.largest / self.tolerance if self.tolerance else math.inf

    @property
    def within(self) -> bool:
        return not self.problem and self.largest is not None and self.largest <= self.tolerance


def compare(
    sample: int, outputs: Sequence[Tensor], golden: Sequence[Tensor], health: Health
) -> list[Difference]:
    """Every golden output of one sample against what the model answered."""
    answered = {tensor.name: tensor for tensor in outputs}
    return [
        _compare(
            sample,
            answered.get(expected.name),
            expected,
            health.tolerances.get(expected.name, health.tolerance),
        )
        for expected in golden
    ]


def _compare(sample: int, answer: Tensor | None, expected: Tensor, tolerance: float) -> Difference:
    problem, largest = "", None
    if answer is None:
        problem = "the model did not answer it"
    elif answer.datatype != expected.datatype:
        problem = f"type {answer.datatype}, golden {expected.datatype}"
    elif answer.shape != expected.shape:
        problem = f"shape {list(answer.shape)}, golden {list(expected.shape)}"
    else:
        got, wanted = _nans(answer), _nans(expected)
        if got or wanted:
            problem = f"{got} elements are NaN, {wanted} in golden"
        else:
            largest = _largest_difference(answer, expected)
    return Difference(
        tensor=expected.name, sample=sample, largest=largest, tolerance=tolerance, problem=problem
    )


def _nans(tensor: Tensor) -> int:
    return sum(map(math.isnan, tensor.iterate())) if tensor.datatype in FLOATS else 0


def _largest_difference(answer: Tensor, expected: Tensor) -> float:
    if answer.data == expected.data:
        return 0.0
    pairs = zip(answer.iterate(), expected.iterate(), strict=True)
    if expected.datatype in ("BYTES", "BOOL"):
        return float(any(a != b for a, b in pairs))
    # What is equal is looked at first: inf - inf is no number.
    return float(max(0 if a == b else abs(a - b) for a, b in pairs))
