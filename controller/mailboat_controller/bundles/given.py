"""Samples that were given: `.npz` and `.npy` of a person's own, every size bounded before reading.

What a header says is held against the bytes that are there before anything is allocated for it.
"""

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from mailboat_controller.bundles.npz import Array, Arrays
from mailboat_controller.bundles.ports import Port
from mailboat_controller.bundles.samples import dtype_of
from mailboat_schemas.errors import ConfigurationInvalid

SAMPLES_MAX = 4096  # enough to calibrate with, and to draw a histogram of
DATA_BYTES_MAX = 512 << 20  # unpacked, all files together
ARRAYS_MAX = 256  # of one file
_ZIP = b"PK\x03\x04"
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    NotImplementedError,  # a compression that this Python has not
    RuntimeError,  # it is encrypted
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class Given:
    """``outputs`` are what the data promises; empty where the model's own answers are taken."""

    inputs: Arrays
    outputs: Arrays


def given_samples(path: Path, ports: Sequence[Port]) -> Given:
    """Read data: an ``.npz`` of arrays ``in.<tensor>`` (or ``<tensor>``) and perhaps
    ``out.<tensor>``, first axis = sample; or a directory with one such file for each sample,
    without that axis, as ``.npz`` or, for a model of one input, ``.npy``.

    Raises:
        ConfigurationInvalid: says which file, and what is wrong with it.
    """
    arrays = _read_directory(path, ports) if path.is_dir() else _read(path, ports)
    inputs, outputs = _sides(path, arrays, ports)
    counts = {len(array) for array in (*inputs.values(), *outputs.values()) if array.ndim}
    if len(counts) != 1 or not 1 <= next(iter(counts)) <= SAMPLES_MAX:
        raise _unusable(path, f"its arrays must have one and the same length, up to {SAMPLES_MAX}")
    return Given(
        {port.name: _fitted(path, port, inputs[port.name]) for port in ports},
        {name: np.ascontiguousarray(array) for name, array in outputs.items()},
    )


def _read_directory(path: Path, ports: Sequence[Port]) -> Arrays:
    files = sorted(file for file in path.iterdir() if file.suffix in (".npz", ".npy"))
    if not 1 <= len(files) <= SAMPLES_MAX:
        raise _unusable(path, f"it has {len(files)} files .npz or .npy, 1 to {SAMPLES_MAX} may be")
    samples: list[Arrays] = []
    size_bytes = 0
    for file in files:
        samples.append(_read(file, ports))
        size_bytes += sum(array.nbytes for array in samples[-1].values())
        if size_bytes > DATA_BYTES_MAX:
            raise _unusable(path, f"its files unpack to more than {DATA_BYTES_MAX} bytes")
        if samples[-1].keys() != samples[0].keys():
            raise _unusable(file, f"it has other arrays than {files[0].name}")
    try:
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    except ValueError as error:
        raise _unusable(path, f"its files have different shapes: {error}") from error


def _read(path: Path, ports: Sequence[Port]) -> Arrays:
    if path.exists() and not path.is_file():
        raise _unusable(path, "it is no regular file")
    try:
        size_bytes = path.stat().st_size
        if size_bytes > DATA_BYTES_MAX:
            raise _unusable(path, f"it is over {DATA_BYTES_MAX} bytes")
        with path.open("rb") as file:
            packed = file.read(len(_ZIP)) == _ZIP
            file.seek(0)
            if packed:
                with zipfile.ZipFile(file) as archive:
                    return _read_archive(path, archive)
            array = _read_array(file, size_bytes)
    except _UNREADABLE as error:
        raise _unusable(path, f"it does not read as numpy arrays: {error}") from error
    if len(ports) != 1:
        raise _unusable(path, f"the model has {len(ports)} inputs, an .npy is one")
    return {ports[0].name: array}


def _read_archive(path: Path, archive: zipfile.ZipFile) -> Arrays:
    members = archive.infolist()
    if len(members) > ARRAYS_MAX:
        raise _unusable(path, f"it has {len(members)} arrays, {ARRAYS_MAX} may be")
    if sum(member.file_size for member in members) > DATA_BYTES_MAX:
        raise _unusable(path, f"it unpacks to more than {DATA_BYTES_MAX} bytes")
    arrays: Arrays = {}
    for member in members:
        with archive.open(member) as stream:
            arrays[member.filename.removesuffix(".npy")] = _read_array(stream, member.file_size)
    return arrays


def _read_array(stream: IO[bytes], size_bytes: int) -> Array:
    """
    Raises:
        ValueError, and as `zipfile` does: it is no array, or says that it is more than there is.
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version} of numpy's format")
    if dtype.hasobject:
        raise ValueError("it holds Python objects; write plain numbers or text")
    needed = dtype.itemsize * math.prod(shape)
    if any(size < 0 for size in shape) or needed > size_bytes:
        raise ValueError(f"it says {list(shape)} of {dtype}, which is more than it holds")
    content = stream.read(needed)
    if len(content) != needed:
        raise ValueError("it ends too early")
    array: Array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    return array


def _sides(path: Path, arrays: Arrays, ports: Sequence[Port]) -> tuple[Arrays, Arrays]:
    names = {port.name for port in ports}
    inputs: Arrays = {}
    outputs: Arrays = {}
    for name, array in arrays.items():
        bare = name.removeprefix("in.")
        if bare in names and bare in inputs:
            raise _unusable(path, f"input {bare!r} is in it twice, with and without 'in.'")
        if bare in names:
            inputs[bare] = array
        elif name.startswith("out."):
            outputs[name.removeprefix("out.")] = array
        else:
            raise _unusable(path, f"{name!r} is no input of the model: {', '.join(sorted(names))}")
    if missing := sorted(names - inputs.keys()):
        raise _unusable(path, f"input {missing[0]!r} is not in it")
    return inputs, outputs


def _fitted(path: Path, port: Port, array: Array) -> Array:
    """In the model's type, if nothing is lost by that."""
    if port.datatype == "BYTES":
        return array.astype(np.str_)
    dtype = dtype_of(port)
    if array.dtype.kind in "OUS" or not np.can_cast(array.dtype, dtype, "same_kind"):
        raise _unusable(path, f"input {port.name!r} is {array.dtype}, the model takes {dtype}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        fitted = np.ascontiguousarray(array.astype(dtype))
    if dtype.kind == "f" and np.isinf(fitted).sum() > np.isinf(array).sum():
        raise _unusable(path, f"input {port.name!r} has numbers that {dtype} cannot hold")
    return fitted


def _unusable(path: Path, problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"{path} cannot be used as data: {problem}.",
        next_step="give an .npz with an array for each input, first axis = sample "
        "(docs/models.md).",
    )
