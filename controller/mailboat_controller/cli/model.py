"""``mailboat model``: a developer's tools, before anything is signed: try, build, quantize."""

import hashlib
import platform
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import model_options, model_report, options, output
from mailboat_schemas.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mailboat_controller.bundles.gates import Gate
    from mailboat_controller.bundles.trying import Outcome
    from mailboat_controller.releases.build import Build
    from mailboat_schemas.documents.hardware_class import HardwareClass
    from mailboat_schemas.documents.release import File

RUNS_MAX = 1000
_SIGNALLED = 128  # plus its number, as a shell says it

app = typer.Typer(
    no_args_is_help=True,
    help="Models before they are signed: make a bundle, try it as a device would, make it smaller.",
    epilog=output.examples(
        "mailboat model build heat.onnx --name heat --class kiosk-x86 --out heat",
        "mailboat model try heat/release.yaml --class-file kiosk-x86.yaml --plot latency.svg",
        "mailboat model quantize heat/model.onnx --to int8 --data samples.npz --out heat-int8.onnx",
    ),
)

ClassFile = Annotated[
    Path | None,
    typer.Option(
        "--class-file", help="A YAML of kind HardwareClass, whose budgets count.", metavar="FILE"
    ),
]


@app.command(name="try")
def try_bundle(
    bundle: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE", help="What `release build` wrote, or a release YAML."),
    ],
    hardware_class: Annotated[
        str | None,
        typer.Option("--class", help="The class to try it for; the only one if left out."),
    ] = None,
    class_file: ClassFile = None,
    runs: Annotated[
        int, typer.Option(min=1, max=RUNS_MAX, help="So many trials; the worst of them counts.")
    ] = 1,
    plot: model_options.Plot = None,
    as_json: options.Json = False,
) -> None:
    """The device's own trial on this machine: same code, same limits. Exit code 10 if it fails."""
    from mailboat_controller.bundles import trying  # these load numpy, the command line should not

    end_tidily()
    model_options.writable(plot)
    with tempfile.TemporaryDirectory(prefix="mailboat-try-") as scratch:
        build = open_bundle(bundle, Path(scratch))
        described = described_class(class_file)
        if hardware_class is None and described is not None:
            hardware_class = described.metadata.name
        name, variant = trying.variant_of(build.document, hardware_class)
        if described is not None and described.metadata.name != name:
            raise ConfigurationInvalid(
                f"{class_file} describes {described.metadata.name}, not {name}.",
                next_step="name that class with --class, or the other file.",
            )
        budget = trying.memory_budget_bytes(variant, described)
        outcomes = trying.run_trials(build, name, budget, runs, model_report.say_if(not as_json))
        rows = gate_rows(build, name, described, outcomes)
        trial = model_report.Trial(
            build=build, hardware_class=name, gates=rows, outcomes=tuple(outcomes)
        )
        if plot is not None:
            model_report.write_plot(plot, trial)
        model_report.show_trial(trial, as_json=as_json)
    if any(gate.passed is False for gate in rows):
        raise typer.Exit(output.EXIT_TRIAL)


def end_tidily() -> None:
    """Being told to end is being interrupted: processes and temporary files go, too."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, lambda number, _frame: sys.exit(_SIGNALLED + number))


def open_bundle(bundle: Path, scratch: Path) -> "Build":
    """A build directory as it is; a YAML, or a directory of one, is built into ``scratch``.

    Raises:
        ConfigurationInvalid, DocumentInvalid: neither.
    """
    from mailboat_controller.releases.build import DOCUMENT_NAME, build_release, read_build

    if (bundle / DOCUMENT_NAME).is_file():
        build = read_build(bundle)
        if missing := build.missing_blobs():
            raise ConfigurationInvalid(
                f"{bundle} lacks {len(missing)} files of the release, {missing[0].path} for one.",
                next_step="run `mailboat release build` again into this directory.",
            )
        if altered := [f for f in build.document.files() if _differs(build.blob(f), f)]:
            raise ConfigurationInvalid(
                f"{bundle} has another {altered[0].path} than its document says.",
                next_step="run `mailboat release build` again into this directory.",
            )
        return build
    source = bundle / "release.yaml" if bundle.is_dir() else bundle
    if not source.is_file():
        raise ConfigurationInvalid(
            f"There is no bundle at {bundle}.",
            next_step="name a directory of `mailboat release build`, or a release YAML.",
        )
    if source.suffix in (".onnx", ".tflite"):
        raise ConfigurationInvalid(
            f"{source} is a model, and a trial needs a bundle: golden samples and limits, too.",
            next_step=f"make one: mailboat model build {source} --class CLASS --out DIRECTORY.",
        )
    return build_release(source, scratch / "build")


def _differs(blob: Path, file: "File") -> bool:
    """By length or by digest, of what would be uploaded."""
    if blob.stat().st_size != file.artifact_length:
        return True
    with blob.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() != file.artifact_digest


def described_class(path: Path | None) -> "HardwareClass | None":
    """
    Raises:
        DocumentInvalid
    """
    from mailboat_schemas.documents.hardware_class import HardwareClass
    from mailboat_schemas.documents.yaml_source import load_document

    return None if path is None else load_document(path, HardwareClass)


def gate_rows(
    build: "Build", name: str, described: "HardwareClass | None", outcomes: "list[Outcome]"
) -> "tuple[Gate, ...]":
    from mailboat_controller.bundles import gates, trying

    variant = build.document.variant_for(name)
    assert variant is not None  # noqa: S101 - it was tried
    budget = trying.memory_budget_bytes(variant, described)
    rows = gates.gates(build.document.interface, variant, budget, outcomes)
    if described is None:
        return rows
    return (*rows, *gates.class_gates(variant, described, outcomes, platform.machine()))
