"""``mailboat backup``: the controller in one encrypted file, made while it runs and read back."""

from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.cli import options, output

PassphraseOption = Annotated[
    Path, typer.Option("--passphrase-file", help="A file with the passphrase, 12 bytes or more.")
]
PASSPHRASE_BYTES_MAX = 4096


def backup(
    out: Annotated[Path, typer.Option("--out", help="A new file.")],
    passphrase_file: PassphraseOption,
    artifacts: Annotated[
        bool, typer.Option("--artifacts", help="With the files of all releases: large.")
    ] = False,
    reason: options.OptionalReason = "",
    config: options.ConfigOption = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Back up database, keys, certificates and settings while the controller runs.

    Needs the controller's data directory. The file is encrypted; it is read back before it gets
    its name. Keep it and the passphrase on other machines, and not on the same one.
    """
    from mailboat_controller.backup import making
    from mailboat_controller.cli.progress import progress
    from mailboat_controller.config import load
    from mailboat_controller.store import database_copy
    from mailboat_controller.store.engine import Store

    settings = load(config)
    store = Store(settings.store_url)
    try:
        total = database_copy.count_rows(store) if store.is_migrated() else 0
    finally:
        store.close()
    with progress("copying", shown=not as_json, total_rows=total) as advance:
        made = making.make(
            settings,
            out,
            read_passphrase(passphrase_file),
            artifacts=artifacts,
            actor=options.local_actor(),
            reason=reason,
            now=options.now(),
            rows=advance,
        )
    manifest = made.manifest
    fields = {
        "file": str(made.path),
        "bytes": made.bytes,
        "fleet": manifest.fleet,
        "made_at": manifest.made_at,
        "files": len(manifest.files),
        "rows": manifest.rows,
        "audit_entries": manifest.audit_entries,
        "audit_head": manifest.audit_head,
        "artifacts": manifest.artifacts,
    }
    output.show_fields(fields, as_json=as_json)
    output.say("\nIt was read back and holds.", as_json=as_json)


def read_passphrase(path: Path) -> bytes:
    """
    Raises:
        ConfigurationInvalid: unreadable, too long, or not text.
    """
    from mailboat_controller.authority.secret_files import read_secret_file

    return read_secret_file(path, PASSPHRASE_BYTES_MAX).encode()
