"""``mailboat release``: build, sign, approve and submit; what CI and approvers run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import options, output
from mailboat_controller.cli.progress import progress
from mailboat_schemas.errors import ConfigurationInvalid
from mailboat_schemas.names import ModelName, Version

if TYPE_CHECKING:
    from mailboat_controller.release_build import Build
    from mailboat_schemas.submission import SubmissionReply

app = typer.Typer(no_args_is_help=True, help="Releases: build, sign, approve, submit.")

BuildDirectory = Annotated[Path, typer.Argument(metavar="BUILD", help="what `build` wrote")]
RoleFile = Annotated[
    Path | None,
    typer.Option(help="newest role metadata as a file; without it, the controller is asked"),
]
# How a refused submission ends the command; anything else is a plain failure.
_EXIT_CODES = {
    "E-SIGNATURE": output.EXIT_TRUST,
    "E-REBASE": output.EXIT_CONFLICT,
    "E-IMMUTABLE": output.EXIT_CONFLICT,
    "E-CONFLICT": output.EXIT_CONFLICT,
    "E-ARTIFACT-MISSING": output.EXIT_NOT_FOUND,
}


@app.command()
def build(
    source: Annotated[Path, typer.Argument(help="a YAML of kind Release")],
    out: Annotated[Path, typer.Option("--out", "-o", help="directory to build into")],
    as_json: options.Json = False,
) -> None:
    """Turn a YAML and the files beside it into a release document. Same input, same bytes."""
    from mailboat_controller.release_build import build_release

    with progress(f"build {source}", shown=not as_json) as report:
        built = build_release(source, out, report)
    files = built.document.files()
    output.tell(
        {
            "model": built.document.model,
            "version": built.document.version,
            "digest": built.digest,
            "directory": str(out),
            "files": len(files),
            "bytes": sum(file.length for file in files),
        },
        f"{built.document.model} {built.document.version} is built in {out}: "
        f"{len(files)} files, digest {built.digest[:16]}…\n"
        f"Next: mailboat release sign {out} --key CI-KEY",
        as_json=as_json,
    )


@app.command()
def sign(
    directory: BuildDirectory,
    key: Annotated[Path, typer.Option(help="the pipeline's key for this model")],
    role_file: RoleFile = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """State that this release exists, with these bytes: the release role's next version."""
    from mailboat_controller.authority.keys import load_key
    from mailboat_controller.authority.roles import add_release
    from mailboat_controller.release_build import read_build
    from mailboat_schemas.trust import release_role

    built = read_build(directory)
    role = release_role(built.document.model)
    content = add_release(
        _current_role(role, role_file, connection),
        load_key(key),
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
def approve(
    directory: BuildDirectory,
    rollout: Annotated[Path, typer.Option(help="a YAML of kind Rollout: the plan to sign")],
    key: Annotated[list[Path], typer.Option(help="an approver's key; repeat for k-of-n")],
    devices_per_class: Annotated[
        int | None, typer.Option(min=1, help="size of the smallest class; caps partial waves")
    ] = None,
    role_file: RoleFile = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """State that this release may run, on this plan: the approval role's next version."""
    from mailboat_controller.authority.keys import load_key
    from mailboat_controller.authority.roles import add_approval
    from mailboat_controller.release_build import plan_of, read_build
    from mailboat_schemas.documents import Rollout
    from mailboat_schemas.documents.yaml_source import load_document
    from mailboat_schemas.trust import approval_role

    built = read_build(directory)
    document = load_document(rollout, Rollout)
    _require_same_release(built, document.spec.release.model, document.spec.release.version)
    plan = plan_of(document, devices_per_class)
    role = approval_role(built.document.model)
    content = add_approval(
        _current_role(role, role_file, connection),
        [load_key(path) for path in key],
        model=built.document.model,
        version=built.document.version,
        document=built.content,
        plan=plan.to_custom(),
        now=options.now(),
    )
    path = built.write_role(role, content)
    waves = "".join(
        f"\n  wave {number}: {len(wave.pilots)} pilots, at most {wave.cap_ppm / 10_000:.1f} % "
        "of a class"
        for number, wave in enumerate(plan.waves, start=1)
    )
    output.tell(
        {"role": role, "path": str(path), "plan": plan.model_dump(mode="json")},
        f"Approved on plan {plan.rollout}: {path}{waves}\n"
        f"Next: mailboat release submit {directory}",
        as_json=as_json,
    )


@app.command()
def submit(
    directory: BuildDirectory,
    connection: options.ConnectionOption = None,
    timeout_seconds: Annotated[float, typer.Option(min=1, max=3600)] = 60,
    http: Annotated[bool, typer.Option("--http", help="submit by HTTPS, not by MQTT")] = False,
    only_write: Annotated[
        Path | None, typer.Option(help="write the submission's bytes here and send nothing")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Upload the artifacts, then submit what was signed and approved; waits for the answer."""
    from mailboat_controller.connection_file import load_connection
    from mailboat_controller.release_build import read_build
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
    payload = encode(
        Submission(fleet=link.fleet, roles=roles, documents={built.digest: built.content})
    )
    if only_write is not None:
        _write(only_write, payload)
        output.tell(
            {"path": str(only_write)}, f"The submission is in {only_write}.", as_json=as_json
        )
        return
    _require_blobs(built)
    with options.client(connection) as api:
        uploaded = 0
        for file in built.document.files():
            with progress(
                f"upload {file.path}", shown=not as_json, total_bytes=file.length
            ) as report:
                uploaded += api.put_artifact(file.sha256, built.blob(file), report)
        if http:
            reply = api.submit(payload)
    if not http:
        from mailboat_controller import ci_client

        reply = ci_client.submit(payload, link, link_path.parent, timeout_seconds=timeout_seconds)
    _answer(reply, uploaded, as_json)


def _answer(reply: "SubmissionReply", uploaded: int, as_json: bool) -> None:
    reasons = "".join(f"\n  {reason}" for reason in reply.reasons)
    known = ", ".join((*reply.releases, *reply.rollouts)) or reply.code or "nothing new"
    output.tell(
        {**reply.model_dump(mode="json"), "uploaded": uploaded},
        f"{reply.status}: {known}{reasons}",
        as_json=as_json,
    )
    if reply.status != "accepted":
        raise typer.Exit(_EXIT_CODES.get(reply.code, output.EXIT_FAILURE))


def _current_role(role: str, role_file: Path | None, connection: Path | None) -> bytes:
    if role_file is None:
        with options.client(connection) as api:
            return api.role(role)
    try:
        return role_file.read_bytes()
    except OSError as error:
        raise ConfigurationInvalid(
            f"{role_file} cannot be read: {error.strerror}.", next_step="check --role-file."
        ) from error


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationInvalid(
            f"{path} cannot be written: {error.strerror}.", next_step="check --only-write."
        ) from error


def _require_blobs(built: "Build") -> None:
    missing = built.missing_blobs()
    if missing:
        raise ConfigurationInvalid(
            f"{built.directory} lacks {len(missing)} files of the release, {missing[0].path} "
            "for one.",
            next_step="run `mailboat release build` again into this directory.",
        )


def _require_same_release(built: "Build", model: ModelName, version: Version) -> None:
    if (built.document.model, built.document.version) != (model, version):
        raise ConfigurationInvalid(
            f"The rollout is for {model} {version}, the build holds {built.document.model} "
            f"{built.document.version}.",
            next_step="approve the build the rollout names.",
        )
