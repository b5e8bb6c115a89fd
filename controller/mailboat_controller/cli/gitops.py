"""``mailboat gitops``: keep a controller as a branch of a repository says, and see where it
differs."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mailboat_controller.cli import declared, options, output

INTERVAL_SECONDS_MIN = 10.0
INTERVAL_SECONDS_MAX = 86_400.0
PRUNE_MAX = 100

app = typer.Typer(
    help="Keep a controller as a branch says: signed commits alone, forward alone.",
    no_args_is_help=True,
)

Address = Annotated[
    str,
    typer.Option("--repository", help="https://…, ssh://…, user@host:path, or a directory."),
]
Signers = Annotated[
    Path,
    typer.Option(
        "--allowed-signers", help="Whose SSH signatures count; as ssh-keygen(1) reads it."
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option("--ca", help="Of an https repository: certificates of its authority, as PEM."),
]
Proxy = Annotated[
    str, typer.Option("--proxy", help="Of an https repository: http://proxy.example:3128.")
]
CredentialFile = Annotated[
    Path | None,
    typer.Option("--credential-file", help="Of an https repository: one line, user:token."),
]
Interval = Annotated[
    float,
    typer.Option("--interval", min=INTERVAL_SECONDS_MIN, max=INTERVAL_SECONDS_MAX, help="Seconds."),
]
AllowRewind = Annotated[
    str,
    typer.Option(
        "--allow-rewind",
        metavar="COMMIT",
        help="With --once: take this commit though it does not follow the last.",
    ),
]
_COLUMNS = {
    "set": "SET",
    "state": "STATE",
    "differences": "DIFFER",
    "commit": "APPLIED",
    "pulled_commit": "SEEN",
    "signer": "SIGNED BY",
    "pulled_at": "LOOKED AT",
    "because": "BECAUSE",
}


@app.command("run")
def run(
    repository: Address,
    allowed_signers: Signers,
    branch: Annotated[str, typer.Option("--branch", help="Which one is followed.")] = "main",
    path: Annotated[str, typer.Option("--path", help="The directory of the documents.")] = "",
    given: declared.SetOption = "",
    interval: Interval = 60.0,
    prune_max: Annotated[
        int,
        typer.Option(min=0, max=PRUNE_MAX, help="Documents pruned at once; 0: nothing is."),
    ] = 10,
    watch_only: Annotated[
        bool, typer.Option("--watch-only", help="Tell what differs and change nothing.")
    ] = False,
    allow_rewind: AllowRewind = "",
    ca: Ca = None,
    proxy: Proxy = "",
    credential_file: CredentialFile = None,
    once: Annotated[bool, typer.Option("--once", help="One turn; exit codes of diff.")] = False,
    state: Annotated[
        Path | None,
        typer.Option("--state", help="Where its copy of the repository is.", show_default=False),
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Fetch, verify the signature, apply, tell the controller; again and again."""
    from mailboat_controller.gitops.git_access import checked_access
    from mailboat_controller.gitops.pulling import Pulling, turn
    from mailboat_controller.gitops.repository import Repository

    if allow_rewind and not once:
        raise typer.BadParameter(
            "one rewind is allowed at a time: add --once", param_hint="--allow-rewind"
        )
    name = _set_name(given, path)
    pulling = Pulling(
        set_name=name,
        url=repository,
        branch=branch,
        path=path,
        prune_max=prune_max,
        watch_only=watch_only,
        rewind_to=allow_rewind,
    )
    access = checked_access(repository, ca, proxy, credential_file)
    held = Repository(state or _state_dir(name), repository, branch, allowed_signers, access)
    if not once:
        signal.signal(signal.SIGTERM, _stop)
    while True:
        with options.client(connection) as client:
            found = turn(held, client, pulling)
        content = {each: getattr(found, each) for each in type(found).__slots__}
        _show(content, as_json=as_json)
        if once:
            raise typer.Exit(_exit_code(found.state))
        time.sleep(interval)


@app.command("status")
def status(connection: options.ConnectionOption = None, as_json: options.Json = False) -> None:
    """Every set: what was applied last, what the loop saw last, and whether they differ."""
    with options.client(connection) as client:
        rows = client.get("/v1/gitops")
    if not as_json:
        for row in rows:
            row |= {each: row[each][:12] for each in ("commit", "pulled_commit")}
            row["state"] = row["state"] or "not pulled"
    output.show_rows(rows, _COLUMNS, as_json=as_json)


def _show(content: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.show_json(content)
        return
    because = f": {output.plain_text(content['because'])}" if content["because"] else ""
    commit = f" at {content['commit'][:12]}" if content["commit"] else ""
    output.say(f"{content['state']}{commit}{because}")
    for each in content["results"]:
        if each["result"] != "unchanged":
            output.say(f"  {each['result']} {each['kind']} {each['name']}")


def _exit_code(state: str) -> int:
    return {
        "in-step": 0,
        "drifted": output.EXIT_DIFFERENT,
        "refused": output.EXIT_CONFLICT,
    }.get(state, output.EXIT_TIMEOUT)


def _set_name(given: str, path: str) -> str:
    from mailboat_schemas.names import is_label

    name = given or Path(path).name
    if not is_label(name):
        raise typer.BadParameter(
            f"{name!r} is no name of a set: lower-case letters, digits and inner hyphens",
            param_hint="--set",
        )
    return name


def _state_dir(name: str) -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "mailboat" / "gitops" / name


def _stop(_number: int, _frame: object) -> None:
    raise SystemExit(0)  # so that a running git ends with us
