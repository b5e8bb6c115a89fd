"""May this submission be taken? Pure verification of what CI and approvers send.

Authenticity comes from the delegations' signatures only, never from who was allowed to publish.
A submission is taken whole or not at all; a role must be exactly the version after the one held,
else its author built on old ground and rebases.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.api.serialization import DeserializationError

from mailboat_schemas.documents.release import File, Interface, ReleaseDocument, document_digest
from mailboat_schemas.errors import MailboatError, SignatureInvalid
from mailboat_schemas.names import DIGEST_PATTERN, approval_path, release_path
from mailboat_schemas.plan import Plan
from mailboat_schemas.submission import Submission

RELEASE_PREFIX = "release-"
APPROVAL_PREFIX = "approval-"
TARGETS_PER_ROLE_MAX = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the controller knows: newest bytes of each role, and its releases."""

    fleet: str
    roles: Mapping[str, bytes]
    documents: Mapping[str, bytes]  # accepted release documents by digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    model: str
    version: str
    digest: str
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    roles: Mapping[str, bytes]
    versions: Mapping[str, int]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    releases: tuple[ReleaseDocument, ...] = ()  # new ones
    approvals: tuple[Approval, ...] = ()  # new, or with a new plan
    withdrawn: tuple[Approval, ...] = ()  # no longer approved


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    code: str
    reasons: tuple[str, ...]
    missing_artifacts: tuple[str, ...] = ()
    retry: bool = False  # the same submission may succeed later


class _Refusal(Exception):
    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def judge_submission(
    submission: Submission, held: Held, has_artifact: Callable[[File], bool]
) -> Accepted | Rejected:
    """Accepted with what is new, or Rejected with every reason in words.

    Args:
        has_artifact: whether the artifact service holds a file's digest with that length.
    """
    try:
        return _judge(submission, held, has_artifact)
    except _Refusal as refusal:
        return Rejected(code=refusal.code, reasons=(refusal.reason,))
    except MailboatError as error:
        return Rejected(code=error.code, reasons=(error.what,))


def _judge(
    submission: Submission, held: Held, has_artifact: Callable[[File], bool]
) -> Accepted | Rejected:
    if submission.fleet != held.fleet:
        raise _Refusal("E-FLEET", f"This is fleet {held.fleet}, not {submission.fleet}.")
    offered = {role: _verified(role, content, held) for role, content in submission.roles.items()}
    releases: list[ReleaseDocument] = []
    approvals: list[Approval] = []
    withdrawn: list[Approval] = []
    for role, (old, new) in offered.items():
        if role.startswith(RELEASE_PREFIX):
            releases += _new_releases(role, old, new, submission.documents)
        else:
            fresh, gone = _changed_approvals(role, old, new)
            approvals += fresh
            withdrawn += gone
    documents = {document_digest(content): content for content in submission.documents.values()}
    _require_released(approvals, offered, held)
    _require_semver(releases, held)
    missing = sorted(
        {
            file.sha256
            for document in releases
            for file in document.files()
            if not has_artifact(file)
        }
    )
    if missing:
        reason = f"{len(missing)} artifacts are not in the store, or have another length."
        return Rejected(
            code="E-ARTIFACT-MISSING",
            reasons=(reason,),
            missing_artifacts=tuple(missing),
            retry=True,
        )
    return Accepted(
        roles=submission.roles,
        versions={role: new.version for role, (_, new) in offered.items()},
        documents={
            digest: content
            for digest, content in documents.items()
            if any(document_digest(each.canonical_bytes()) == digest for each in releases)
        },
        releases=tuple(releases),
        approvals=tuple(approvals),
        withdrawn=tuple(withdrawn),
    )


def _verified(role: str, content: bytes, held: Held) -> tuple[Targets, Targets]:
    """The held and the offered version of a role, once threshold and version held."""
    if role not in held.roles or not role.startswith((RELEASE_PREFIX, APPROVAL_PREFIX)):
        raise _Refusal("E-ROLE-UNKNOWN", f"There is no release or approval role {role}.")
    try:
        parent = Metadata[Targets].from_bytes(held.roles["targets"]).signed
        offered = Metadata[Targets].from_bytes(content)
        parent.verify_delegate(role, offered.signed_bytes, offered.signatures)
    except (RepositoryError, DeserializationError, ValueError) as error:
        raise _Refusal(
            SignatureInvalid.code,
            f"Role {role} is not signed by enough of the keys its delegation names: {error}.",
        ) from error
    old = Metadata[Targets].from_bytes(held.roles[role]).signed
    if offered.signed.version != old.version + 1:
        raise _Refusal(
            "E-REBASE",
            f"Role {role} is version {offered.signed.version}, expected {old.version + 1}: "
            "fetch the newest version, add to that and sign again.",
        )
    if offered.signed.delegations is not None or len(offered.signed.targets) > TARGETS_PER_ROLE_MAX:
        raise _Refusal("E-ROLE-SHAPE", f"Role {role} delegates further, or lists too many targets.")
    return old, offered.signed


