"""``mailboat release approve|cosign|reject|withdraw``: what people with an approver's key run."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import options, output, signing, submission_reply
from mailboat_controller.cli.signing import Keys, PendingOption, TrustRoot, Yes
from mailboat_schemas.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mailboat_controller.authority.pending import Pending
    from mailboat_controller.client import ApiClient

OnlyWrite = Annotated[
    Path | None, typer.Option(help="Write the submission's bytes here and send nothing.")
]


def approve(
    target: Annotated[
        str, typer.Argument(metavar="BUILD|MODEL", help="What `build` wrote, or a model.")
    ],
    version: Annotated[
        str | None, typer.Argument(help="With MODEL: a release the controller has.")
    ] = None,
    *,
    rollout: Annotated[Path, typer.Option(help="A YAML of kind Rollout: the plan to sign.")],
    key: Keys,
    devices_per_class: Annotated[
        int | None, typer.Option(min=1, help="Size of the smallest class; caps partial waves.")
    ] = None,
    role_file: Annotated[
        Path | None, typer.Option(help="With BUILD: the newest approval role, as a file.")
    ] = None,
    pending: PendingOption = None,
    only_write: OnlyWrite = None,
    trust_root: TrustRoot = None,
    even_rejected: Annotated[
        bool, typer.Option("--even-rejected", help="Overrule an approver's no.")
    ] = False,
    yes: Yes = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """State that this release may run, on this plan.

    With BUILD: signs into the build directory, to be submitted with the release. With MODEL and
    VERSION: fetches the release, shows it, asks, signs and submits.
    """
    from mailboat_controller.cli import release_build_approval
    from mailboat_controller.releases.build import plan_of
    from mailboat_schemas.documents import Rollout
    from mailboat_schemas.documents.yaml_source import load_document

    document = load_document(rollout, Rollout)
    plan = plan_of(document, devices_per_class)
    if version is None:
        release_build_approval.approve_build(
            Path(target), document.spec.release, plan, key, role_file, connection, as_json=as_json
        )
        return
    _require_release(document.spec.release.model, document.spec.release.version, target, version)
    from mailboat_controller.authority import approvals

    with options.client(connection) as api:
        standing = api.get(f"/v1/releases/{target}/{version}/standing")
        content = api.release_document(target, version)
        held = _held(api, target, trust_root)
        approvals.require_released(held, model=target, version=version, document=content)
        draft = approvals.approve(
            held, model=target, version=version, document=content, plan=plan, now=options.now()
        )
        review = _review(api, target, content, standing, draft)
        lines = [*review, "", "The plan to sign:", *_plan(plan)]
        signing.show(lines, yes=yes, as_json=as_json)
        _ask_about_rejection(standing, even_rejected=even_rejected)
        signing.ask(f"Sign the approval of {target} {version} with {len(key)} key(s)?", yes=yes)
        _sign_and_submit(api, draft, key, pending, only_write, reason="", as_json=as_json)


def withdraw(
    model: options.ModelName,
    version: options.Version,
    *,
    reason: options.Reason,
    key: Keys,
    pending: PendingOption = None,
    only_write: OnlyWrite = None,
    trust_root: TrustRoot = None,
    yes: Yes = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Take an approval back: every device that hears of it stops using the release at once."""
    from mailboat_controller.authority import approvals

    with options.client(connection) as api:
        held = _held(api, model, trust_root)
        draft = approvals.withdraw(held, model=model, version=version, now=options.now())
        lines = _still_approved(held, model, draft, without=version)
        question = f"Withdraw {model} {version} on every device, as soon as it hears of it?"
        signing.show_and_ask(lines, question, yes=yes, as_json=as_json)
        _sign_and_submit(api, draft, key, pending, only_write, reason=reason, as_json=as_json)


