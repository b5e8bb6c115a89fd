"""What a model is, and what may be promised of it: read, asked, and asked again."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailboat_controller.bundles import judging
from mailboat_controller.bundles.asking import (
    Asked,
    RuntimeWish,
    ask,
    largest_difference,
    open_model,
    same_bits,
)
from mailboat_controller.bundles.device_process import DeviceProcess, ModelRefused
from mailboat_controller.bundles.given import given_samples
from mailboat_controller.bundles.npz import Array, Arrays
from mailboat_controller.bundles.ports import OpenedModel
from mailboat_controller.bundles.proposal import tolerances
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
        ModelRefused: a device runs no requests to it as one.
    """
    ports = (*opened.inputs, *opened.outputs)
    fixed = [port for port in ports if not port.shape or isinstance(port.shape[0], int)]
    if sizes and fixed:
        raise ModelRefused(
            f"{fixed[0].name!r} is {fixed[0].shown_shape}: there is no room for a batch.",
            "export it with a free first dimension, or leave out --batch.",
        )
    texts = [port for port in ports if port.datatype == "BYTES"]
    if sizes and texts:
        raise ModelRefused(
            f"{texts[0].name!r} is text, and requests of text are not run as one.",
            "leave out --batch.",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """``promised`` are the golden outputs of ``asked``: the data's own, or the model's answers.

    ``accuracy`` is of each output that is judged by its decisions, over all samples.
    """

    opened: OpenedModel
    asked: Asked
    promised: Arrays
    accuracy: Mapping[str, float]


def ask_with_data(
    device: DeviceProcess, model: Path, wish: RuntimeWish, data: Path, labels: Sequence[str] = ()
) -> Promise:
    """
    Raises:
        PromiseBroken: the data's own answers are not the model's. ModelRefused,
            ConfigurationInvalid
    """
    opened = open_model(device, model, wish)
    given = given_samples(data, opened.inputs)
    asked = ask(device, given.inputs)
    if strangers := sorted(given.outputs.keys() - asked.outputs.keys()):
        raise ModelRefused(
            f"The data promises an output {strangers[0]!r} that the model does not have.",
            f"name it out.<tensor>, with one of: {', '.join(asked.outputs)}.",
        )
    try:
        outputs, judged = judging.rows_of_classes(given.outputs, asked.outputs)
    except ValueError as error:
        raise PromiseBroken(
            f"The data's classes are not the model's: {error}.",
            "count classes from 0, in the order of the output's last axis.",
        ) from error
    promised = asked.outputs | outputs
    judged |= judging.classifiers(asked.outputs, labels)
    accuracy = judged_by_decisions(promised, asked.outputs, judged)
    _refuse_difference(promised, asked.outputs, judged)
    return Promise(opened=opened, asked=asked, promised=promised, accuracy=accuracy)


def judged_by_decisions(
    promised: Arrays, answered: Arrays, judged: Collection[str]
) -> dict[str, float]:
    """
    Raises:
        PromiseBroken: it decides no better than chance.
    """
    accuracy = {}
    for name in sorted(judged):
        _refuse_other_kind(name, promised[name], answered[name])
        classes = answered[name].shape[-1]
        accuracy[name] = judging.agreement(promised[name], answered[name])
        if accuracy[name] <= 1 / classes:
            raise PromiseBroken(
                f"Output {name!r} is right in {accuracy[name]:.1%} of the samples, no better than "
                f"chance among {classes} classes.",
                "look at the order of the classes, and at how inputs are prepared.",
            )
    return accuracy


def _refuse_difference(promised: Arrays, answered: Arrays, judged: Collection[str]) -> None:
    allowed = tolerances(promised)
    for name in sorted(promised.keys() - set(judged)):
        _refuse_other_kind(name, promised[name], answered[name])
        gap = largest_difference({name: promised[name]}, {name: answered[name]})
        if not gap <= allowed[name]:
            raise PromiseBroken(
                f"Output {name!r} is off the data's by {gap:.3g}; {allowed[name]:.3g} is allowed.",
                "look at the export, or at how the data was made; of a classifier give the "
                "classes as whole numbers, or --labels.",
            )


def _refuse_other_kind(name: str, promised: Array, answered: Array) -> None:
    if promised.shape != answered.shape or promised.dtype != answered.dtype:
        text = promised.dtype.kind == answered.dtype.kind == "U"
        if not text or promised.shape != answered.shape:
            raise PromiseBroken(
                f"The data promises {name!r} as {promised.dtype} {list(promised.shape[1:])}, the "
                f"model answers {answered.dtype} {list(answered.shape[1:])}.",
                "write it with the model's type and shape, first axis = sample.",
            )


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
