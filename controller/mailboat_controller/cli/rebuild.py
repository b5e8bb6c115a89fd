"""``mailboat rebuild``: a database that is lost, from what others still have."""

from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.cli import options, output


def rebuild(
    reason: options.Reason,
    audit_export: Annotated[
        Path | None,
        typer.Option("--audit", help="A file of `mailboat audit export`, from its first entry."),
    ] = None,
    config: options.ConfigOption = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Rebuild a lost database from an exported audit log, retained topics and device reports.

    Needs the data directory with keys/, pki/ and trust/, and no database in it. What comes back,
    and what does not, is in docs/disaster-recovery.md.
    """
    from mailboat_controller.backup import rebuilding
    from mailboat_controller.config import load

    settings = load(config)
    export = None if audit_export is None else audit_export.open("rb")
    try:
        rebuilt = rebuilding.rebuild(
            settings, export, actor=options.local_actor(), reason=reason, now=options.now()
        )
    finally:
        if export is not None:
            export.close()
    output.show_fields(
        {
            "database": "new",
            "audit_entries": rebuilt.audit_entries,
            "devices": rebuilt.devices,
            "classes": rebuilt.classes,
            "replayed": rebuilt.replayed.as_json(),
        },
        as_json=as_json,
    )
    output.say(
        f"\nStart it:  mailboat serve --config {config}\n"
        "It hears the broker and the devices first. Then issue tokens for people, hand in what the "
        "log names as\nmissing, and look at every rollout before you resume it.",
        as_json=as_json,
    )
