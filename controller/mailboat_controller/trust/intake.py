"""May this submission be taken? Pure verification of what CI and approvers send.

Authenticity comes from the delegations' signatures only, never from who was allowed to publish.
A submission is taken whole or not at all; a role must be exactly the version after the one held,
else its author built on old ground and rebases. What every device would stumble over is refused
here, where its author hears of it: a role that has expired, is too long, or lifts time floors.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.api.serialization import DeserializationError

from mailboat_controller.authority.roles import (
    ISSUED_FIELD,
    ISSUED_FORMAT,
    SERIALIZER,
    lasts_too_long,
)
from mailboat_controller.trust.fleet_intake import (
    FleetChange,
    History,
    KnownTarget,
    judge_fleet_role,
)
from mailboat_controller.trust.refusal import Refusal
from mailboat_controller.trust.semver_rule import require_semver
from mailboat_schemas.documents.release import File, ReleaseDocument, document_digest
from mailboat_schemas.errors import (
    MailboatError,
    MalformedPayload,
    SignatureInvalid,
    ThresholdNotMet,
)
from mailboat_schemas.names import DIGEST_PATTERN, approval_path, release_path
from mailboat_schemas.plan import Plan
from mailboat_schemas.submission import Submission
from mailboat_schemas.trust import FLEET_ROLES, ROLE_BYTES_MAX

RELEASE_PREFIX = "release-"
APPROVAL_PREFIX = "approval-"
TARGETS_PER_ROLE_MAX = 2000
PADDED_FACTOR_MAX = 3  # indented JSON, and a few signatures of other keys, are no more
MISSING_LISTED_MAX = 256  # of missing artifacts in an answer, which is one message
REASON_CHARS_MAX = 500  # a reason may quote what was sent
# Devices take the time of signing as a floor for their clocks, and theirs may be this much behind.
ISSUED_AHEAD_MAX = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the controller knows: newest bytes of each role, and its releases."""

    fleet: str
    roles: Mapping[str, bytes]
    documents: Mapping[str, bytes]  # every release document ever accepted, by digest
    # Of classes, sites and devices: those in force, whether these exist, what was in force before.
    fleet_documents: Mapping[str, bytes] = field(default_factory=dict)
    has_target: KnownTarget = lambda _level, _target: False
    fleet_history: History = lambda _place: ()
    behind: Mapping[str, int] = field(default_factory=dict)  # see `recovery.behind`


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    model: str
    version: str
    digest: str
    length: int  # bytes of the release document
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    model: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    roles: Mapping[str, bytes]
    versions: Mapping[str, int]
    documents: Mapping[str, bytes] = field(default_factory=dict)  # of the new releases
    releases: tuple[ReleaseDocument, ...] = ()  # never accepted before
    approvals: tuple[Approval, ...] = ()  # new, or with a new plan
    withdrawn: tuple[Withdrawal, ...] = ()  # no longer approved
    fleet: tuple[FleetChange, ...] = ()  # of the roles of FLEET_ROLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    code: str
    reasons: tuple[str, ...]
    missing_artifacts: tuple[str, ...] = ()  # the first of them
    retry: bool = False  # the same submission may succeed later


def judge_submission(
    submission: Submission, held: Held, has_artifact: Callable[[File], bool], now: datetime
) -> Accepted | Rejected:
    """Accepted with what is new, or Rejected with the reason in words.

    Args:
        has_artifact: whether the artifact service holds a file's digest with that length.
    """
    try:
        return _judge(submission, held, has_artifact, now)
    except Refusal as refusal:
        return Rejected(code=refusal.code, reasons=(refusal.reason[:REASON_CHARS_MAX],))
    except MailboatError as error:
        return Rejected(code=error.code, reasons=(error.what[:REASON_CHARS_MAX],))


