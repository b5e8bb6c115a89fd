"""What a model is, and what may be promised of it: read, asked, and asked again."""

from pathlib import Path

from mailboat_controller.bundles.asking import (
    Asked,
    RuntimeWish,
    ask,
    largest_difference,
    open_model,
    same_bits,
)
from mailboat_controller.bundles.device_process import DeviceProcess, ModelRefused
from mailboat_controller.bundles.npz import Arrays
from mailboat_controller.bundles.ports import OpenedModel
from mailboat_controller.bundles.proposal import tolerances
from mailboat_controller.bundles.samples import given_samples
from mailboat_controller.deltas.layouts import onnx
from mailboat_controller.deltas.layouts.tensors import Unreadable

MODEL_BYTES_MAX = 2 << 30  # where a protobuf ends


class AnswersVary(ModelRefused):
    """The same question got two answers: golden samples would pass by luck."""

    code = "E-ANSWERS-VARY"

    def __init__(self, difference: float, allowed: float) -> None:
        super().__init__(
            f"Asked twice in two processes, the model differs from itself by {difference:.3g}; "
            f"its golden samples would allow {allowed:.3g}.",
            "take the random operators (Dropout, RandomNormal) out of the export.",
        )


class PromiseBroken(ModelRefused):
    """The data's own outputs are not what the model answers."""

    code = "E-PROMISE-BROKEN"


def refuse_batches(sizes: tuple[int, ...], opened: OpenedModel) -> None:
    """
    Raises:
        ModelRefused: an input has no free dimension for the rows of a batch.
    """
    fixed = [port for port in opened.inputs if not port.shape or isinstance(port.shape[0], int)]
    if sizes and fixed:
        raise ModelRefused(
            f"Input {fixed[0].name!r} is {fixed[0].shown_shape}: there is no room for a batch.",
            "export it with a free first dimension, or leave out --batch.",
        )


def model_bytes(path: Path) -> bytes:
    """
    Raises:
        ModelRefused: not a file that could be an ONNX model.
    """
    with path.open("rb") as file:
        content = file.read(MODEL_BYTES_MAX + 1)
    if len(content) > MODEL_BYTES_MAX:
        raise ModelRefused(
            f"{path.name} is over {MODEL_BYTES_MAX} bytes.",
            "keep weights in the model's file and below what a protobuf can hold; quantize it.",
        )
    if content[4:8] == b"TFL3":
        raise ModelRefused(
            f"{path.name} is a TensorFlow Lite model; devices run ONNX.",
            "convert it: python -m tf2onnx.convert --tflite MODEL --output model.onnx.",
        )
    if not content or content[:1] != b"\x08":  # ir_version, which every writer puts first
        raise ModelRefused(
            f"{path.name} is not an ONNX model.", "export the model as ONNX, in one file."
        )
    return content


def opset_of(content: bytes) -> int | None:
    try:
        return onnx.opset(memoryview(content))
    except Unreadable:
        return None  # the device's loader says what is wrong with it


def ask_with_data(
    device: DeviceProcess, model: Path, wish: RuntimeWish, data: Path
) -> tuple[OpenedModel, Asked, Arrays]:
    """The model, its answers, and the answers that are promised: the data's own if it has any.

    Raises:
        PromiseBroken: they are not the same. ModelRefused, ConfigurationInvalid
    """
    opened = open_model(device, model, wish)
    given = given_samples(data, opened.inputs)
    asked = ask(device, given.inputs)
    promised = asked.outputs | given.outputs
    if strangers := sorted(promised.keys() - asked.outputs.keys()):
        raise ModelRefused(
            f"The data promises an output {strangers[0]!r} that the model does not have.",
            f"name it out.<tensor>, with one of: {', '.join(asked.outputs)}.",
        )
    allowed = max(tolerances(promised).values(), default=0.0)
    gap = largest_difference(promised, asked.outputs)
    if not gap <= allowed:
        raise PromiseBroken(
            f"The model's answers are off the data's by {gap:.3g}; {allowed:.3g} is allowed.",
            "look at the export, or at how the data was made.",
        )
    return opened, asked, promised


def answers_again(device: DeviceProcess, model: Path, wish: RuntimeWish, asked: Asked) -> bool:
    """Ask the same in another process: whether the answers are equal to the bit.

    Raises:
        AnswersVary: by more than its golden samples allow.
    """
    open_model(device, model, wish)
    again = ask(device, asked.inputs)
    if same_bits(asked.outputs, again.outputs):
        return True
    allowed = tolerances(asked.outputs)
    for name, tolerance in allowed.items():
        gap = largest_difference({name: asked.outputs[name]}, {name: again.outputs[name]})
        if not gap <= tolerance:
            raise AnswersVary(gap, tolerance)
    return False
