"""``mailboat apply``: make what stands be as documents in files say."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from mailboat_controller.cli import declared, forms, options, output

UNASKED_MAX = 10  # documents that are changed or pruned without asking


@forms.with_markdown
def apply(
    file: declared.FileOption,
    given: declared.SetOption = "",
    prune: declared.PruneOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show it and change nothing; exit codes of diff.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help=f"Also for more than {UNASKED_MAX} documents.")
    ] = False,
    reason: options.OptionalReason = "",
    commit: Annotated[
        str, typer.Option("--commit", help="Of Git, that the files are from; for the audit log.")
    ] = "",
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Classes, sites, holds and pins, in this order. Rollouts wait for an approver's signature."""
    from mailboat_controller.gitops.reading import as_sent, read_tree

    name = declared.set_name(file, given, prune=prune)
    sources = read_tree(file)
    request: dict[str, Any] = {"documents": as_sent(sources), "prune": prune}
    with options.client(connection) as client:
        seen = client.post(f"/v1/gitops/{name}/diff", request)
        if dry_run:
            found = declared.with_sources(seen, sources)
            declared.show(found, as_json=as_json)
            raise typer.Exit(declared.exit_code(found, differences=output.EXIT_DIFFERENT))
        if not yes:
            _ask(name, declared.with_sources(seen, sources))
        # What is applied is what was compared: another apply in between is told of.
        request |= {"reason": reason, "commit": commit, "generation": seen["generation"]}
        answer = client.post(f"/v1/gitops/{name}/apply", request)
    found = declared.with_sources(answer, sources)
    declared.show(found, as_json=as_json)
    raise typer.Exit(declared.exit_code(found, differences=0))


def _ask(name: str, seen: Mapping[str, Any]) -> None:
    """
    Raises:
        BadParameter: nobody is there to ask, or they did not say yes.
    """
    touched = sum(each["result"] in ("created", "changed", "pruned") for each in seen["results"])
    if touched <= UNASKED_MAX:
        return
    for line in declared.table(seen):
        output.remark(line)
    problem = f"{touched} documents would be created, changed or pruned; add --yes"
    if sys.stdin.isatty():
        said = typer.prompt(f"Type {name} to go on", default="", show_default=False, err=True)
        if said == name:
            return
        problem = "nothing was changed"
    raise typer.BadParameter(problem, param_hint="--yes")