def _judge(
    submission: Submission, held: Held, has_artifact: Callable[[File], bool], now: datetime
) -> Accepted | Rejected:
    if submission.fleet != held.fleet:
        raise Refusal("E-FLEET", f"This is fleet {held.fleet}, not {submission.fleet}.")
    offered: dict[str, tuple[Targets, Targets]] = {}
    for role, content in submission.roles.items():
        offered[role] = _verified(role, content, held)
        _require_usable(role, offered[role][1], now)
    known = [ReleaseDocument.parse(content) for content in held.documents.values()]
    releases: list[ReleaseDocument] = []
    approvals: list[Approval] = []
    withdrawn: list[Withdrawal] = []
    fleet: list[FleetChange] = []
    for role, (old, new) in offered.items():
        if role.startswith(RELEASE_PREFIX):
            releases += _new_releases(role, old, new, submission.documents, known)
        elif role in FLEET_ROLES:
            change = judge_fleet_role(
                role,
                old,
                new,
                offered=submission.documents,
                known=held.fleet_documents,
                has_target=held.has_target,
                history=held.fleet_history,
            )
            fleet.append(change)
        else:
            approvals += _changed_approvals(role, old, new)
            withdrawn += _withdrawals(role, old, new)
    _require_released(approvals, offered, held)
    require_semver(releases, known)
    missing = sorted({file.artifact_digest for file in _files(releases) if not has_artifact(file)})
    if missing:
        reason = f"{len(missing)} artifacts are not in the store, or have another length."
        return Rejected(
            code="E-ARTIFACT-MISSING",
            reasons=(reason,),
            missing_artifacts=tuple(missing[:MISSING_LISTED_MAX]),
            retry=True,
        )
    contents = [document.canonical_bytes() for document in releases]
    return Accepted(
        roles=submission.roles,
        versions={role: new.version for role, (_, new) in offered.items()},
        documents={document_digest(content): content for content in contents},
        releases=tuple(releases),
        approvals=tuple(approvals),
        withdrawn=tuple(withdrawn),
        fleet=tuple(fleet),
    )


def _verified(role: str, content: bytes, held: Held) -> tuple[Targets, Targets]:
    """The held and the offered version of a role, once threshold and version held."""
    of_model = role.startswith((RELEASE_PREFIX, APPROVAL_PREFIX))
    if role not in held.roles or not (of_model or role in FLEET_ROLES):
        raise Refusal("E-ROLE-UNKNOWN", f"There is no role {role} for releases or documents.")
    if len(content) > ROLE_BYTES_MAX:
        raise Refusal("E-ROLE-SHAPE", f"Role {role} is over {ROLE_BYTES_MAX} bytes.")
    try:
        offered = Metadata[Targets].from_bytes(content)
    except DeserializationError as error:
        raise Refusal(MalformedPayload.code, f"Role {role} is not TUF metadata.") from error
    # from_bytes reads whatever type of role the bytes claim to be.
    if not isinstance(offered.signed, Targets):
        raise Refusal("E-ROLE-SHAPE", f"Role {role} is of type {offered.signed.type}.")
    parent = Metadata[Targets].from_bytes(held.roles["targets"]).signed
    try:
        result = parent.get_verification_result(role, offered.signed_bytes, offered.signatures)
    except (RepositoryError, ValueError) as error:
        # No canonical form (numbers that are none), or nobody to sign it.
        raise Refusal(
            SignatureInvalid.code, f"Role {role} has nothing that could be signed: {error}."
        ) from error
    if not result:
        raise Refusal(
            ThresholdNotMet.code if result.signed else SignatureInvalid.code,
            f"Role {role} is not signed by enough of the keys its delegation names: "
            f"{len(result.signed)} of {result.threshold}.",
        )
    # Whoever passes it on could fill it up with what no signature covers, for every device to load.
    good = {keyid: offered.signatures[keyid] for keyid in result.signed}
    if len(content) > PADDED_FACTOR_MAX * len(Metadata(offered.signed, good).to_bytes(SERIALIZER)):
        raise Refusal("E-ROLE-SHAPE", f"Role {role} carries far more than its keys have signed.")
    old = Metadata[Targets].from_bytes(held.roles[role]).signed
    caught_up = role in held.behind and offered.signed.version >= held.behind[role]
    if offered.signed.version != old.version + 1 and not caught_up:
        raise Refusal(
            "E-REBASE",
            f"Role {role} is version {offered.signed.version}, expected {old.version + 1}: "
            "fetch the newest version, add to that and sign again.",
        )
    return old, offered.signed


