"""Inputs to ask a model, drawn from a seed by type and shape. `given` has those that were given.

Golden samples are a promise about the model, not about the world: any input will do that the model
takes. What a random number cannot be (an index within a vocabulary, a sample rate) is told with a
recipe or comes from data.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from mailboat_controller.bundles.npz import Array, Arrays
from mailboat_controller.bundles.ports import Port
from mailboat_schemas.errors import ConfigurationInvalid

SAMPLES_DEFAULT = 16
DRAWN_BYTES_MAX = 512 << 20  # of all samples of all inputs
SAMPLE_BYTES_MAX = 32 << 20  # of one tensor, as a worker takes it
FREE_SIZES = (64, 224, 16, 1)  # tried for free dimensions behind the first, in this order
INTEGERS_BELOW = (100, 2, 1)  # tried for integer inputs, likewise: 100 is within any vocabulary
_EXACT_MAX = 2.0**53  # whole numbers that a float holds
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
    shapes = {port.name: _shape(port, recipe, guess, batch_names) for port in ports}
    if 8 * recipe.samples * sum(map(math.prod, shapes.values())) > DRAWN_BYTES_MAX:
        raise ConfigurationInvalid(
            f"{recipe.samples} samples of these inputs would be over {DRAWN_BYTES_MAX} bytes.",
            next_step="draw fewer with --samples, or name smaller ones with --shape.",
        )
    return {port.name: _drawn(port, shapes[port.name], recipe, guess, rng) for port in ports}


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
    if 8 * math.prod(shape) > SAMPLE_BYTES_MAX:
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
        if port.name in recipe.values or port.name in recipe.ranges:
            raise ConfigurationInvalid(
                f"Input {port.name!r} is text: there are no numbers to give it.",
                next_step="give samples with --data.",
            )
        words = np.array([f"sample {number}" for number in range(math.prod(whole))])
        return words.reshape(whole)
    dtype = dtype_of(port)
    if port.name in recipe.values:
        _refuse_numbers(port, dtype, recipe.values[port.name])
        return np.full(whole, recipe.values[port.name], dtype)
    if port.name in recipe.ranges:
        low, high = recipe.ranges[port.name]
        _refuse_numbers(port, dtype, low, high)
        if dtype.kind in "iu":
            return rng.integers(int(low), int(high), whole, endpoint=True, dtype=dtype)
        # Between two ends, and not low + (high - low) * share: the difference may be infinite.
        share = rng.random(whole)
        return (low * (1 - share) + high * share).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, whole).astype(dtype)
    if dtype.kind in "iu":
        return rng.integers(0, _BOUNDS.get(port.datatype, guess.integers_below), whole).astype(
            dtype
        )
    return rng.standard_normal(whole).astype(dtype)


def _refuse_numbers(port: Port, dtype: np.dtype[np.generic], *numbers: float) -> None:
    """
    Raises:
        ConfigurationInvalid: one of them is none that the input can have.
    """
    if dtype.kind == "b":
        low, high, whole = 0.0, 1.0, True
    elif dtype.kind in "iu":
        whole_numbers = np.iinfo(dtype.str)
        low, high, whole = float(whole_numbers.min), float(whole_numbers.max), True
    else:
        bounds = np.finfo(dtype.str)
        low, high, whole = float(bounds.min), float(bounds.max), False
    for number in numbers:
        # As a float the largest of 64 bits is one more than an integer may be.
        over = whole and high > _EXACT_MAX and number >= high
        if not low <= number <= high or over or (whole and number != int(number)):
            raise ConfigurationInvalid(
                f"Input {port.name!r} is {port.datatype} and cannot be {number:g}.",
                next_step="write a number that it can have with --value or --range.",
            )


def dtype_of(port: Port) -> np.dtype[np.generic]:
    """Of an input that is not text."""
    sizes = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BOOL": "?"}
    if port.datatype in sizes:
        return np.dtype(sizes[port.datatype])
    kind = "u" if port.datatype.startswith("U") else "i"
    return np.dtype(f"<{kind}{int(port.datatype.lstrip('UINT')) // 8}")
