"""``mailboat model quantize``: a smaller model, beside the original."""

from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.cli import model, model_options, model_report, options, output
from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably


def quantize(
    model_file: model_options.Model,
    out: Annotated[Path, typer.Option("--out", help="The smaller ONNX file.")],
    to: Annotated[str, typer.Option(help="int8 or fp16.", metavar="int8|fp16")] = "int8",
    data: model_options.Data = None,
    samples: model_options.Samples = 16,
    seed: model_options.Seed = 0,
    shape: model_options.Shapes = None,
    value: model_options.Values = None,
    number_range: model_options.Ranges = None,
    threads: model_options.Threads = 1,
    weights_only: model_options.WeightsOnly = False,
    max_drop: model_options.MaxDrop = None,
    as_json: options.Json = False,
) -> None:
    """Write the model in int8 or fp16; show what that does to outputs, latency, memory and size.

    int8 with --data calibrates activations with it; without, only weights become integers.
    """
    from mailboat_controller.bundles.asking import RuntimeWish
    from mailboat_controller.bundles.smaller import make_smaller

    model.end_tidily()
    model_options.writable(out)
    smaller = make_smaller(
        model_options.existing(model_file),
        model_options.format_named(to),
        recipe=model_options.recipe(samples, seed, shape, value, number_range),
        data=data,
        wish=RuntimeWish(threads=threads),
        weights_only=weights_only,
        say=model_report.say_if(not as_json),
    )
    kept = max_drop is None or smaller.drop <= max_drop
    if kept:
        replace_durably(out, smaller.content, mode=PUBLIC_MODE)
    if as_json:
        output.show_json({"model": str(out), "written": kept} | smaller.told)
    else:
        model_report.show_smaller(smaller)
    smaller.refuse_drop(max_drop)
    output.say(f"Written: {out}", as_json=as_json)
