"""Handing a build in: uploaded, signed as the pipeline that built it, submitted. Never approved."""

from datetime import datetime

from securesystemslib.signer import Signer

from mailboat_controller.authority.roles import add_release
from mailboat_controller.client import ApiClient
from mailboat_controller.releases.build import Build
from mailboat_schemas.codec import encode
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.errors import Conflict, NotFound, ReleaseRejected, ServerUnavailable
from mailboat_schemas.submission import Submission, SubmissionReply
from mailboat_schemas.trust import release_role

TRIES_MAX = 3  # when others submit for the same model at the same time
_REBASE = "E-REBASE"


class SubmissionRefused(ReleaseRejected):
    """The controller did not take what was submitted; its own code is in the words."""

    code = "E-MLFLOW-SUBMISSION"


def held_release(api: ApiClient, model: str, version: str) -> tuple[ReleaseDocument, bytes] | None:
    """The release of this version that the controller has."""
    try:
        content = api.release_document(model, version)
    except NotFound:
        return None
    return ReleaseDocument.parse(content), content


def refuse_other(document: ReleaseDocument, address: str, build: str) -> None:
    """
    Args:
        build: of the model version, as the release's provenance would have it; "" if unknown. A
            model that was deleted and registered again in MLflow counts its versions from 1 again.

    Raises:
        Conflict: the release of that version was made of something else.
    """
    origin = document.provenance.registry.partition("@sha256:")[0]
    same_build = build in ("", document.provenance.build)
    if origin != address or not same_build:
        origin = origin if same_build else f"{origin} ({document.provenance.build})"
        raise Conflict(
            f"There is a release {document.model} {document.version} already, "
            f"{f'made of {origin}' if origin else 'made elsewhere'}.",
            next_step="change `version` in the mapping, so that its versions are its own.",
        )


def hand_in(api: ApiClient, built: Build, signer: Signer, reason: str, now: datetime) -> None:
    """
    Raises:
        SubmissionRefused: for good. Conflict: somebody else is always faster.
        NotPermitted, ServerUnavailable: as `ApiClient` raises them.
    """
    for file in built.document.files():
        api.put_artifact(file.artifact_digest, built.blob(file))
    reply: SubmissionReply | None = None
    for _ in range(TRIES_MAX):
        reply = _submit(api, built, signer, reason, now)
        if reply.status == "accepted":
            return
        if reply.code != _REBASE:
            break
    assert reply is not None  # noqa: S101 - TRIES_MAX is positive
    what = (
        f"{built.document.model} {built.document.version}: {reply.code} {'; '.join(reply.reasons)}"
    )
    if reply.code == _REBASE:
        raise Conflict(what[:1000], next_step="it is tried again by itself.")
    if reply.status == "retry":
        raise ServerUnavailable(what[:1000], next_step="it is tried again by itself.")
    raise SubmissionRefused(what[:1000], next_step=f"see {reply.code} in docs/errors.md.")


def _submit(
    api: ApiClient, built: Build, signer: Signer, reason: str, now: datetime
) -> SubmissionReply:
    document = built.document
    role = release_role(document.model)
    signed = add_release(
        api.role(role),
        signer,
        model=document.model,
        version=document.version,
        document=built.content,
        now=now,
    )
    submission = Submission(
        fleet=api.connection.fleet,
        roles={role: signed},
        documents={built.digest: built.content},
        reason=reason,
    )
    return api.submit(encode(submission))
