"""``mailboat release``: build, sign, approve and submit; what CI and approvers run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import options, output, release_approval, submission_reply
from mailboat_controller.cli.content_key import KeySource, hand_over
from mailboat_controller.cli.progress import progress
from mailboat_controller.cli.release_build_approval import current_role
from mailboat_schemas.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mailboat_controller.releases.build import Build

app = typer.Typer(
    no_args_is_help=True,
    help="Releases: build, sign, approve, submit, withdraw.",
    epilog=output.examples(
        "mailboat release build release.yaml --out build",
        "mailboat release sign build --key heat.pem",
        "mailboat release submit build",
        "mailboat release approve heat 1.0.0 --rollout rollout.yaml --key approver.pem",
        'mailboat release withdraw heat 1.0.0 --reason "wrong outputs" --key approver.pem',
    ),
)

BuildDirectory = Annotated[Path, typer.Argument(metavar="BUILD", help="What `build` wrote.")]
RoleFile = Annotated[
    Path | None,
    typer.Option(help="Newest role metadata as a file; without it, the controller is asked."),
]


@app.command()
def build(
    source: Annotated[Path, typer.Argument(help="A YAML of kind Release.")],
    out: Annotated[Path, typer.Option("--out", help="Directory to build into.")],
    encrypt: Annotated[bool, typer.Option("--encrypt", help="Encrypt every file.")] = False,
    content_key: KeySource = None,
    as_json: options.Json = False,
) -> None:
    """Turn a YAML and the files beside it into a release document. Same input, same bytes."""
    from mailboat_controller.content.key_file import key_of_build
    from mailboat_controller.releases.build import build_release

    key = key_of_build(out, content_key) if encrypt or content_key is not None else None
    with progress(f"build {source}", shown=not as_json) as report:
        built = build_release(source, out, report, content_key=key)
    files = built.document.files()
    output.tell(
        {
            "model": built.document.model,
            "version": built.document.version,
            "digest": built.digest,
            "directory": str(out),
            "files": len(files),
            "bytes": sum(file.artifact_length for file in files),
            "content_keys": sorted(built.document.content_keys),
        },
        f"{built.document.model} {built.document.version} is built in {out}: "
        f"{len(files)} files, digest {built.digest[:16]}…\n"
        f"Next: mailboat release sign {out} --key CI-KEY",
        as_json=as_json,
    )


@app.command()
def sign(
    directory: BuildDirectory,
    key: Annotated[str, typer.Option(help="The pipeline's key for this model, as a source.")],
    role_file: RoleFile = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """State that this release exists, with these bytes: the release role's next version."""
    from mailboat_controller.authority.keys import open_signer
    from mailboat_controller.authority.roles import add_release
    from mailboat_controller.releases.build import read_build
    from mailboat_schemas.trust import release_role

    built = read_build(directory)
    role = release_role(built.document.model)
    content = add_release(
        current_role(role, role_file, connection),
        open_signer(key),
        model=built.document.model,
        version=built.document.version,
        document=built.content,
        now=options.now(),
    )
    path = built.write_role(role, content)
    output.tell(
        {"role": role, "path": str(path), "digest": built.digest},
        f"Signed: {path}\nNext: mailboat release approve {directory} --rollout FILE --key KEY",
        as_json=as_json,
    )


@app.command()
def submit(
    directory: BuildDirectory,
    content_key: KeySource = None,
    connection: options.ConnectionOption = None,
    timeout_seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="How long the answer may take.")
    ] = 60,
    http: Annotated[bool, typer.Option("--http", help="Submit by HTTPS, not by MQTT.")] = False,
    only_write: Annotated[
        Path | None, typer.Option(help="Write the submission's bytes here and send nothing.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the audit log.")] = "",
    as_json: options.Json = False,
) -> None:
    """Upload the artifacts, then submit what was signed and approved; waits for the answer.

    With a pending file: hand in the approval or withdrawal that all its approvers have signed.
    """
    if directory.is_file():
        release_approval.submit_pending(
            directory,
            reason=reason,
            connection=connection,
            only_write=only_write,
            as_json=as_json,
        )
        return
    from mailboat_controller.connection_file import load_connection
    from mailboat_controller.releases.build import read_build
    from mailboat_schemas.codec import encode
    from mailboat_schemas.submission import Submission

    built = read_build(directory)
    roles = built.roles()
    if not roles:
        raise ConfigurationInvalid(
            f"Nothing in {directory} is signed.",
            next_step="run `mailboat release sign` (and `approve`) first.",
        )
    link_path = options.connection_path(connection)
    link = load_connection(link_path)
    http = http or link.certificate is None  # a person's token opens the API, not the broker
    payload = encode(
        Submission(
            fleet=link.fleet,
            roles=roles,
            documents={built.digest: built.content},
            reason=reason,
        )
    )
    if only_write is not None:
        submission_reply.write_submission(only_write, payload, as_json)
        return
    _require_blobs(built)
    with options.client(connection) as api:
        uploaded = 0
        for file in built.document.files():
            with progress(
                f"upload {file.path}", shown=not as_json, total_bytes=file.artifact_length
            ) as report:
                uploaded += api.put_artifact(file.artifact_digest, built.blob(file), report)
        # After the artifacts, before the submission that is refused without it.
        hand_over(api, built, content_key)
        if http:
            reply = api.submit(payload)
    if not http:
        from mailboat_controller import ci_client

        reply = ci_client.submit(payload, link, link_path.parent, timeout_seconds=timeout_seconds)
    submission_reply.answer(reply, uploaded, as_json)


def _require_blobs(built: "Build") -> None:
    missing = built.missing_blobs()
    if missing:
        raise ConfigurationInvalid(
            f"{built.directory} lacks {len(missing)} files of the release, {missing[0].path} "
            "for one.",
            next_step="run `mailboat release build` again into this directory.",
        )