def _new_releases(
    role: str, old: Targets, new: Targets, documents: Mapping[str, bytes]
) -> list[ReleaseDocument]:
    model = role.removeprefix(RELEASE_PREFIX)
    result = []
    for path, target in new.targets.items():
        digest = _digest(role, path, target)
        known = old.targets.get(path)
        if known is not None and known.hashes != target.hashes:
            raise _Refusal("E-IMMUTABLE", f"{path} was released with other contents; versions are.")
        if known is not None:
            continue
        content = documents.get(digest)
        if content is None or document_digest(content) != digest or len(content) != target.length:
            raise _Refusal(
                "E-DOCUMENT-MISSING", f"The document of {path} is not in the submission."
            )
        document = ReleaseDocument.parse(content)
        if release_path(document.model, document.version) != path or document.model != model:
            raise _Refusal(
                "E-PATH", f"{path} lists the document of {document.model} {document.version}."
            )
        if document.canonical_bytes() != content:
            raise _Refusal("E-CANONICAL", f"The document of {path} is not in canonical form.")
        result.append(document)
    return result


def _changed_approvals(
    role: str, old: Targets, new: Targets
) -> tuple[list[Approval], list[Approval]]:
    model = role.removeprefix(APPROVAL_PREFIX)
    before = {path: _approval(role, model, path, target) for path, target in old.targets.items()}
    after = {path: _approval(role, model, path, target) for path, target in new.targets.items()}
    fresh = [each for path, each in after.items() if before.get(path) != each]
    gone = [each for path, each in before.items() if path not in after]
    return fresh, gone


def _approval(role: str, model: str, path: str, target: TargetFile) -> Approval:
    version = path.removeprefix(f"approval/{model}/").removesuffix(".json")
    if approval_path(model, version) != path:
        raise _Refusal("E-PATH", f"{path} cannot stand in role {role}.")
    plan = Plan.from_custom(target.custom)
    return Approval(model=model, version=version, digest=_digest(role, path, target), plan=plan)


def _digest(role: str, path: str, target: TargetFile) -> str:
    digest = target.hashes.get("sha256", "")
    if re.fullmatch(DIGEST_PATTERN, digest) is None:
        raise _Refusal("E-ROLE-SHAPE", f"{path} in role {role} has no sha256.")
    return digest


def _require_released(
    approvals: list[Approval], offered: Mapping[str, tuple[Targets, Targets]], held: Held
) -> None:
    """Approvals of what nobody released would only puzzle people later."""
    for approval in approvals:
        role = f"{RELEASE_PREFIX}{approval.model}"
        if role in offered:
            released = offered[role][1]
        elif role in held.roles:
            released = Metadata[Targets].from_bytes(held.roles[role]).signed
        else:
            raise _Refusal("E-ROLE-UNKNOWN", f"There is no role {role}.")
        target = released.targets.get(release_path(approval.model, approval.version))
        if target is None or target.hashes.get("sha256") != approval.digest:
            raise _Refusal(
                "E-NOT-RELEASED",
                f"{approval.model} {approval.version} is approved, "
                "but not released with that digest.",
            )


def _require_semver(releases: list[ReleaseDocument], held: Held) -> None:
    """A changed interface is a new major version, against the newest lower release."""
    known = [ReleaseDocument.parse(content) for content in held.documents.values()]
    for document in releases:
        below = [
            other
            for other in (*known, *releases)
            if other.model == document.model and _order(other.version) < _order(document.version)
        ]
        if not below:
            continue
        previous = max(below, key=lambda other: _order(other.version))
        same_major = _order(previous.version)[0] == _order(document.version)[0]
        if same_major and _contract(previous.interface) != _contract(document.interface):
            raise _Refusal(
                "E-SEMVER",
                f"{document.model} {document.version} changes the interface of "
                f"{previous.version}: that is a new major version.",
            )


def _order(version: str) -> tuple[int, int, int, bool, str]:
    core, _, pre = version.partition("-")
    major, minor, patch = (int(part) for part in core.split("."))
    return major, minor, patch, not pre, pre


def _contract(interface: Interface) -> tuple[frozenset[object], frozenset[object]]:
    return frozenset(interface.inputs), frozenset(interface.outputs)
