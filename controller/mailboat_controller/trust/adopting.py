"""Newer metadata that the fleet has already been given, taken back by a controller that lost it.

It comes from retained messages, which anybody may have written: every role is verified against the
root that this controller holds, whatever its age, and of each the highest version that holds is
taken. Nothing here asks for the version after ours: what lies between is lost. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets
from tuf.api.serialization import DeserializationError

from mailboat_controller.trust.intake import (
    APPROVAL_PREFIX,
    RELEASE_PREFIX,
    Accepted,
    Approval,
    Withdrawal,
)
from mailboat_schemas.documents.release import ReleaseDocument, document_digest
from mailboat_schemas.errors import MailboatError, TrustRefused
from mailboat_schemas.names import approval_path, release_path
from mailboat_schemas.plan import Plan
from mailboat_schemas.trust import ROLE_BYTES_MAX, TrustView

_TOP = ("targets", "snapshot", "timestamp")
# By role and the version its name claims; a timestamp's name claims none.
Candidates = Mapping[str, Mapping[int, Sequence[bytes]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """``roles`` are those that are newer than ours; ``accepted`` what they bring of releases."""

    roots: tuple[bytes, ...]
    roles: Mapping[str, bytes]
    versions: Mapping[str, int]
    accepted: Accepted
    view: TrustView
    missing: tuple[str, ...] = ()  # releases that are listed, and whose documents nobody has
    before: Mapping[str, int] = field(default_factory=dict)  # versions of ours


def adopt(
    candidates: Candidates,
    documents: Mapping[str, bytes],
    *,
    roots: Sequence[bytes],
    held: Mapping[str, bytes],
    known: Iterable[str],
) -> Adopted:
    """
    Args:
        documents: by digest, from the same messages.
        roots: the chain this controller holds, oldest first.
        held: newest bytes of every other role.
        known: digests of the release documents it has.
    """
    chain = _walk(tuple(roots), candidates.get("root", {}))
    files = {f"root_history/{version_of(root)}.root.json": root for root in chain}
    for role in _TOP:
        files |= _newest(role, candidates, held, chain[0], files)
    view = TrustView(chain[0], files)
    for role in view.roles():
        files |= _newest(role, candidates, held, chain[0], files)
    view = TrustView(chain[0], files)
    taken = {
        name.removesuffix(".json"): content
        for name, content in files.items()
        if "/" not in name and held.get(name.removesuffix(".json")) != content
    }
    accepted, missing = _accepted(taken, held, documents, frozenset(known))
    return Adopted(
        roots=chain[len(roots) :],
        roles=taken,
        versions={role: version_of(content) for role, content in taken.items()},
        accepted=accepted,
        view=view,
        missing=missing,
        before={role: version_of(held[role]) for role in taken if role in held},
    )


def _walk(chain: tuple[bytes, ...], offered: Mapping[int, Sequence[bytes]]) -> tuple[bytes, ...]:
    while True:
        files = {f"root_history/{version_of(root)}.root.json": root for root in chain}
        number = version_of(chain[-1]) + 1
        for content in offered.get(number, ()):
            longer = {**files, f"root_history/{number}.root.json": content}
            try:
                if TrustView(chain[0], longer).root.signed.version == number:
                    break
            except (TrustRefused, DeserializationError, ValueError):
                continue
        else:
            return chain
        chain = (*chain, content)


def _newest(
    role: str,
    candidates: Candidates,
    held: Mapping[str, bytes],
    root: bytes,
    files: Mapping[str, bytes],
) -> dict[str, bytes]:
    """The highest version of a role that holds beside these files; nothing where none does."""
    ours = [held[role]] if role in held else []
    offered = [content for group in candidates.get(role, {}).values() for content in group]
    found = [(version, content) for content in (*ours, *offered) for version in _told(content)]
    for _, content in sorted(found, key=lambda each: each[0], reverse=True):
        name = f"{role}.json"
        try:
            view = TrustView(root, {**files, name: content})
            if role in _TOP or view.delegated(role) is not None:
                return {name: content}
        except (TrustRefused, DeserializationError, ValueError):
            continue
    return {}


def _told(content: bytes) -> Iterator[int]:
    """The version a role's bytes claim; nothing where they are no metadata."""
    if len(content) <= ROLE_BYTES_MAX:
        try:
            yield version_of(content)
        except (DeserializationError, RepositoryError, ValueError):
            return


