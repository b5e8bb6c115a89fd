"""``mailboat model quantize``: a smaller model, beside the original."""

from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.cli import model_build, model_report, options, output
from mailboat_controller.cli.model_build import (
    Data,
    MaxDrop,
    Ranges,
    Samples,
    Seed,
    Shapes,
    Values,
    WeightsOnly,
)


def quantize(
    model_file: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The smaller ONNX file.")],
    to: Annotated[str, typer.Option(help="int8 or fp16.", metavar="int8|fp16")] = "int8",
    data: Data = None,
    samples: Samples = 16,
    seed: Seed = 0,
    shape: Shapes = None,
    value: Values = None,
    number_range: Ranges = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Of onnxruntime.")] = 1,
    weights_only: WeightsOnly = False,
    max_drop: MaxDrop = None,
    as_json: options.Json = False,
) -> None:
    """Write the model in int8 or fp16; show what that does to outputs, latency, memory and size.

    int8 with --data calibrates activations with it; without, only weights become integers.
    """
    from mailboat_controller.bundles.asking import RuntimeWish
    from mailboat_controller.bundles.smaller import make_smaller

    smaller = make_smaller(
        model_build.existing(model_file),
        model_build.format_named(to),
        recipe=model_build.recipe(samples, seed, shape, value, number_range),
        data=data,
        wish=RuntimeWish(threads=threads),
        weights_only=weights_only,
        say=model_report.say_if(not as_json),
    )
    if as_json:
        output.show_json({"model": str(out)} | smaller.told)
    else:
        model_report.show_smaller(smaller)
    smaller.refuse_drop(max_drop)
    out.write_bytes(smaller.content)
    output.say(f"Written: {out}", as_json=as_json)
