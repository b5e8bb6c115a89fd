"""``mailboat mlflow``: what an alias in MLflow names becomes a signed release, to be approved."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import model, options, output
from mailboat_schemas.errors import MailboatError

if TYPE_CHECKING:
    from mailboat_controller.client import ApiClient
    from mailboat_controller.mlflow.following import Follower, Told
    from mailboat_controller.mlflow.mapping import MlflowMapping
    from mailboat_controller.mlflow.registry import MlflowRegistry
    from mailboat_controller.mlflow.seen import SeenFile

NOTICE_LOOK_SECONDS = 2.0  # between two questions to the controller: has MLflow told it something?
_COLUMNS = {
    "key": "ALIAS",
    "version": "VERSION",
    "state": "STATE",
    "release": "RELEASE",
    "because": "BECAUSE",
}
_CHECKED = {
    "key": "ALIAS",
    "version": "VERSION",
    "release": "WOULD BE",
    "file": "FILE",
    "bytes": "BYTES",
    "because": "WOULD",
}

app = typer.Typer(
    no_args_is_help=True,
    help="MLflow: follow aliases of its registry, and hand in what they name.",
    epilog=output.examples(
        "mailboat mlflow check mlflow.yaml",
        "mailboat mlflow poll mlflow.yaml --key heat.pem",
        "mailboat mlflow poll mlflow.yaml --key heat.pem --follow",
    ),
)

Mapping = Annotated[Path, typer.Argument(metavar="MAPPING", help="A YAML of kind MlflowMapping.")]


@app.command()
def check(
    mapping: Mapping,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Say what `poll` would do, and do none of it. Exit code 1 if something would be refused."""
    from mailboat_controller.mlflow.checking import check_entry

    with (
        _read(mapping) as (written, registry),
        options.client(connection) as api,
    ):
        rows = [check_entry(entry, mapping, registry, api) for entry in written.spec.models]
    output.show_rows([row.told for row in rows], _CHECKED, as_json=as_json)
    if not as_json:
        for row in rows:
            if row.next_step:
                print(f"{row.key}: next step: {row.next_step}")
    if any(not row.fine for row in rows):
        raise typer.Exit(output.EXIT_FAILURE)


@app.command()
def poll(
    mapping: Mapping,
    key: Annotated[str, typer.Option(help="The pipeline's key for these models, as a source.")],
    state: Annotated[
        Path, typer.Option(help="Directory for what was seen and what is being made.")
    ] = Path("mlflow-state"),
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on: look at an interval, and when MLflow calls.")
    ] = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Hand in what the aliases name and was not handed in yet; approving stays a person's.

    Exit code 1 if something was refused, failed or could not be reached; 0 if nothing was to do.
    """
    from mailboat_controller.authority.keys import open_signer
    from mailboat_controller.cli.model_report import say_if
    from mailboat_controller.mlflow import seen
    from mailboat_controller.mlflow.following import Follower

    model.end_tidily()
    signer = open_signer(key)
    with (
        _read(mapping) as (written, registry),
        seen.opened(state) as kept,
        options.client(connection) as api,
    ):
        follower = Follower(
            mapping=written,
            path=mapping,
            registry=registry,
            api=api,
            signer=signer,
            state=kept,
            directory=state,
            now=options.now,
            say=say_if(not as_json),
        )
        if follow:
            _follow(follower, written, api, kept, as_json=as_json)
        told = follower.look()
        _show(told, as_json=as_json)
    if any(each.state not in ("submitted", "nothing") for each in told):
        raise typer.Exit(output.EXIT_FAILURE)


def _follow(
    follower: "Follower",
    mapping: "MlflowMapping",
    api: "ApiClient",
    kept: "SeenFile",
    *,
    as_json: bool,
) -> None:
    """Until it is ended. What MLflow told the controller is looked at within seconds; whatever was
    missed, at the interval."""
    _show(follower.look(), as_json=as_json)
    due = time.monotonic() + mapping.spec.interval_seconds
    while True:
        sys.stdout.flush()  # into a pipe or a journal, where lines would wait for others
        time.sleep(NOTICE_LOOK_SECONDS)
        wanted = _noticed(api, kept)
        if time.monotonic() >= due:
            wanted, due = None, time.monotonic() + mapping.spec.interval_seconds
        told = follower.look(wanted)
        _show([each for each in told if each.state != "nothing"], as_json=as_json)


def _noticed(api: "ApiClient", kept: "SeenFile") -> set[str] | None:
    """Aliases that MLflow's webhook told of; none when nobody can be asked."""
    try:
        found: dict[str, Any] = api.get("/v1/mlflow/notices", after=kept.seen.notices_after)
    except MailboatError:
        return set()  # polling goes on, and says what it meets itself
    kept.put_notices_after(found["newest"])
    return {f"{row['registered']}@{row['alias']}" for row in found["notices"]}


def _show(told: "list[Told]", *, as_json: bool) -> None:
    if not told:
        return
    rows = [{name: getattr(each, name) for name in each.__slots__} for each in told]
    output.show_rows(rows, _COLUMNS, as_json=as_json)
    if as_json:
        return
    for each in told:
        if each.next_step:
            print(f"{each.key}: next step: {each.next_step}")
        elif each.state == "submitted":
            name, _, version = each.release.partition("@")
            print(f"Next: mailboat release approve {name} {version} --rollout FILE --key KEY")


@contextmanager
def _read(path: Path) -> Iterator["tuple[MlflowMapping, MlflowRegistry]"]:
    from mailboat_controller.https_stream import HttpsStream
    from mailboat_controller.mlflow.mapping import MlflowMapping
    from mailboat_controller.mlflow.registry import MlflowRegistry
    from mailboat_schemas.documents.yaml_source import load_document

    written = load_document(path, MlflowMapping)
    server = written.spec.server
    with HttpsStream(None if server.ca is None else path.parent / server.ca) as stream:
        yield written, MlflowRegistry(stream, server, path.parent)
