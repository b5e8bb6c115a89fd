"""``mailboat content-key``: hand over the keys of encrypted releases, and see who has them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import options, output
from mailboat_schemas.errors import ArtifactMissing, ConfigurationInvalid, NotFound

if TYPE_CHECKING:
    from mailboat_controller.client import ApiClient
    from mailboat_controller.releases.build import Build

app = typer.Typer(no_args_is_help=True, help="Content keys: the keys of encrypted releases.")

_COLUMNS = {
    "content_key": "CONTENT KEY",
    "handed_over_by": "HANDED OVER BY",
    "created_at": "SINCE",
    "devices": "DEVICES",
}
KeySource = Annotated[
    str | None,
    typer.Option(
        "--content-key",
        metavar="SOURCE",
        help="Where the content key is, when not in the build: a path, fd:N or env:NAME.",
    ),
]


@app.command()
def put(
    directory: Annotated[Path, typer.Argument(metavar="BUILD", help="What `release build` wrote.")],
    content_key: KeySource = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Hand a build's content key to the controller, which gives it to devices, wrapped."""
    from mailboat_controller.releases.build import read_build

    built = read_build(directory)
    if not built.document.content_keys:
        raise ConfigurationInvalid(
            f"The build in {directory} is not encrypted.",
            next_step="build it with `mailboat release build --encrypt`.",
        )
    with options.client(connection) as api:
        handed = hand_over(api, built, content_key)
    ids = sorted(built.document.content_keys)
    output.tell(
        {"content_keys": ids, "handed_over": handed},
        f"The controller has {', '.join(ids)}{'' if handed else ' already'}.",
        as_json=as_json,
    )


@app.command("list")
def list_keys(
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """The content keys that the controller holds, and how many devices were given each."""
    with options.client(connection) as api:
        output.show_rows(api.get("/v1/content-keys"), _COLUMNS, as_json=as_json)


def hand_over(api: "ApiClient", built: "Build", source: str | None) -> int:
    """Hand over what the controller lacks of a build's keys; says how many that were.

    Raises:
        ConfigurationInvalid: it lacks the key, and here it is not either.
        WrongContentKey: the key at hand is not the build's.
    """
    from mailboat_controller.content.key_file import held_key
    from mailboat_schemas.content_key import require_key

    handed = 0
    for key_id in sorted(built.document.content_keys):
        if _has(api, key_id):
            continue
        key = held_key(built.directory, source)
        if key is None:
            raise ConfigurationInvalid(
                f"The controller lacks content key {key_id}, and it is not in {built.directory}.",
                next_step="run `mailboat content-key put` where the release was built, "
                "or name the key with --content-key.",
            )
        api.put(f"/v1/content-keys/{key_id}", {"key": require_key(key_id, key).hex()})
        handed += 1
    return handed


def _has(api: "ApiClient", key_id: str) -> bool:
    try:
        api.get(f"/v1/content-keys/{key_id}")
    except (NotFound, ArtifactMissing):
        return False
    return True
