"""``mailboat restore``: a backup back into a new data directory."""

from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.cli import options, output
from mailboat_controller.cli.backup import PassphraseOption, read_passphrase


def restore(
    backup: Annotated[Path, typer.Argument(help="A file of `mailboat backup`.")],
    passphrase_file: PassphraseOption,
    reason: options.OptionalReason = "",
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="A directory that is not there yet, or empty.")
    ] = options.DEFAULT_DATA_DIR,
    check: Annotated[
        bool, typer.Option("--check", help="Read and verify it; restore nothing.")
    ] = False,
    audit_export: Annotated[
        Path | None,
        typer.Option("--audit", help="A later file of `mailboat audit export`, to take up."),
    ] = None,
    database_url_file: Annotated[
        Path | None,
        typer.Option("--database-url-file", help="A file with the URL of an empty database."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Restore a controller from a backup. The next `mailboat serve` hears the fleet first.

    It is verified before anything gets its name; the database is brought to this version.
    """
    from mailboat_controller.backup import making, restoring
    from mailboat_controller.store.database_url import named

    passphrase = read_passphrase(passphrase_file)
    if check:
        manifest = making.check(backup, passphrase)
        output.show_fields(_fields(manifest), as_json=as_json)
        output.say("\nIt holds.", as_json=as_json)
        return
    if not reason.strip():
        raise typer.BadParameter("say why; it is kept in the audit log", param_hint="--reason")
    url = None if database_url_file is None else named("", database_url_file)
    export = None if audit_export is None else audit_export.open("rb")
    try:
        restored = restoring.restore(
            backup,
            data_dir,
            passphrase,
            actor=options.local_actor(),
            reason=reason,
            now=options.now(),
            database_url=url,
            audit_export=export,
        )
    finally:
        if export is not None:
            export.close()
    fields = {"data_dir": str(restored.data_dir), **_fields(restored.manifest)}
    if restored.replayed is not None:
        fields["replayed"] = restored.replayed.as_json()
    output.show_fields(fields, as_json=as_json)
    output.say(
        f"\nStart it:  mailboat serve --config {data_dir / 'controller.toml'}\n"
        "It hears the broker and the devices first, lifts every counter above what they have seen, "
        "and pauses\nwhat was on its way: mailboat audit show --action recovery. says what it "
        "learned. Make sure that the old\ncontroller never starts again: two of them would "
        "contradict each other.",
        as_json=as_json,
    )


def _fields(manifest: object) -> dict[str, object]:
    names = ("fleet", "made_at", "made_by", "schema", "origin", "rows", "audit_entries")
    return {name: getattr(manifest, name) for name in (*names, "audit_head", "artifacts")}