def reject(
    model: options.ModelName,
    version: options.Version,
    *,
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Record an approver's no. It needs no key: what is not approved does not run."""
    with options.client(connection) as api:
        found = api.post(f"/v1/releases/{model}/{version}/reject", {"reason": reason})
    output.tell(found, f"{model} {version} is {found['standing']}: {reason}", as_json=as_json)


def submit_pending(
    path: Path, *, reason: str, connection: Path | None, only_write: Path | None, as_json: bool
) -> None:
    """Hand in a pending approval or withdrawal that has all its signatures."""
    from mailboat_controller.authority.pending import read_pending

    with options.client(connection) as api:
        _submit(api, read_pending(path), only_write, reason=reason, as_json=as_json)


def _sign_and_submit(
    api: "ApiClient",
    draft: "Pending",
    sources: list[str],
    pending: Path | None,
    only_write: Path | None,
    *,
    reason: str,
    as_json: bool,
) -> None:
    then = f"mailboat release submit {pending}"
    if signing.sign(draft, sources, pending, then=then, as_json=as_json):
        _submit(api, draft, only_write, reason=reason, as_json=as_json)


def _submit(
    api: "ApiClient", draft: "Pending", only_write: Path | None, *, reason: str, as_json: bool
) -> None:
    from mailboat_schemas.codec import encode
    from mailboat_schemas.submission import Submission

    signed = draft.submission()
    payload = encode(Submission(fleet=api.connection.fleet, roles=signed, reason=reason))
    if only_write is not None:
        submission_reply.write_submission(only_write, payload, as_json)
        return
    submission_reply.answer(api.submit(payload), 0, as_json)


def _held(api: "ApiClient", model: str, trust_root: Path | None) -> dict[str, bytes]:
    """The newest roles that an approval builds on; signed by whom they must be."""
    from mailboat_controller.authority import approvals
    from mailboat_schemas.trust import approval_role, release_role

    roles = ("root", "targets", release_role(model), approval_role(model))
    held = {role: api.role(role) for role in roles}
    approvals.require_held(held, None if trust_root is None else signing.read_root(trust_root))
    return held


def _review(
    api: "ApiClient", model: str, content: bytes, standing: dict[str, Any], draft: "Pending"
) -> Iterator[str]:
    from mailboat_controller.releases.approval_review import differences, release_sentences
    from mailboat_schemas.documents.release import ReleaseDocument

    document = ReleaseDocument.parse(content)
    yield from release_sentences(document)
    yield f"signed by {', '.join(map(_signer, standing['signed_by'])) or 'nobody we know'}"
    approved = [row for row in api.get("/v1/releases", model=model) if row["plan"]]
    others = [row["version"] for row in approved if row["version"] != document.version]
    current = None
    if others:
        current = ReleaseDocument.parse(api.release_document(model, others[-1]))
    yield ""
    yield from differences(document, current)
    yield ""
    yield from draft.changes()


def _still_approved(
    held: dict[str, bytes], model: str, draft: "Pending", *, without: str
) -> Iterator[str]:
    from mailboat_controller.authority.approvals import approved_versions
    from mailboat_schemas.trust import approval_role

    yield from draft.changes()
    left = [
        each for each in approved_versions(held[approval_role(model)], model) if each != without
    ]
    yield f"approved afterwards: {', '.join(left) or 'nothing'}"


def _plan(plan: Any) -> Iterator[str]:
    from mailboat_controller.releases.approval_review import plan_sentences

    return plan_sentences(plan)


def _signer(key: dict[str, str]) -> str:
    return f"{key['name'] or 'key'} ({key['keyid'][:8]})"


def _ask_about_rejection(standing: dict[str, Any], *, even_rejected: bool) -> None:
    if standing["standing"] != "rejected" or even_rejected:
        return
    said = f"{standing['by']} rejected it: {standing['reason']}"
    if not sys.stdin.isatty():
        raise ConfigurationInvalid(
            f"{said}.", next_step="talk to them; add --even-rejected to overrule it."
        )
    typer.confirm(f"{output.plain_text(said)}. Approve it all the same?", abort=True, err=True)


def _require_release(model: str, version: str, asked: str, asked_version: str) -> None:
    if (model, version) != (asked, asked_version):
        raise ConfigurationInvalid(
            f"The rollout is for {model} {version}, not for {asked} {asked_version}.",
            next_step="approve the release the rollout names.",
        )
