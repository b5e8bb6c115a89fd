"""Inputs to ask a model: drawn from a seed by type and shape, or given by whoever knows better.

Golden samples are a promise about the model, not about the world: any input will do that the model
takes. What a random number cannot be (an index within a vocabulary, a sample rate) is told with a
recipe or comes from data.
"""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from mailboat_controller.bundles.npz import Array, Arrays
from mailboat_controller.bundles.ports import Port
from mailboat_schemas.errors import ConfigurationInvalid

SAMPLES_DEFAULT = 16
SAMPLES_MAX = 4096  # of given data: enough to calibrate with, and to draw a histogram of
DATA_BYTES_MAX = 512 << 20
SAMPLE_BYTES_MAX = 32 << 20  # of one tensor, as a worker takes it
FREE_SIZES = (64, 224, 16, 1)  # tried for free dimensions behind the first, in this order
INTEGERS_BELOW = (100, 2, 1)  # tried for integer inputs, likewise: 100 is within any vocabulary
_BOUNDS = {"UINT8": 256, "INT8": 128}  # pixels are all of their type


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is known of the inputs, by name of input. ``shapes`` are of one request."""

    samples: int = SAMPLES_DEFAULT
    seed: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))
    values: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Guess:
    """What is not known of them: it is tried until the model takes it."""

    free_size: int
    integers_below: int

    @property
    def words(self) -> str:
        return (
            f"free dimensions of {self.free_size} behind the first, "
            f"integers below {self.integers_below}"
        )


def guesses(ports: Sequence[Port], recipe: Recipe) -> Iterator[Guess]:
    """Those that differ for these inputs, the likeliest first."""
    free = any(
        not isinstance(size, int)
        for port in ports
        if port.name not in recipe.shapes
        for size in port.shape[1:]
    )
    integers = any(
        port.datatype.startswith(("INT", "UINT"))
        and port.datatype not in _BOUNDS
        and port.name not in recipe.values
        and port.name not in recipe.ranges
        for port in ports
    )
    for size in FREE_SIZES if free else FREE_SIZES[:1]:
        for below in INTEGERS_BELOW if integers else INTEGERS_BELOW[:1]:
            yield Guess(size, below)


def seeded_inputs(ports: Sequence[Port], recipe: Recipe, guess: Guess) -> Arrays:
    """Inputs by name, first axis = sample. The same arguments give the same numbers.

    Raises:
        ConfigurationInvalid: the recipe does not fit the model.
    """
    _refuse_strangers(ports, recipe)
    rng = np.random.default_rng(recipe.seed)
    batch_names = {size for port in ports for size in port.shape[:1] if isinstance(size, str)}
    return {
        port.name: _drawn(port, _shape(port, recipe, guess, batch_names), recipe, guess, rng)
        for port in ports
    }


def _refuse_strangers(ports: Sequence[Port], recipe: Recipe) -> None:
    names = {port.name for port in ports}
    told = {*recipe.shapes, *recipe.values, *recipe.ranges}
    if strangers := sorted(told - names):
        raise ConfigurationInvalid(
            f"The model has no input {strangers[0]!r}; it has {', '.join(sorted(names))}.",
            next_step="correct the name in --shape, --value or --range.",
        )


def _shape(port: Port, recipe: Recipe, guess: Guess, batch_names: set[str]) -> tuple[int, ...]:
    shape = recipe.shapes.get(port.name)
    if shape is None:
        # One request has one row; a dimension that is somewhere the first is that everywhere.
        shape = tuple(
            size
            if isinstance(size, int)
            else 1
            if place == 0 or size in batch_names
            else guess.free_size
            for place, size in enumerate(port.shape)
        )
    fits = len(shape) == len(port.shape) and all(
        not isinstance(theirs, int) or theirs == ours
        for ours, theirs in zip(shape, port.shape, strict=True)
    )
    if not fits or any(size < 0 for size in shape):
        raise ConfigurationInvalid(
            f"Input {port.name!r} has the shape {port.shown_shape}, not {list(shape)}.",
            next_step=f"write --shape {port.name}=1x3x224x224, say, with its own dimensions.",
        )
    if 8 * int(np.prod(shape)) > SAMPLE_BYTES_MAX:
        raise ConfigurationInvalid(
            f"One sample of input {port.name!r} would be over {SAMPLE_BYTES_MAX} bytes.",
            next_step=f"name a smaller one with --shape {port.name}=…",
        )
    return shape


def _drawn(
    port: Port, shape: tuple[int, ...], recipe: Recipe, guess: Guess, rng: np.random.Generator
) -> Array:
    whole = (recipe.samples, *shape)
    if port.datatype == "BYTES":
        words = np.array([f"sample {number}" for number in range(int(np.prod(whole)))])
        return words.reshape(whole)
    dtype = dtype_of(port)
    if port.name in recipe.values:
        return np.full(whole, recipe.values[port.name], dtype)
    if port.name in recipe.ranges:
        low, high = recipe.ranges[port.name]
        if dtype.kind in "iu":
            return rng.integers(int(low), int(high), whole, endpoint=True).astype(dtype)
        return rng.uniform(low, high, whole).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, whole).astype(dtype)
    if dtype.kind in "iu":
        return rng.integers(0, _BOUNDS.get(port.datatype, guess.integers_below), whole).astype(
            dtype
        )
    return rng.standard_normal(whole).astype(dtype)


def dtype_of(port: Port) -> np.dtype[np.generic]:
    """Of an input that is not text."""
    sizes = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BOOL": "?"}
    if port.datatype in sizes:
        return np.dtype(sizes[port.datatype])
    kind = "u" if port.datatype.startswith("U") else "i"
    return np.dtype(f"<{kind}{int(port.datatype.lstrip('UINT')) // 8}")


# --- given data ----------------------------------------------------------------------------------


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
    samples = [_read(file, ports) for file in files]
    if odd := [
        file
        for file, sample in zip(files, samples, strict=True)
        if sample.keys() != samples[0].keys()
    ]:
        raise _unusable(odd[0], f"it has other arrays than {files[0].name}")
    try:
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    except ValueError as error:
        raise _unusable(path, f"its files have different shapes: {error}") from error


def _read(path: Path, ports: Sequence[Port]) -> Arrays:
    try:
        if path.stat().st_size > DATA_BYTES_MAX:
            raise _unusable(path, f"it is over {DATA_BYTES_MAX} bytes")
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            if len(ports) != 1:
                raise _unusable(path, f"the model has {len(ports)} inputs, an .npy is one")
            return {ports[0].name: content}
        with content:
            if sum(info.file_size for info in content.zip.infolist()) > DATA_BYTES_MAX:
                raise _unusable(path, f"it unpacks to more than {DATA_BYTES_MAX} bytes")
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unusable(path, f"it does not read as numpy arrays: {error}") from error


def _sides(path: Path, arrays: Arrays, ports: Sequence[Port]) -> tuple[Arrays, Arrays]:
    names = {port.name for port in ports}
    inputs: Arrays = {}
    outputs: Arrays = {}
    for name, array in arrays.items():
        bare = name.removeprefix("in.")
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
    return np.ascontiguousarray(array.astype(dtype))


def _unusable(path: Path, problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"{path} cannot be used as data: {problem}.",
        next_step="give an .npz with an array for each input, first axis = sample "
        "(docs/models.md).",
    )
