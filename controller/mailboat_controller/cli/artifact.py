"""``mailboat artifact``: how the artifact store is, its garbage, and reading it all again."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import options, output
from mailboat_controller.cli.progress import progress

if TYPE_CHECKING:
    from mailboat_controller.client import ApiClient

app = typer.Typer(
    no_args_is_help=True,
    help="Artifacts: the files of releases, as the controller keeps them.",
    epilog=output.examples(
        "mailboat artifact status",
        "mailboat artifact gc --dry-run",
        "mailboat artifact scrub",
    ),
)
POLL_SECONDS = 1.0
EXIT_DAMAGED = output.EXIT_DIFFERENT

_NEEDED = {"digest": "UPLOAD AGAIN", "length": "BYTES", "needed_by": "NEEDED BY"}
_WAITING = {"digest": "NAMED BY NOTHING", "until": "KEPT UNTIL"}


@app.command()
def status(
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """How many files, how large, what is missing or damaged, and when all was last read again."""
    with options.client(connection) as client:
        found = client.get("/v1/artifacts/status")
    if as_json:
        output.show_json(found)
        return
    told = {key: found[key] for key in ("store", "place", "artifacts", "bytes", "missing")}
    told["damaged"] = len(found["damaged"])
    told["quarantined"] = found["quarantined"]
    told["named_by_nothing"] = f"{found['unnamed']} ({found['unnamed_bytes']} bytes)"
    told["last_scrub"] = _scrub_words(found["scrub"])
    output.show_fields(told, as_json=False)
    _show_needed(found)


@app.command("gc")
def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Remove files that no release, manifest or delta has named for the grace period."""
    with options.client(connection) as client:
        done = client.post("/v1/artifacts/garbage", {"dry_run": dry_run})
    if as_json:
        output.show_json(done)
        return
    count, size = (
        (len(done["due"]), done["due_bytes"])
        if dry_run
        else (done["removed"], done["removed_bytes"])
    )
    print(f"{'Would remove' if dry_run else 'Removed'} {count} artifacts, {size} bytes.")
    if done["waiting"]:
        print(f"{len(done['waiting'])} more, {done['waiting_bytes']} bytes, wait:\n")
        output.show_rows(done["waiting"], _WAITING, as_json=False)


@app.command("scrub")
def scrub(
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until all is read.")] = True,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Read every file again and compare it with its name; damaged ones are taken out.

    It goes on in the controller when this command is ended. Exit code 3: something is damaged.
    """
    with options.client(connection) as client:
        client.post("/v1/artifacts/scrub", {})
        if not wait:
            output.say("Begun; `mailboat artifact status` shows how far it is.", as_json=as_json)
            return
        _follow(client, shown=not as_json)
        found = client.get("/v1/artifacts/status")
    output.tell(found, _scrub_words(found["scrub"]), as_json=as_json)
    if not as_json:
        _show_needed(found)
    if found["damaged"]:
        raise typer.Exit(EXIT_DAMAGED)


def _follow(client: "ApiClient", *, shown: bool) -> None:
    total = client.get("/v1/artifacts/status")["bytes"]
    with progress("scrub", shown=shown, total_bytes=total) as advance:
        read = 0
        while True:
            state = client.get("/v1/artifacts/scrub")
            advance(state["checked_bytes"] - read)
            read = state["checked_bytes"]
            if not state["running"]:
                return
            time.sleep(POLL_SECONDS)


def _show_needed(found: dict[str, Any]) -> None:
    needed = {row["digest"]: row for row in (*found["damaged"], *found["upload_again"])}
    if needed:
        print()
        output.show_rows(list(needed.values()), _NEEDED, as_json=False)
        print("\nUpload them from where the release was built: mailboat release submit BUILD")


def _scrub_words(state: dict[str, Any] | None) -> str:
    if state is None or not (state["checked"] or state["running"]):
        return "nothing was read yet"
    words = f"{state['checked']} artifacts, {state['checked_bytes']} bytes, "
    words += f"{state['damaged']} damaged"
    if state["running"]:
        return f"since {state['started_at']}: {words} so far"
    return f"{state['finished_at']}: {words}"
