"""Approving in a build directory: the approval travels with the release, in one submission."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import options, output
from mailboat_schemas.errors import ConfigurationInvalid, Conflict

if TYPE_CHECKING:
    from mailboat_controller.releases.build import Build
    from mailboat_schemas.documents.rollout import RolloutRelease
    from mailboat_schemas.plan import Plan


def approve_build(
    directory: Path,
    release: "RolloutRelease",
    plan: "Plan",
    sources: list[str],
    role_file: Path | None,
    connection: Path | None,
    *,
    as_json: bool,
) -> None:
    """Write the approval role's next version into the build."""
    from mailboat_controller.authority.keys import open_signer
    from mailboat_controller.authority.roles import add_approval
    from mailboat_controller.releases.approval_review import plan_sentences
    from mailboat_controller.releases.build import read_build
    from mailboat_schemas.trust import approval_role

    built = read_build(directory)
    _require_same_release(built, release)
    role = approval_role(built.document.model)
    content = add_approval(
        current_role(role, role_file, connection),
        [open_signer(source) for source in sources],
        model=built.document.model,
        version=built.document.version,
        document=built.content,
        plan=plan.to_custom(),
        now=options.now(),
    )
    path = built.write_role(role, content)
    waves = "".join(f"\n  {sentence}" for sentence in plan_sentences(plan))
    output.tell(
        {"role": role, "path": str(path), "plan": plan.model_dump(mode="json")},
        f"Approved on plan {plan.rollout}: {path}{waves}\n"
        f"Next: mailboat release submit {directory}, after `cosign` where several must sign",
        as_json=as_json,
    )


def cosign(
    directory: Annotated[Path, typer.Argument(metavar="BUILD", help="With an approval in it.")],
    *,
    key: Annotated[str, typer.Option(help="Another approver's key, as a source.")],
    as_json: options.Json = False,
) -> None:
    """Add an approver's signature to the approval in a build; for k-of-n, on their own machine."""
    from mailboat_controller.authority.approvals import cosign as add_signature
    from mailboat_controller.authority.approvals import plan_in
    from mailboat_controller.authority.keys import open_signer
    from mailboat_controller.releases.approval_review import plan_sentences, release_sentences
    from mailboat_controller.releases.build import read_build
    from mailboat_schemas.trust import approval_role

    built = read_build(directory)
    document = built.document
    role = approval_role(document.model)
    content = built.roles().get(role)
    if content is None:
        raise ConfigurationInvalid(
            f"There is no approval in {directory}.",
            next_step="run `mailboat release approve` with the first approver's key.",
        )
    plan = plan_in(content, model=document.model, version=document.version, document=built.content)
    signer = open_signer(key)
    signed = add_signature(content, signer)
    if signed is None:
        raise Conflict(
            f"Key {signer.public_key.keyid[:8]} has signed this approval already; it counts once.",
            next_step="another approver must sign.",
        )
    path = built.write_role(role, signed)
    told = "\n  ".join([*release_sentences(document), *plan_sentences(plan)])
    output.tell(
        {"role": role, "path": str(path), "keyid": signer.public_key.keyid},
        f"Signed too: {path}\n  {told}\nNext: mailboat release submit {directory}",
        as_json=as_json,
    )


def current_role(role: str, role_file: Path | None, connection: Path | None) -> bytes:
    """From the file that was named, or from the controller."""
    if role_file is None:
        with options.client(connection) as api:
            return api.role(role)
    try:
        return role_file.read_bytes()
    except OSError as error:
        raise ConfigurationInvalid(
            f"{role_file} cannot be read: {error.strerror}.", next_step="check --role-file."
        ) from error


def _require_same_release(built: "Build", release: "RolloutRelease") -> None:
    if (built.document.model, built.document.version) != (release.model, release.version):
        raise ConfigurationInvalid(
            f"The rollout is for {release.model} {release.version}, the build holds "
            f"{built.document.model} {built.document.version}.",
            next_step="approve the build the rollout names.",
        )
