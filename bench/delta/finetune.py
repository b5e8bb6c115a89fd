"""A real network, fine-tuned for real: magika's file-type classifier, in numpy, seeded.

Its graph is small enough to write the backward pass by hand: bytes are embedded in 64 values each,
four neighbours make a position of 256 channels, a normalisation, a convolution over five positions,
the maximum over all of them, a second normalisation and a dense layer. `forward` is compared with
onnxruntime before it is trained. What it learns are the files of the wheels that it came from,
each cut into pieces, labelled by the kind of file: what a customer does who has kinds of their own.

Two machines do not make the same bits (matrix products are summed in another order), so the files
are made here and pinned nowhere. The ratios differ in the third digit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Floats = NDArray[np.float32]
Weights = dict[str, Floats]

PREFIX = "jax2tf_get_logits_/"
NET = f"{PREFIX}pjit_get_logits_/MagikaV2/"
NAMES = {
    "embed": f"{PREFIX}Const:0",  # (257, 64)
    "embed_bias": f"{NET}Dense_0/Reshape:0",  # (1, 1, 64)
    "scale_0": f"{NET}LayerNorm_0/Reshape_2:0",  # (1, 512, 1): of positions
    "shift_0": f"{NET}LayerNorm_0/Reshape_3:0",
    "conv": f"{NET}Conv_0/transpose_3:0",  # (512, 256, 5, 1)
    "conv_bias": "const_fold_opt__209",  # (1, 512, 1)
    "scale_1": f"{NET}LayerNorm_1/Reshape_2:0",  # (1, 512)
    "shift_1": f"{NET}LayerNorm_1/Reshape_3:0",
    "dense": f"{PREFIX}Const_24:0",  # (512, 214)
    "dense_bias": f"{NET}Dense_1/Reshape:0",  # (1, 214)
}
INPUT_BYTES = 2048
PADDING = 256  # the token of a file that is too short
EPSILON = np.float32(1e-6)
BATCH = 8
CUBE = np.float32(0.044715)  # of GELU's approximation
AGREEMENT = 2e-4  # of probabilities, with onnxruntime


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is trained on. ``only`` names the weights that move; None is all of them."""

    optimiser: str  # "sgd" or "adam"
    rate: float
    steps: int
    only: tuple[str, ...] | None = None
    seed: int = 7


def weights_of(model: onnx.ModelProto) -> Weights:
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    return {key: numpy_helper.to_array(held[name]).copy() for key, name in NAMES.items()}


def with_weights(content: bytes, weights: Mapping[str, Floats]) -> bytes:
    """The same file with other weights in the same places."""
    model = onnx.load_from_string(content)
    by_name = {name: weights[key] for key, name in NAMES.items()}
    for tensor in model.graph.initializer:
        if tensor.name in by_name:
            tensor.raw_data = by_name[tensor.name].astype("<f4").tobytes()
    return model.SerializeToString(deterministic=True)


