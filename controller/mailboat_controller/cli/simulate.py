"""``mailboat simulate``: what a rollout would do on a fleet that does not exist."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import options, output
from mailboat_schemas.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mailboat_controller.simulate.scenario import Simulation

SimulationFile = Annotated[
    Path | None, typer.Option("--file", "-f", help="A Simulation document.", show_default=False)
]
RolloutFile = Annotated[
    Path | None,
    typer.Option("--rollout", help="A Rollout document; its waves and gates are simulated."),
]
Devices = Annotated[int | None, typer.Option("--devices", help="How many.", show_default=False)]
Offline = Annotated[
    float | None,
    typer.Option("--offline", help="Share off the air at any moment.", show_default=False),
]
Broken = Annotated[
    float | None,
    typer.Option("--broken", help="Share the release is bad on.", show_default=False),
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="The same seed, the same story.", show_default=False)
]
Days = Annotated[float | None, typer.Option("--days", help="At most.", show_default=False)]
Report = Annotated[Path | None, typer.Option("--out", help="Where the report goes, as JSON.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Where the picture goes, as SVG.")]


def simulate(
    file: SimulationFile = None,
    rollout: RolloutFile = None,
    devices: Devices = None,
    offline: Offline = None,
    broken: Broken = None,
    seed: Seed = None,
    days: Days = None,
    out: Report = None,
    plot: Plot = None,
    as_json: options.Json = False,
) -> None:
    """A rollout on a made-up fleet: exposure, time to halt or to converge, bytes.

    Exits with 1 if more devices were ever exposed than the waves name.
    """
    from mailboat_controller.simulate import plot as picture
    from mailboat_controller.simulate import report
    from mailboat_controller.simulate.running import simulate as run

    given = {"devices": devices, "offline": offline, "seed": seed, "days": days}
    scenario = _scenario(
        file, rollout, {name: value for name, value in given.items() if value is not None}, broken
    )
    ran = run(scenario)
    told = report.as_json(ran)
    for path, content in (
        (out, json.dumps(told, indent=2) + "\n"),
        (plot, picture.exposure_plot(ran)),
    ):
        if path is not None:
            _write(path, content)
    if as_json:
        output.show_json(told)
    else:
        typer.echo(report.as_text(ran))
    if ran.exposure.above:
        raise typer.Exit(1)


def _scenario(
    file: Path | None, rollout: Path | None, given: dict[str, Any], broken: float | None
) -> "Simulation":
    """The document, or the defaults, with what was said on the command line instead."""
    from pydantic import ValidationError

    from mailboat_controller.simulate.scenario import Simulation
    from mailboat_schemas.documents.rollout import Rollout
    from mailboat_schemas.documents.yaml_source import load_document

    empty = {"apiVersion": "mailboat/v1", "kind": "Simulation", "metadata": {}, "spec": {}}
    held = Simulation.model_validate(empty) if file is None else load_document(file, Simulation)
    content = held.model_dump(by_alias=True)
    content["spec"] |= given
    if rollout is not None:
        content["spec"]["rollout"] = load_document(rollout, Rollout).spec.model_dump()
    if broken is not None:
        content["spec"]["release"]["broken"] = broken
    try:
        return Simulation.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        raise ConfigurationInvalid(
            f"{where}: {first['msg']}.", next_step="give a value within the bounds."
        ) from error


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigurationInvalid(
            f"{path} cannot be written: {error.strerror}.", next_step="name another path."
        ) from error