def _require_usable(role: str, new: Targets, now: datetime) -> None:
    """One role that devices cannot take keeps everything else of its class from them too."""
    if new.delegations is not None or len(new.targets) > TARGETS_PER_ROLE_MAX:
        raise Refusal("E-ROLE-SHAPE", f"Role {role} delegates further, or lists too many targets.")
    if new.is_expired(now.astimezone(UTC)):
        raise Refusal(
            "E-ROLE-EXPIRED",
            f"Role {role} expired at {new.expires:%Y-%m-%dT%H:%M:%SZ}: "
            "check the signer's clock and sign again.",
        )
    if lasts_too_long(role, new.expires, now):
        raise Refusal("E-ROLE-SHAPE", f"Role {role} lasts longer than an approval may: 30 days.")
    text = new.unrecognized_fields.get(ISSUED_FIELD)
    if text is None:
        return
    try:
        issued = datetime.strptime(str(text), ISSUED_FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        raise Refusal("E-ROLE-SHAPE", f"{ISSUED_FIELD} of role {role} is not a time.") from error
    if issued > now + ISSUED_AHEAD_MAX:
        raise Refusal(
            "E-ROLE-ISSUED",
            f"Role {role} says it was signed at {text}, which is yet to come: "
            "check the signer's clock, then the controller's, and sign again.",
        )


def _new_releases(
    role: str,
    old: Targets,
    new: Targets,
    documents: Mapping[str, bytes],
    known: Iterable[ReleaseDocument],
) -> list[ReleaseDocument]:
    model = role.removeprefix(RELEASE_PREFIX)
    # Also what was taken off the list since: a version never comes back as something else.
    contents = {release_path(each.model, each.version): each.canonical_bytes() for each in known}
    stands_for = {path: (document_digest(each), len(each)) for path, each in contents.items()}
    stands_for |= {
        path: (target.hashes.get("sha256", ""), target.length)
        for path, target in old.targets.items()
    }
    result = []
    for path, target in new.targets.items():
        digest = _digest(role, path, target)
        if stands_for.get(path, (digest, target.length)) != (digest, target.length):
            raise Refusal(
                "E-IMMUTABLE", f"{path} was released with other contents; versions never change."
            )
        # Listed, and its document lost with a database: it comes in as if it were new.
        if path in contents or (path in stands_for and digest not in documents):
            continue
        content = documents.get(digest)
        if content is None or document_digest(content) != digest or len(content) != target.length:
            raise Refusal("E-DOCUMENT-MISSING", f"The document of {path} is not in the submission.")
        document = ReleaseDocument.parse(content)
        if release_path(document.model, document.version) != path or document.model != model:
            raise Refusal(
                "E-PATH", f"{path} lists the document of {document.model} {document.version}."
            )
        if document.canonical_bytes() != content:
            raise Refusal("E-CANONICAL", f"The document of {path} is not in canonical form.")
        result.append(document)
    return result


def _changed_approvals(role: str, old: Targets, new: Targets) -> list[Approval]:
    return [
        _approval(role, path, target)
        for path, target in new.targets.items()
        if old.targets.get(path) != target
    ]


def _withdrawals(role: str, old: Targets, new: Targets) -> list[Withdrawal]:
    """What is listed no more. The plan is not read: a withdrawal must never fail on it."""
    model = role.removeprefix(APPROVAL_PREFIX)
    return [
        Withdrawal(model=model, version=_approved_version(model, path))
        for path in old.targets
        if path not in new.targets
    ]


def _approval(role: str, path: str, target: TargetFile) -> Approval:
    model = role.removeprefix(APPROVAL_PREFIX)
    version = _approved_version(model, path)
    if approval_path(model, version) != path:
        raise Refusal("E-PATH", f"{path} cannot stand in role {role}.")
    return Approval(
        model=model,
        version=version,
        digest=_digest(role, path, target),
        length=target.length,
        plan=Plan.from_custom(target.custom),
    )


def _approved_version(model: str, path: str) -> str:
    return path.removeprefix(f"approval/{model}/").removesuffix(".json")


def _digest(role: str, path: str, target: TargetFile) -> str:
    digest = target.hashes.get("sha256", "")
    if re.fullmatch(DIGEST_PATTERN, digest) is None:
        raise Refusal("E-ROLE-SHAPE", f"{path} in role {role} has no sha256.")
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
            raise Refusal("E-ROLE-UNKNOWN", f"There is no role {role}.")
        target = released.targets.get(release_path(approval.model, approval.version))
        approved = (approval.digest, approval.length)
        if target is None or (target.hashes.get("sha256"), target.length) != approved:
            raise Refusal(
                "E-NOT-RELEASED",
                f"{approval.model} {approval.version} is approved, "
                "but not released with that digest and length.",
            )


def _files(releases: Iterable[ReleaseDocument]) -> list[File]:
    """Of all variants; the same digest with two lengths stands here twice."""
    return [file for each in releases for variant in each.variants for file in variant.files]
