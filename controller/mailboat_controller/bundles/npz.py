"""Arrays as ``.npz``, the same bytes for the same arrays; a worker's answers as arrays."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

TEXT_BYTES_MAX = 256 << 20  # numpy gives each text the room of the longest
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip file can say
_UNIX = 3
_MODE_0644 = 0o100644 << 16
_NUMPY_OF_OIP = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


def npz_bytes(arrays: Mapping[str, Array]) -> bytes:
    """Arrays as an uncompressed ``.npz``; the same arrays give the same bytes, on any day.

    ``numpy.savez`` stamps the zip entries with the time of day, and the digest of a golden file is
    part of what gets signed.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=_ZIP_EPOCH)
            entry.create_system = _UNIX
            entry.external_attr = _MODE_0644
            content = io.BytesIO()
            np.lib.format.write_array(content, arrays[name], version=(1, 0), allow_pickle=False)
            archive.writestr(entry, content.getvalue())
    return file.getvalue()


def stacked(answers: Sequence[Sequence[Sequence[Any]]]) -> Arrays:
    """Outputs of all samples by name, first axis = sample.

    ``answers[i]`` holds ``[name, datatype, shape, data]`` of each output of sample i.

    Raises:
        ValueError: an output has another shape for another sample, or is text that is too long.
    """
    by_name: dict[str, list[Array]] = {}
    for outputs in answers:
        for name, datatype, shape, data in outputs:
            by_name.setdefault(name, []).append(_array(datatype, shape, data))
    for arrays in by_name.values():
        if arrays[0].dtype.kind == "U":
            _refuse_wide(max(a.itemsize for a in arrays), sum(a.size for a in arrays))
    return {name: np.stack(arrays) for name, arrays in by_name.items()}


def _refuse_wide(widest_bytes: int, count: int) -> None:
    if widest_bytes * count > TEXT_BYTES_MAX:
        raise ValueError(f"texts of up to {widest_bytes} bytes would take over {TEXT_BYTES_MAX}")


def _array(datatype: str, shape: Sequence[int], data: bytes) -> Array:
    if datatype == "BYTES":
        texts = _texts(data)
        _refuse_wide(4 * max(map(len, texts), default=0), len(texts))
        return np.array(texts, dtype=np.str_).reshape(shape)
    return np.frombuffer(data, dtype=_NUMPY_OF_OIP[datatype]).reshape(shape)


def _texts(data: bytes) -> list[str]:
    """Each element is a 4-byte little-endian length and its bytes."""
    texts, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        texts.append(data[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return texts
