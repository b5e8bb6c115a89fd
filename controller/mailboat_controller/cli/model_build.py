"""``mailboat model build``: a release made of an ONNX file, measured and tried on the way."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import model, model_report, options, output
from mailboat_schemas.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mailboat_controller.bundles.making import Bundle, Order
    from mailboat_controller.bundles.samples import Recipe
    from mailboat_controller.bundles.smaller import To

SAMPLES_MAX = 1000  # of golden samples that are made up; data may hold more


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
Seed = Annotated[int, typer.Option(min=0, help="Of the inputs that are made up.")]


def build_model(
    model_file: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to write the bundle into.")],
    name: Annotated[
        str | None, typer.Option(help="Of the model; the file's name if left out.")
    ] = None,
    version: Annotated[str, typer.Option(help="Of the release.")] = "1.0.0",
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="A hardware class; may be repeated.")
    ] = None,
    class_file: model.ClassFile = None,
    data: Data = None,
    samples: Samples = 16,
    seed: Seed = 0,
    shape: Shapes = None,
    value: Values = None,
    number_range: Ranges = None,
    providers: Annotated[
        list[str] | None, typer.Option("--provider", help="An execution provider; may be repeated.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Of onnxruntime.")] = 1,
    batches: Annotated[
        list[int] | None,
        typer.Option("--batch", min=1, max=1024, help="A batch size to measure; may be repeated."),
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="Make it smaller first.", metavar="int8|fp16")
    ] = None,
    weights_only: WeightsOnly = False,
    max_drop: MaxDrop = None,
    peak_memory: Annotated[
        str | None, typer.Option(help="Declare this (256MiB) instead of what is measured.")
    ] = None,
    latency_p95_ms_max: Annotated[
        float | None, typer.Option(min=0.001, help="Likewise, in milliseconds.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Make a bundle of a model: YAML, golden samples, reference statistics, limits; and try it."""
    from mailboat_controller.bundles.asking import RuntimeWish
    from mailboat_controller.bundles.making import Order, make_bundle

    described = model.described_class(class_file)
    named = tuple(classes or ())
    if described is not None and described.metadata.name not in named:
        named = (described.metadata.name, *named)
    if not named:
        raise ConfigurationInvalid(
            "No hardware class is named.",
            next_step="say for which devices it is, with --class or --class-file.",
        )
    order = Order(
        model=existing(model_file),
        directory=out,
        name=name or _name_of(model_file),
        version=version,
        classes=named,
        described=() if described is None else (described,),
        recipe=recipe(samples, seed, shape, value, number_range),
        data=data,
        wish=RuntimeWish(providers=tuple(providers or ("CPUExecutionProvider",)), threads=threads),
        quantize=None if quantize is None else format_named(quantize),
        weights_only=weights_only,
        max_drop=max_drop,
        batches=tuple(batches or ()),
        peak_memory_bytes=None if peak_memory is None else size_bytes(peak_memory),
        latency_p95_ms_max=latency_p95_ms_max,
    )
    bundle = make_bundle(order, model_report.say_if(not as_json))
    _show(order, bundle, as_json=as_json)


def _show(order: "Order", bundle: "Bundle", *, as_json: bool) -> None:
    described = order.described[0] if order.described else None
    name = order.classes[0] if described is None else described.metadata.name
    rows = model.gate_rows(bundle.build, name, described, [bundle.outcome])
    if as_json:
        output.show_json(
            {
                "model": order.name,
                "version": order.version,
                "digest": bundle.build.digest,
                "directory": str(order.directory),
                "opset": bundle.opset,
                "answers_identical": bundle.identical,
                "trial": bundle.outcome.told,
                "quantized": None if bundle.smaller is None else bundle.smaller.told,
                "gates": [gate.told for gate in rows],
            }
        )
    else:
        if bundle.smaller is not None:
            model_report.show_smaller(bundle.smaller)
        _tell(bundle)
        title = f"{order.name} {order.version} for {name}"
        model_report.show_trial(title, rows, [bundle.outcome], as_json=False)
    if any(gate.passed is False for gate in rows):
        raise typer.Exit(output.EXIT_TRIAL)
    output.say(
        f"Look at {order.directory}/release.yaml, then: "
        f"mailboat release sign {order.directory}/build --key CI-KEY",
        as_json=as_json,
    )


def _tell(bundle: "Bundle") -> None:
    opened = bundle.opened
    fields: dict[str, object] = {
        side: [f"{port.name} {port.datatype} {port.shown_shape}" for port in ports]
        for side, ports in (("inputs", opened.inputs), ("outputs", opened.outputs))
    }
    same = "equal to the bit" if bundle.identical else "equal within tolerance"
    fields |= {
        "opset": bundle.opset,
        "samples": f"{len(bundle.asked.run_ms)}, asked twice in two processes: {same}",
        "tolerances": {
            name: f"{tolerance:g}"
            for name, tolerance in bundle.build.document.variants[0].health.tolerances.items()
        },
        "digest": bundle.build.digest,
    }
    output.show_fields(fields, as_json=False)
    print()


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
            shapes={
                name: tuple(int(size) for size in text.split("x")) if text else ()
                for name, text in _pairs(shapes)
            },
            values={name: float(text) for name, text in _pairs(values)},
            ranges={name: _range(text) for name, text in _pairs(ranges)},
        )
    except ValueError as error:
        raise ConfigurationInvalid(
            f"An option does not read: {error}.",
            next_step="write --shape INPUT=1x3x64, --value INPUT=8000, --range INPUT=-1:1.",
        ) from error


def _pairs(texts: list[str] | None) -> Iterable[tuple[str, str]]:
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


def _name_of(path: Path) -> str:
    return path.stem.lower().replace("_", "-").replace(".", "-")
