"""``mailboat audit``: who did what, whether the record is whole, and a copy to keep elsewhere."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import audit_following, options, output
from mailboat_controller.cli.instants import instant

if TYPE_CHECKING:
    from mailboat_controller.auditing.signed_head import SignedHead
    from mailboat_controller.client import ApiClient

app = typer.Typer(
    help="The audit log.",
    no_args_is_help=True,
    epilog=output.examples(
        "mailboat audit show --actor operator:alice --since 6h",
        "mailboat audit head --out head.json",
        "mailboat audit verify --head head.json",
        "mailboat audit export --out audit.jsonl",
        "mailboat audit verify --export audit.jsonl --head head.json",
    ),
)

ENTRIES_DEFAULT = 1_000
FOLLOWED_DEFAULT = 10  # entries, as tail shows lines
ENTRIES_MAX = 100_000  # a table is put together in memory; some 100 MB of it
_COLUMNS = {
    "sequence": "NO",
    "at": "AT",
    "actor": "ACTOR",
    "action": "ACTION",
    "subject": "SUBJECT",
    "reason": "REASON",
}


@app.command("show")
def show(
    subject: Annotated[str | None, typer.Option("--subject", help="Only about this.")] = None,
    actor: Annotated[str | None, typer.Option("--actor", help="Such as operator:alice.")] = None,
    action: Annotated[
        str | None, typer.Option("--action", help="Such as rollout.halt; rollout. for all of them.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="30m, 6h, 2d ago, or a time with its zone.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Likewise; not itself.")] = None,
    after: Annotated[
        int | None,
        typer.Option("--after", min=0, help="The first ones above this number, not the newest."),
    ] = None,
    entries: Annotated[
        int | None,
        typer.Option(
            "--entries",
            min=1,
            max=ENTRIES_MAX,
            help=f"At most so many; {ENTRIES_DEFAULT}, and {FOLLOWED_DEFAULT} with --follow.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="The newest, and go on as more come.")
    ] = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """The newest entries, the oldest of them first. `audit export` writes all of them to a file."""
    if follow and until is not None:
        raise typer.BadParameter("--follow has no end", param_hint="--until")
    wanted_rows = entries or (FOLLOWED_DEFAULT if follow else ENTRIES_DEFAULT)
    now = options.now()
    since_at, until_at = instant(since, now, "--since"), instant(until, now, "--until")
    wanted = {
        "subject": subject,
        "actor": actor,
        "action": action,
        "since": None if since_at is None else since_at.isoformat(),
        "until": None if until_at is None else until_at.isoformat(),
    }
    with options.client(connection) as client:
        if follow:
            audit_following.follow(client, after, wanted_rows, wanted, tuple(_COLUMNS))
        if after is None:
            rows = audit_following.newest(client, wanted_rows + 1, wanted)
            more, rows = len(rows) > wanted_rows, rows[-wanted_rows:]
        else:
            rows = list(
                islice(audit_following.pages(client, "/v1/audit", after, **wanted), wanted_rows + 1)
            )
            more, rows = len(rows) > wanted_rows, rows[:wanted_rows]
    output.show_rows(rows, _COLUMNS, as_json=as_json)
    if more:
        output.remark(_more(rows, older=after is None))


@app.command("head")
def head(
    out: Annotated[Path | None, typer.Option("--out", help="A file to keep elsewhere.")] = None,
    connection: options.ConnectionOption = None,
) -> None:
    """Print the newest entry's number and hash, signed: an anchor to keep on another machine.

    A log that was cut off at its end, or worked out anew, does not fit it any more.
    """
    from mailboat_controller.auditing import signed_head
    from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably

    with options.client(connection) as client:
        signed = signed_head.read(json.dumps(client.get("/v1/audit/head")))
    if out is None:
        print(signed.text)
        return
    replace_durably(out, signed.text.encode() + b"\n", mode=PUBLIC_MODE)
    output.say(
        f"Entry {signed.head.sequence} of {signed.head.fleet}, signed by key "
        f"{signed.key.keyid[:16]}, is in {out}. Keep it on another machine."
    )


@app.command("verify")
def verify(
    heads: Annotated[
        list[Path] | None,
        typer.Option("--head", help="What `audit head` wrote earlier and was kept elsewhere."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="A file of `audit export`; asks no controller.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="The audit log's public key, instead of a head with it."),
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Check the chain of hashes and the signed heads; exits with 8 where they do not hold."""
    with _telling_what_is_broken(as_json=as_json):
        kept = [_kept(path) for path in heads or ()]
        if export is not None:
            found = _verify_export(export, key, kept)
        else:
            with options.client(connection) as client:
                found = _verify_log(client, kept)
    output.show_fields(found, as_json=as_json)
    if not found["holds"]:
        raise typer.Exit(output.EXIT_TRUST)


