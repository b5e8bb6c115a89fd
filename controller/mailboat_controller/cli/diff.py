"""``mailboat diff``: what documents in files say, beside what stands."""

from typing import Annotated

import typer

from mailboat_controller.cli import declared, options, output
from mailboat_controller.cli.declared import Form


def diff(
    file: declared.FileOption,
    given: declared.SetOption = "",
    prune: declared.PruneOption = False,
    form: Annotated[Form, typer.Option("--output", "-o", help="How to say it.")] = Form.TABLE,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Field by field, before and after. Exit code 0: the same, 3: differences, 6: refused."""
    from mailboat_controller.gitops.reading import as_sent, read_tree

    name = declared.set_name(file, given, prune=prune)
    sources = read_tree(file)
    request = {"documents": as_sent(sources), "prune": prune}
    with options.client(connection) as client:
        answer = client.post(f"/v1/gitops/{name}/diff", request)
    found = declared.with_sources(answer, sources)
    declared.show(found, Form.JSON if as_json else form)
    raise typer.Exit(declared.exit_code(found, differences=output.EXIT_DIFFERENT))