def examples(files: Mapping[str, bytes], kinds: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens (n, 2048) and labels (n,): the ending of a file's name, as one of the classes."""
    endings = sorted({name.rpartition(".")[2] for name in files})
    tokens, labels = [], []
    for name in sorted(files):
        content = np.frombuffer(files[name][: 64 * INPUT_BYTES], np.uint8).astype(np.int64)
        for start in range(0, len(content), INPUT_BYTES):
            row = np.full(INPUT_BYTES, PADDING, np.int64)
            piece = content[start : start + INPUT_BYTES]
            row[: len(piece)] = piece
            tokens.append(row)
            labels.append(endings.index(name.rpartition(".")[2]) % kinds)
    return np.stack(tokens), np.array(labels)


def trained(content: bytes, files: Mapping[str, bytes], recipe: Recipe) -> bytes:
    """The model file after ``recipe``."""
    weights = weights_of(onnx.load_from_string(content))
    tokens, labels = examples(files, weights["dense"].shape[1])
    agree(content, weights, tokens[:2])
    rng = np.random.default_rng(recipe.seed)
    moments = {key: (np.zeros_like(value), np.zeros_like(value)) for key, value in weights.items()}
    for step in range(1, recipe.steps + 1):
        rows = rng.choice(len(tokens), BATCH, replace=False)
        gradients = gradients_of(weights, tokens[rows], labels[rows])
        for key in recipe.only or weights:
            weights[key] -= moved(gradients[key], moments, key, recipe, step)
    return with_weights(content, weights)


def moved(
    gradient: Floats,
    moments: dict[str, tuple[Floats, Floats]],
    key: str,
    recipe: Recipe,
    step: int,
) -> Floats:
    """What is taken off a weight in one step."""
    rate = np.float32(recipe.rate)
    if recipe.optimiser == "sgd":
        return rate * gradient
    first, second = moments[key]
    first += np.float32(0.1) * (gradient - first)
    second += np.float32(0.001) * (gradient * gradient - second)
    unbiased = np.sqrt(second / np.float32(1 - 0.999**step)) + np.float32(1e-8)
    return rate * (first / np.float32(1 - 0.9**step)) / unbiased


def agree(content: bytes, weights: Weights, tokens: NDArray[np.int64]) -> None:
    """Raises ValueError if what is trained here is not the network in the file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"bytes": tokens.astype(np.int32)})[0]
    worst = float(np.abs(softmax(Forward(weights, tokens).logits) - expected).max())
    if not worst < AGREEMENT:
        raise ValueError(f"the network written here differs from the file's by {worst}")


class Forward:
    """All that the backward pass needs, kept."""

    def __init__(self, weights: Weights, tokens: NDArray[np.int64]) -> None:
        batch = len(tokens)
        self.embedded = weights["embed"][tokens] + weights["embed_bias"]
        self.active = gelu(self.embedded).reshape(batch, INPUT_BYTES // 4, 256)
        self.normal_0, self.spread_0 = normalised(self.active, 1)
        scaled = self.normal_0 * weights["scale_0"] + weights["shift_0"]
        windows = np.lib.stride_tricks.sliding_window_view(scaled, 5, axis=1)  # (b, 508, 256, 5)
        self.windows = np.ascontiguousarray(windows).reshape(batch, -1, 256 * 5)
        kernel = weights["conv"].reshape(512, 256 * 5)
        self.convolved = self.windows @ kernel.T + weights["conv_bias"].reshape(512)
        heights = gelu(self.convolved)  # (b, 508, 512)
        self.highest = heights.argmax(axis=1)  # (b, 512)
        pooled = np.take_along_axis(heights, self.highest[:, None], axis=1)[:, 0]
        self.normal_1, self.spread_1 = normalised(pooled, 1)
        self.features = self.normal_1 * weights["scale_1"] + weights["shift_1"]
        self.logits = self.features @ weights["dense"] + weights["dense_bias"]


def gradients_of(weights: Weights, tokens: NDArray[np.int64], labels: NDArray[np.int64]) -> Weights:
    """Of the mean cross-entropy."""
    seen = Forward(weights, tokens)
    batch = len(tokens)
    found: Weights = {}
    slope = softmax(seen.logits)
    slope[np.arange(batch), labels] -= 1
    slope /= batch
    found["dense"] = seen.features.T @ slope
    found["dense_bias"] = slope.sum(axis=0, keepdims=True)
    slope = slope @ weights["dense"].T
    found["scale_1"] = (slope * seen.normal_1).sum(axis=0, keepdims=True)
    found["shift_1"] = slope.sum(axis=0, keepdims=True)
    slope = through_normalised(slope * weights["scale_1"], seen.normal_1, seen.spread_1)
    # Only where the maximum was: one position for each example and filter.
    lit = np.take_along_axis(seen.convolved, seen.highest[:, None], axis=1)[:, 0]
    slope = slope * gelu_slope(lit)  # (b, 512)
    found["conv_bias"] = slope.sum(axis=0).reshape(weights["conv_bias"].shape)
    kernel = weights["conv"].reshape(512, 1280)
    found["conv"] = np.zeros_like(kernel)
    spread = np.zeros_like(seen.windows)
    for example, (positions, amounts) in enumerate(zip(seen.highest, slope, strict=True)):
        found["conv"] += amounts[:, None] * seen.windows[example, positions]
        np.add.at(spread[example], positions, amounts[:, None] * kernel)
    found["conv"] = found["conv"].reshape(weights["conv"].shape)
    spread = spread.reshape(batch, -1, 256, 5)
    slope = np.zeros_like(seen.active)
    for offset in range(5):
        slope[:, offset : offset + spread.shape[1]] += spread[..., offset]
    found["scale_0"] = (slope * seen.normal_0).sum(axis=(0, 2)).reshape(1, -1, 1)
    found["shift_0"] = slope.sum(axis=(0, 2)).reshape(1, -1, 1)
    slope = through_normalised(slope * weights["scale_0"], seen.normal_0, seen.spread_0)
    slope = slope.reshape(seen.embedded.shape) * gelu_slope(seen.embedded)
    found["embed_bias"] = slope.sum(axis=(0, 1)).reshape(1, 1, -1)
    found["embed"] = np.zeros_like(weights["embed"])
    np.add.at(found["embed"], tokens.reshape(-1), slope.reshape(-1, 64))
    return found


def gelu(x: Floats) -> Floats:
    return np.float32(0.5) * x * (1 + np.tanh(np.float32(0.7978845608) * (x + CUBE * x * x * x)))


def gelu_slope(x: Floats) -> Floats:
    bent = np.tanh(np.float32(0.7978845608) * (x + CUBE * x * x * x))
    inner = np.float32(0.7978845608) * (1 + 3 * CUBE * x * x)
    return np.float32(0.5) * (1 + bent) + np.float32(0.5) * x * (1 - bent * bent) * inner


def normalised(x: Floats, axis: int) -> tuple[Floats, Floats]:
    spread = np.sqrt(x.var(axis=axis, keepdims=True) + EPSILON)
    return (x - x.mean(axis=axis, keepdims=True)) / spread, spread


def through_normalised(slope: Floats, normal: Floats, spread: Floats) -> Floats:
    # Both are normalised along their first axis after the batch: positions, and channels.
    along = (slope * normal).mean(axis=1, keepdims=True)
    return (slope - slope.mean(axis=1, keepdims=True) - normal * along) / spread


def softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def loss(weights: Weights, tokens: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    chosen = softmax(Forward(weights, tokens).logits)[np.arange(len(labels)), labels]
    return float(-np.log(chosen + 1e-30).mean())