@app.command("export")
def export_log(
    out: Annotated[Path, typer.Option("--out", help="A file of JSON lines.")],
    first: Annotated[int, typer.Option("--first", min=1, help="From this number on.")] = 1,
    last: Annotated[
        int | None, typer.Option("--last", min=1, help="Up to this number; the newest without it.")
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Write the log, or a range of it, to a file that can be verified without the controller."""
    from mailboat_controller.auditing import export_file, signed_head
    from mailboat_controller.cli.progress import progress
    from mailboat_controller.durable_file import PUBLIC_MODE, replacing

    with _telling_what_is_broken(as_json=as_json), options.client(connection) as client:
        signed = signed_head.read(json.dumps(client.get("/v1/audit/head", first=first, last=last)))
        count = signed.head.sequence - first + 1
        with replacing(out, mode=PUBLIC_MODE) as file:
            with progress("exporting", shown=not as_json, total_rows=count) as advance:
                entries = _sealed(client, first, signed.head.sequence)
                for line in export_file.lines(entries, signed):
                    file.write(line.encode())
                    advance(1)
            file.seek(0)
            verified = export_file.verify(file, signed.key)
    output.show_fields({**asdict(verified), "file": str(out)}, as_json=as_json)


@contextlib.contextmanager
def _telling_what_is_broken(*, as_json: bool) -> Iterator[None]:
    """
    Raises:
        Exit: 8 where the log, or what was kept of it, does not hold.
    """
    from mailboat_controller.auditing.signed_head import AuditBroken

    try:
        yield
    except AuditBroken as error:
        output.show_error(error, as_json=as_json)
        raise typer.Exit(output.EXIT_TRUST) from None


def _more(rows: list[dict[str, Any]], *, older: bool) -> str:
    if older:
        return "There are older ones: narrow it with --since or --subject, or raise --entries."
    return f"There are more: go on with --after {rows[-1]['sequence']}."


def _sealed(client: "ApiClient", first: int, last: int) -> Iterator[dict[str, Any]]:
    for entry in audit_following.pages(client, "/v1/audit/sealed", first - 1):
        if entry["sequence"] > last:
            return
        yield entry


def _kept(path: Path) -> "SignedHead":
    from mailboat_controller.auditing import signed_head

    with path.open("rb") as file:
        return signed_head.read(file.read(signed_head.HEAD_BYTES_MAX))


def _verify_log(client: "ApiClient", kept: "list[SignedHead]") -> dict[str, Any]:
    """The controller reads the log; what was kept elsewhere is compared here."""
    from mailboat_controller.auditing import checking, signed_head

    found: dict[str, Any] = client.get("/v1/audit/verify")
    now = signed_head.read(json.dumps(client.get("/v1/audit/head")))
    for each in kept:
        signed_head.refuse_other_key(now, each.key)
        sequence = each.head.sequence
        rows = client.get("/v1/audit", after=sequence - 1, limit=1) if sequence else []
        there = rows[0]["hash"] if rows and rows[0]["sequence"] == sequence else None
        problem = checking.problem_with(each, now.head.fleet, there)
        if problem and found["holds"]:
            broken = {"holds": False, "broken_at": min(sequence, found["entries"] + 1)}
            found |= broken | {"problem": problem, "next_step": checking.NEXT_STEP}
    return {**found, "heads_kept_elsewhere": len(kept), "key": now.key.keyid}


def _verify_export(path: Path, key: Path | None, kept: "list[SignedHead]") -> dict[str, Any]:
    from mailboat_controller.auditing import export_file
    from mailboat_controller.authority.public_keys import read_public_key

    if key is None and not kept:
        raise typer.BadParameter(
            "name --key or --head: a key that comes with the export proves nothing",
            param_hint="--export",
        )
    trusted = kept[0].key if key is None else read_public_key(key)
    with path.open("rb") as file:
        return {"holds": True, **asdict(export_file.verify(file, trusted, kept))}
