"""``mailboat diff``: what documents in files say, beside what stands."""

import typer

from mailboat_controller.cli import declared, forms, options, output


@forms.with_markdown
def diff(
    file: declared.FileOption,
    given: declared.SetOption = "",
    prune: declared.PruneOption = False,
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
    declared.show(found, as_json=as_json)
    raise typer.Exit(declared.exit_code(found, differences=output.EXIT_DIFFERENT))
