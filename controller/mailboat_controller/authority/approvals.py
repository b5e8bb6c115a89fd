"""What an approver signs: the next version of a model's approval role, with one release more, or
one less. Made unsigned, so that as many as the delegation asks for can sign it one after another.
"""

from collections.abc import Mapping
from datetime import datetime

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from mailboat_controller.authority import roles
from mailboat_controller.authority.changes import read_metadata
from mailboat_controller.authority.pending import Pending
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.errors import NotFound, SignatureInvalid
from mailboat_schemas.names import approval_path, release_path
from mailboat_schemas.plan import Plan
from mailboat_schemas.staleness import approval_mark
from mailboat_schemas.trust import approval_role, release_role


def approve(
    held: Mapping[str, bytes],
    *,
    model: str,
    version: str,
    document: bytes,
    plan: Plan,
    now: datetime,
) -> Pending:
    """The approval of one more release, to be signed.

    Args:
        held: the newest signed bytes of ``root``, ``targets`` and the model's approval role.
    """
    role = approval_role(model)
    path = approval_path(model, version)
    target = TargetFile.from_data(path, document, ["sha256"])
    mark = approval_mark(ReleaseDocument.parse(document).security_version, now)
    target.unrecognized_fields["custom"] = plan.to_custom() | mark
    listed = {**_targets(held[role], role).targets, path: target}
    return _pending(held, role, listed, now)


def withdraw(held: Mapping[str, bytes], *, model: str, version: str, now: datetime) -> Pending:
    """The withdrawal of a release, to be signed.

    Raises:
        NotFound: it is not approved.
    """
    role = approval_role(model)
    listed = dict(_targets(held[role], role).targets)
    if listed.pop(approval_path(model, version), None) is None:
        raise NotFound(
            f"{model} {version} is not approved.",
            next_step=f"`mailboat release list --model {model}` shows those that are.",
        )
    return _pending(held, role, listed, now)


def plan_in(content: bytes, *, model: str, version: str, document: bytes) -> Plan:
    """The plan in an approval of this document that is being signed.

    Raises:
        SignatureInvalid: it approves something else under this name, or on no readable plan.
    """
    target = _targets(content, approval_role(model)).targets.get(approval_path(model, version))
    made = TargetFile.from_data("", document, ["sha256"])
    listed = None if target is None else (target.hashes.get("sha256"), target.length)
    if target is None or listed != (made.hashes["sha256"], made.length):
        raise SignatureInvalid(
            f"The approval does not list this document of {model} {version}.",
            next_step="ask for the build directory that the first approver has signed.",
        )
    return Plan.from_custom(target.custom)


def cosign(content: bytes, signer: Signer) -> bytes | None:
    """One more signature on an approval role; None when this key's is there already."""
    metadata: Metadata[Targets] = Metadata[Targets].from_bytes(content)
    if signer.public_key.keyid in metadata.signatures:
        return None
    metadata.sign(signer, append=True)
    return metadata.to_bytes(roles.SERIALIZER)


def approved_versions(content: bytes, model: str) -> list[str]:
    """What an approval role lists: every next version of it approves all of them again."""
    prefix = f"approval/{model}/"
    listed = _targets(content, approval_role(model)).targets
    return sorted(path.removeprefix(prefix).removesuffix(".json") for path in listed)


def require_held(held: Mapping[str, bytes], root: bytes | None) -> None:
    """What a controller hands an approver to build on must be signed itself.

    Otherwise an approver would sign, with the one thing they looked at, whatever else was put in.

    Args:
        root: the approver's own copy of the newest root, which vouches for ``targets``; without
            one the controller's is taken.

    Raises:
        SignatureInvalid: a role is not signed by whom it must be.
    """
    signed: Root = read_metadata("root", held["root"] if root is None else root).signed
    _verify(signed, "targets", held["targets"])
    parent = _targets(held["targets"], "targets")
    for role in held.keys() - {"root", "targets"}:
        _verify(parent, role, held[role])


def require_released(
    held: Mapping[str, bytes], *, model: str, version: str, document: bytes
) -> None:
    """
    Raises:
        SignatureInvalid: the release role does not list this document.
    """
    role = release_role(model)
    target = _targets(held[role], role).targets.get(release_path(model, version))
    listed = None if target is None else (target.hashes.get("sha256"), target.length)
    made = TargetFile.from_data("", document, ["sha256"])
    if listed != (made.hashes["sha256"], made.length):
        raise SignatureInvalid(
            f"The pipeline's role {role} does not list this document of {model} {version}.",
            next_step="do not approve it; find out where the controller has it from.",
        )


def _pending(
    held: Mapping[str, bytes], role: str, listed: Mapping[str, TargetFile], now: datetime
) -> Pending:
    following = roles.next_version(held[role], listed, now, roles.APPROVAL_ROLE_VALID)
    return Pending.of({name: held[name] for name in ("root", "targets", role)}, {role: following})


def _targets(content: bytes, role: str) -> Targets:
    signed: Targets = read_metadata(role, content).signed
    return signed


def _verify(delegator: Root | Targets, role: str, content: bytes) -> None:
    metadata = read_metadata(role, content)
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise SignatureInvalid(
            f"The {role} role that the controller has is not signed as it must be: {error}.",
            next_step="sign nothing on top of it; find out who changed it.",
        ) from error
