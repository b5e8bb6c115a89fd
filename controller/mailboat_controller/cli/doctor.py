"""``mailboat doctor``: what stands between you and your controller; each line ends with the fix."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.cli import forms, options, output
from mailboat_schemas.finding import Finding, Level

LEVEL_CHARS = 4
CHECK_CHARS = 14
_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red", Level.SKIP: "dim"}


def doctor(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="The controller's settings file, on its machine: its disk and broker as well.",
            show_default=False,
        ),
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Name, connection, TLS, clock, access, trust, broker, disk. Exit code 1: something fails."""
    from mailboat_controller.doctor.examine import examine, worst

    findings = []
    path, because = options.connection_path(connection), options.why_this_connection(connection)
    for finding in examine(path, because, config, options.now):
        findings.append(finding)
        if not as_json:
            _print(finding)
    verdict = worst(findings)
    if as_json:
        told = {"verdict": verdict, "findings": [each.to_json() for each in findings]}
        output.show_json(told)
    if verdict is Level.FAIL:
        raise typer.Exit(output.EXIT_FAILURE)


def _print(finding: Finding) -> None:
    """What was found; what to do about it below."""
    what = forms.printable(finding.what)
    fix = f"fix: {forms.printable(finding.fix)}" if finding.fix else ""
    if sys.stdout.isatty():
        _draw(finding, what, fix)
        return
    print(f"{finding.level:<{LEVEL_CHARS}}  {finding.check:<{CHECK_CHARS}} {what}")
    if fix:
        print(f"{'':<{LEVEL_CHARS + CHECK_CHARS + 3}}{fix}", flush=True)


def _draw(finding: Finding, what: str, fix: str) -> None:
    """Wrapped within its own column."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 1))
    row.add_column(width=LEVEL_CHARS)
    row.add_column(width=CHECK_CHARS)
    row.add_column()
    row.add_row(Text(finding.level, _STYLES[finding.level]), Text(finding.check), Text(what))
    if fix:
        row.add_row("", "", Text(fix, "bold"))
    Console().print(row)