def version_of(content: bytes) -> int:
    version: int = Metadata.from_bytes(content).signed.version
    return version


def _accepted(
    taken: Mapping[str, bytes],
    held: Mapping[str, bytes],
    documents: Mapping[str, bytes],
    known: frozenset[str],
) -> tuple[Accepted, tuple[str, ...]]:
    releases: list[ReleaseDocument] = []
    approvals: list[Approval] = []
    withdrawn: list[Withdrawal] = []
    missing: list[str] = []
    for role, content in sorted(taken.items(), key=lambda each: each[0].startswith("approval")):
        old = _targets(held[role]) if role in held else {}
        new = _targets(content)
        if role.startswith(RELEASE_PREFIX):
            found = list(_released(role, old, new, documents, known))
            releases += [each for each in found if isinstance(each, ReleaseDocument)]
            missing += [each for each in found if isinstance(each, str)]
        elif role.startswith(APPROVAL_PREFIX):
            approvals += _approved(role, held.get(role), content)
            model = role.removeprefix(APPROVAL_PREFIX)
            gone = [path for path in old if path not in new]
            withdrawn += [Withdrawal(model=model, version=_of_path(path)) for path in gone]
    contents = [document.canonical_bytes() for document in releases]
    digests = {document_digest(content) for content in contents}
    return Accepted(
        roles=taken,
        versions={role: version_of(content) for role, content in taken.items()},
        documents={document_digest(content): content for content in contents},
        releases=tuple(releases),
        # Of a release whose document is lost nobody can say what it is for.
        approvals=tuple(each for each in approvals if each.digest in digests | known),
        withdrawn=tuple(withdrawn),
    ), tuple(missing)


def _released(
    role: str,
    old: Mapping[str, str],
    new: Mapping[str, str],
    documents: Mapping[str, bytes],
    known: frozenset[str],
) -> Iterator[ReleaseDocument | str]:
    model = role.removeprefix(RELEASE_PREFIX)
    for path, digest in new.items():
        if digest in known or old.get(path) == digest:
            continue
        content = documents.get(digest)
        if content is None or document_digest(content) != digest:
            yield f"{model}@{_of_path(path)}"
            continue
        try:
            document = ReleaseDocument.parse(content)
        except MailboatError:
            yield f"{model}@{_of_path(path)}"
            continue
        if release_path(document.model, document.version) == path:
            yield document


def _approved(role: str, before: bytes | None, content: bytes) -> Iterator[Approval]:
    """New ones, and those with another plan."""
    model = role.removeprefix(APPROVAL_PREFIX)
    old = {} if before is None else Metadata[Targets].from_bytes(before).signed.targets
    for path, target in Metadata[Targets].from_bytes(content).signed.targets.items():
        version, digest = _of_path(path), target.hashes.get("sha256", "")
        if old.get(path) == target or approval_path(model, version) != path:
            continue
        with suppress(MailboatError):  # without a readable plan nothing may run on it
            plan = Plan.from_custom(target.custom)
            yield Approval(
                model=model, version=version, digest=digest, length=target.length, plan=plan
            )


def _targets(content: bytes) -> dict[str, str]:
    signed = Metadata[Targets].from_bytes(content).signed
    if not isinstance(signed, Targets):
        return {}
    return {path: target.hashes.get("sha256", "") for path, target in signed.targets.items()}


def _of_path(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")
