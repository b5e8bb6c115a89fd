"""Options that `mailboat model` commands share, and what their text means."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_schemas.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mailboat_controller.bundles.own_code import OwnCode
    from mailboat_controller.bundles.samples import Recipe
    from mailboat_controller.bundles.smaller import To
    from mailboat_schemas.documents.interface import Tensor

SAMPLES_MAX = 1000  # of golden samples that are made up; data may hold more

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="INPUT=1x3x64", help="Shape of one request's input."),
]
Values = Annotated[
    list[str] | None,
    typer.Option("--value", metavar="INPUT=NUMBER", help="An input that is always this number."),
]
Ranges = Annotated[
    list[str] | None,
    typer.Option("--range", metavar="INPUT=LOW:HIGH", help="Numbers that an input may have."),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Samples of your own: an .npz, or a directory of .npz or .npy.", metavar="PATH"
    ),
]
Samples = Annotated[
    int, typer.Option(min=1, max=SAMPLES_MAX, help="Golden samples in the release.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the inputs that are made up.")]
Threads = Annotated[int, typer.Option(min=1, max=256, help="Of onnxruntime.")]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        min=0,
        max=1,
        help="Refuse if more is lost of an output: 0.01 for one decision in a hundred.",
    ),
]
WeightsOnly = Annotated[
    bool, typer.Option("--weights-only", help="int8: no integers but weights, data or not.")
]
Plot = Annotated[Path | None, typer.Option(help="Write the latencies as an SVG.", metavar="FILE")]

# --- what a release declares ---------------------------------------------------------------------

Name = Annotated[str | None, typer.Option(help="Of the model; the file's name if left out.")]
Version = Annotated[str, typer.Option(help="Of the release.")]
Classes = Annotated[
    list[str] | None, typer.Option("--class", help="A hardware class; may be repeated.")
]
Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="Data like live traffic: the soak compares with it, as a gate."
    ),
]
Providers = Annotated[
    list[str] | None, typer.Option("--provider", help="An execution provider; may be repeated.")
]
Batches = Annotated[
    list[int] | None,
    typer.Option("--batch", min=1, max=1024, help="A batch size to measure; may be repeated."),
]
Quantize = Annotated[str | None, typer.Option(help="Make it smaller first.", metavar="int8|fp16")]
PeakMemory = Annotated[
    str | None, typer.Option(help="Declare this (256MiB) instead of what is measured.")
]
Latency = Annotated[float | None, typer.Option(min=0.001, help="Likewise, in milliseconds.")]

# --- what a release brings beside its model ------------------------------------------------------

Preprocess = Annotated[
    str | None,
    typer.Option(metavar="FILE.py:FUNCTION", help="Python before the model; needs --input."),
]
Postprocess = Annotated[
    str | None,
    typer.Option(metavar="FILE.py:FUNCTION", help="Python behind the model; needs --output."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="NAME=DTYPE:-1x3", help="What callers send, where --preprocess takes it."
    ),
]
Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "--output", metavar="NAME=DTYPE:-1", help="What callers get, where --postprocess makes it."
    ),
]
Check = Annotated[
    Path | None,
    typer.Option(metavar="FILE.py", help="A check of the release's own, run in each trial."),
]
Tokenizer = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A tokenizer that the code reads.")
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Labels, one a line; outputs with one place for each are classes."
    ),
]
Calibration = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Calibration data that the code reads.")
]
Others = Annotated[
    list[Path] | None,
    typer.Option("--file", metavar="FILE", help="Another file that the code reads; repeatable."),
]

_HOW = "write --shape INPUT=1x3x64, --value INPUT=8000, --range INPUT=-1:1."
_HOW_CODE = (
    "write --preprocess FILE.py:FUNCTION, --input NAME=uint8:-1x224x224x3, "
    "--output NAME=string:-1; -1 is a size that may vary."
)


def recipe(
    samples: int,
    seed: int,
    shapes: list[str] | None,
    values: list[str] | None,
    ranges: list[str] | None,
) -> "Recipe":
    """
    Raises:
        ConfigurationInvalid: an option that does not read.
    """
    from mailboat_controller.bundles.samples import Recipe

    try:
        return Recipe(
            samples=samples,
            seed=seed,
            shapes={name: _sizes(text) for name, text in _pairs(shapes)},
            values={name: float(text) for name, text in _pairs(values)},
            ranges={name: _range(text) for name, text in _pairs(ranges)},
        )
    except ValueError as error:
        raise ConfigurationInvalid(f"An option does not read: {error}.", next_step=_HOW) from error


def own_code(
    preprocess: str | None,
    postprocess: str | None,
    inputs: list[str] | None,
    outputs: list[str] | None,
    check: Path | None,
    data: Mapping[str, Sequence[Path | None]],
) -> "OwnCode":
    """``data`` are files by role, None where there is none.

    Raises:
        ConfigurationInvalid: an option that does not read, or a file that is not there.
    """
    from mailboat_controller.bundles.own_code import OwnCode, function_named
    from mailboat_schemas.documents.release import FileRole

    try:
        own = OwnCode(
            preprocess=None if preprocess is None else function_named(preprocess, "preprocess"),
            postprocess=None if postprocess is None else function_named(postprocess, "postprocess"),
            inputs=_tensors(inputs),
            outputs=_tensors(outputs),
            check=check,
            data=tuple(
                (FileRole(role), path) for role in data for path in data[role] if path is not None
            ),
        )
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise ConfigurationInvalid(
            f"An option does not read: {first}.", next_step=_HOW_CODE
        ) from error
    own.refuse_unfit(())
    return own


def _tensors(texts: Sequence[str] | None) -> "tuple[Tensor, ...]":
    from mailboat_schemas.documents.interface import Tensor

    found = []
    for name, text in _pairs(texts):
        dtype, _, sizes = text.partition(":")
        try:
            content = {"name": name, "dtype": dtype, "shape": _sizes(sizes)}
            found.append(Tensor.model_validate(content))
        except ValueError:
            raise ValueError(f"{name}={text} is no tensor") from None
        if any(size < -1 for size in found[-1].shape):
            raise ValueError(f"{name}={text} has a size below -1")
    return tuple(found)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("x")) if text else ()


def _pairs(texts: Sequence[str] | None) -> Iterable[tuple[str, str]]:
    for text in texts or ():
        # A tensor's name may hold anything, so the last "=" counts.
        name, equals, rest = text.rpartition("=")
        if not equals:
            raise ValueError(f"{text!r} has no '='")
        yield name, rest


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    if float(low) > float(high):
        raise ValueError(f"{text!r} begins above its end")
    return float(low), float(high)


def size_bytes(text: str) -> int:
    """
    Raises:
        ConfigurationInvalid
    """
    from mailboat_schemas.documents.document import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigurationInvalid(f"{error}.", next_step="write for example 256MiB.") from error


def existing(path: Path) -> Path:
    if not path.is_file():
        raise ConfigurationInvalid(f"There is no model at {path}.", next_step="name an ONNX file.")
    return path


def writable(path: Path | None) -> Path | None:
    """Whether a file can be written there, asked before minutes of work are spent on it.

    Raises:
        ConfigurationInvalid
    """
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise ConfigurationInvalid(
            f"{path} cannot be written.", next_step="name a file in a directory that is there."
        )
    return path


def format_named(text: str) -> "To":
    """
    Raises:
        ConfigurationInvalid
    """
    from mailboat_controller.bundles.smaller import To

    try:
        return To(text)
    except ValueError:
        raise ConfigurationInvalid(
            f"{text!r} is no format to quantize to.", next_step="write int8 or fp16."
        ) from None
