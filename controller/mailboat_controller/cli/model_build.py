"""``mailboat model build``: a release made of an ONNX file, measured and tried on the way."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import model, model_options, model_report, options, output
from mailboat_schemas.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mailboat_controller.bundles.making import Bundle
    from mailboat_controller.bundles.order import Order


def build_model(
    model_file: model_options.Model,
    out: Annotated[Path, typer.Option("--out", help="Directory to write the bundle into.")],
    name: model_options.Name = None,
    version: model_options.Version = "1.0.0",
    classes: model_options.Classes = None,
    class_file: model.ClassFile = None,
    data: model_options.Data = None,
    reference: model_options.Reference = None,
    samples: model_options.Samples = 16,
    seed: model_options.Seed = 0,
    shape: model_options.Shapes = None,
    value: model_options.Values = None,
    number_range: model_options.Ranges = None,
    preprocess: model_options.Preprocess = None,
    postprocess: model_options.Postprocess = None,
    inputs: model_options.Inputs = None,
    outputs: model_options.Outputs = None,
    check: model_options.Check = None,
    tokenizer: model_options.Tokenizer = None,
    labels: model_options.Labels = None,
    calibration: model_options.Calibration = None,
    others: model_options.Others = None,
    providers: model_options.Providers = None,
    threads: model_options.Threads = 1,
    batches: model_options.Batches = None,
    quantize: model_options.Quantize = None,
    weights_only: model_options.WeightsOnly = False,
    max_drop: model_options.MaxDrop = None,
    peak_memory: model_options.PeakMemory = None,
    latency_p95_ms_max: model_options.Latency = None,
    plot: model_options.Plot = None,
    as_json: options.Json = False,
) -> None:
    """Make a bundle of a model: YAML, golden samples, reference statistics, limits; and try it."""
    from mailboat_controller.bundles.asking import RuntimeWish
    from mailboat_controller.bundles.making import make_bundle
    from mailboat_controller.bundles.order import Order
    from mailboat_controller.bundles.own_code import labels_of

    model.end_tidily()
    model_options.writable(plot)
    described = model.described_class(class_file)
    files = {"tokenizer": [tokenizer], "labels": [labels], "calibration": [calibration]}
    files["other"] = [*(others or ())]
    own = model_options.own_code(preprocess, postprocess, inputs, outputs, check, files)
    order = Order(
        model=model_options.existing(model_file),
        directory=out,
        name=name or _name_of(model_file),
        version=version,
        classes=_classes(classes, None if described is None else described.metadata.name),
        described=() if described is None else (described,),
        recipe=model_options.recipe(samples, seed, shape, value, number_range),
        data=data,
        reference=reference,
        labels=labels_of(own.data),
        wish=RuntimeWish.of(providers, threads, own),
        quantize=None if quantize is None else model_options.format_named(quantize),
        weights_only=weights_only,
        max_drop=max_drop,
        batches=tuple(dict.fromkeys(batches or ())),
        peak_memory_bytes=None if peak_memory is None else model_options.size_bytes(peak_memory),
        latency_p95_ms_max=latency_p95_ms_max,
    )
    bundle = make_bundle(order, model_report.say_if(not as_json))
    _show(order, bundle, plot, as_json=as_json)


def _show(order: "Order", bundle: "Bundle", plot: Path | None, *, as_json: bool) -> None:
    from mailboat_controller.bundles.making import told

    described = order.described[0] if order.described else None
    name = order.classes[0] if described is None else described.metadata.name
    rows = model.gate_rows(bundle.build, name, described, [bundle.outcome])
    trial = model_report.Trial(
        build=bundle.build, hardware_class=name, gates=rows, outcomes=(bundle.outcome,)
    )
    if plot is not None:
        model_report.write_plot(plot, trial)
    if as_json:
        content = model_report.told(trial) | told(bundle)
        output.show_json(content | {"directory": str(order.directory)})
    else:
        if bundle.smaller is not None:
            model_report.show_smaller(bundle.smaller)
        _tell(bundle)
        model_report.show_trial(trial, as_json=False)
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
    health = bundle.build.document.variants[0].health
    fields |= {
        "opset": bundle.opset,
        "samples": f"{len(bundle.asked.run_ms)}, asked twice in two processes: {same}",
    }
    if health.tolerances:
        fields["tolerances"] = {name: f"{most:g}" for name, most in health.tolerances.items()}
    for name, gate in health.metrics.items():
        right = f"{bundle.accuracy[name]:.1%} of its decisions are those of the samples"
        fields[f"metric of {name}"] = f"{gate.metric.value} ≥ {gate.at_least:g}; {right}"
    output.show_fields(fields | {"digest": bundle.build.digest}, as_json=False)
    print()


def _classes(named: list[str] | None, described: str | None) -> tuple[str, ...]:
    """Each once, the one that is described first.

    Raises:
        ConfigurationInvalid: there is none.
    """
    first = () if described is None or described in (named or ()) else (described,)
    found = tuple(dict.fromkeys((*first, *(named or ()))))
    if not found:
        raise ConfigurationInvalid(
            "No hardware class is named.",
            next_step="say for which devices it is, with --class or --class-file.",
        )
    return found


def _name_of(path: Path) -> str:
    """What the file is called, in what a model's name may hold."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower())[:63].strip("-") or "model"
