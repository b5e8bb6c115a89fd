"""What ``mailboat config`` and ``mailboat policy`` have in common: signing for a place, on the
signer's machine, and looking at what holds. Each function takes the role that it is about."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import options, output, signing, submission_reply
from mailboat_schemas.errors import ConfigurationInvalid, OperatorNeeded

if TYPE_CHECKING:
    from mailboat_controller.authority.pending import Pending
    from mailboat_controller.client import ApiClient
    from mailboat_schemas.documents.fleet_document import FleetDocument
    from mailboat_schemas.fleet_documents import Place

LevelArgument = Annotated[str, typer.Argument(metavar="class|site|device", help="Whom it is for.")]
TargetArgument = Annotated[str, typer.Argument(help="The class, site or device.")]
_COLUMNS = {
    "level": "LEVEL",
    "target": "FOR",
    "name": "NAME",
    "version": "VERSION",
    "in_force": "IN FORCE",
    "accepted_at": "SINCE",
    "accepted_by": "BY",
    "reason": "REASON",
}


class AnotherDocument(OperatorNeeded):
    """The bytes to sign are not what was asked for."""

    code = "E-ANOTHER-DOCUMENT"


def place_of(role: str, level: str, target: str) -> "Place":
    """
    Raises:
        ConfigurationInvalid: no such level, or no name.
    """
    from mailboat_schemas.documents.fleet_document import Level
    from mailboat_schemas.fleet_documents import Place
    from mailboat_schemas.names import is_label

    if level not in list(Level) or not is_label(target):
        raise ConfigurationInvalid(
            f"{level!r} {target!r} is nobody a {role} could be for.",
            next_step="write class, site or device and its name, for example `class kiosk-x86`.",
        )
    return Place(role, Level(level), target)


def approve(
    api: "ApiClient",
    role: str,
    document: "FleetDocument",
    keys: list[str],
    *,
    epoch: int | None = None,
    pending: Path | None,
    trust_root: Path | None,
    reason: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Sign that this document holds for its place, and hand it in once enough have signed.

    Args:
        epoch: of a document that goes back; None: of the newest that was accepted there.
    """
    from mailboat_controller.authority import fleet_documents
    from mailboat_schemas.documents.fleet_document import document_digest
    from mailboat_schemas.fleet_documents import Listed

    content, about = document.canonical_bytes(), document.metadata
    place = place_of(role, about.level, about.target)
    history = _history(api, place)
    listed = Listed(
        place=place,
        digest=document_digest(content),
        length=len(content),
        epoch=max([each["epoch"] for each in history], default=0) if epoch is None else epoch,
    )
    held = _held(api, role, trust_root)
    draft = fleet_documents.put(held, listed, options.now())
    before = next((each for each in history if each["in_force"]), None)
    old = b"" if before is None else _document(api, place, before["version"])
    lines = [*draft.changes(), "", *differences(old, content)]
    question = f"Sign {role} {about.name} {about.version} for {place}?"
    signing.show_and_ask(lines, question, yes=yes, as_json=as_json)
    documents = {listed.digest: content}
    _sign_and_submit(api, draft, documents, keys, pending, role, reason=reason, as_json=as_json)


def withdraw(
    api: "ApiClient",
    place: "Place",
    keys: list[str],
    *,
    pending: Path | None,
    trust_root: Path | None,
    reason: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Sign that nothing holds for a place any more."""
    from mailboat_controller.authority import fleet_documents

    held = _held(api, place.role, trust_root)
    draft = fleet_documents.take_away(held, place, options.now())
    question = f"Sign that no {place.role} holds for {place} any more?"
    signing.show_and_ask(draft.changes(), question, yes=yes, as_json=as_json)
    _sign_and_submit(api, draft, {}, keys, pending, place.role, reason=reason, as_json=as_json)


def rollback(
    api: "ApiClient", place: "Place", version: str, kind: "type[FleetDocument]", **how: Any
) -> None:
    """Sign an earlier version of what holds for a place, marked as going back. Arguments as of
    `approve`."""
    epoch = max([each["epoch"] for each in _history(api, place)], default=0) + 1
    document = kind.parse(_document(api, place, version))
    _require_asked_for(document, place, version)
    approve(api, place.role, document, how.pop("keys"), epoch=epoch, **how)


def _require_asked_for(document: "FleetDocument", place: "Place", version: str) -> None:
    """What is signed anew comes from the controller, which holds no such key: with ``--yes``
    nobody else looks whether it is what was asked for.

    Raises:
        AnotherDocument
    """
    about = document.metadata
    if (about.level, about.target, about.version) != (place.level, place.target, version):
        raise AnotherDocument(
            f"The controller gave {place.role} {about.version} for {about.level} {about.target}, "
            f"where {version} for {place} was asked for. Nothing was signed.",
            next_step="look at who answers for the controller; or sign the file that you have "
            f"kept of it with `mailboat {place.role} approve` under a new version.",
        )


def submit(
    api: "ApiClient",
    pending: Path,
    document: "FleetDocument | None",
    *,
    reason: str,
    as_json: bool,
) -> None:
    """Hand in a pending change that has all its signatures, with the document it is about."""
    from mailboat_controller.authority.pending import read_pending
    from mailboat_schemas.documents.fleet_document import document_digest

    content = None if document is None else document.canonical_bytes()
    documents = {} if content is None else {document_digest(content): content}
    _submit(api, read_pending(pending), documents, reason=reason, as_json=as_json)


def show_list(api: "ApiClient", role: str, level: str, target: str, *, as_json: bool) -> None:
    """What holds; for one place, also what held before."""
    path = f"/v1/documents/{role}"
    if level or target:
        place = place_of(role, level, target)
        path = f"{path}/{place.level}/{place.target}"
    output.show_rows(api.get(path), _COLUMNS, as_json=as_json, name=("level", "target"))


def show(api: "ApiClient", place: "Place", version: str) -> None:
    """The signed document, indented; the one that holds unless a version is named."""
    content = _document(api, place, version or _version_in_force(api, place))
    output.show_json(json.loads(content))


def diff(api: "ApiClient", place: "Place", content: bytes, *, as_json: bool) -> None:
    """
    Raises:
        typer.Exit: 3, if the document is another one than the one that holds.
    """
    before = next((each for each in _history(api, place) if each["in_force"]), None)
    old = b"" if before is None else _document(api, place, before["version"])
    lines = list(differences(old, content))
    output.tell({"different": old != content, "diff": lines}, "\n".join(lines), as_json=as_json)
    if old != content:
        raise typer.Exit(output.EXIT_DIFFERENT)


def differences(old: bytes, new: bytes) -> Iterator[str]:
    """Line by line, of the documents indented."""
    yield from difflib.unified_diff(
        _lines(old), _lines(new), fromfile="in force", tofile="to sign", lineterm=""
    )


def _lines(content: bytes) -> list[str]:
    if not content:
        return []
    return json.dumps(json.loads(content), indent=1, sort_keys=True).splitlines()


def _history(api: "ApiClient", place: "Place") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(
        f"/v1/documents/{place.role}/{place.level}/{place.target}"
    )
    return found


def _version_in_force(api: "ApiClient", place: "Place") -> str:
    from mailboat_schemas.errors import NotFound

    for each in _history(api, place):
        if each["in_force"]:
            return str(each["version"])
    raise NotFound(
        f"No {place.role} holds for {place}.",
        next_step=f"`mailboat {place.role} list` shows those there are.",
    )


def _document(api: "ApiClient", place: "Place", version: str) -> bytes:
    return api.content(f"/v1/documents/{place.role}/{place.level}/{place.target}/{version}")


def _held(api: "ApiClient", role: str, trust_root: Path | None) -> dict[str, bytes]:
    """The newest roles to build on; signed by whom they must be."""
    from mailboat_controller.authority import approvals

    held = {name: api.role(name) for name in ("root", "targets", role)}
    approvals.require_held(held, None if trust_root is None else signing.read_root(trust_root))
    return held


def _sign_and_submit(
    api: "ApiClient",
    draft: "Pending",
    documents: dict[str, bytes],
    sources: list[str],
    pending: Path | None,
    role: str,
    *,
    reason: str,
    as_json: bool,
) -> None:
    then = f"mailboat {role} submit {pending} with the document's file"
    if signing.sign(draft, sources, pending, then=then, as_json=as_json):
        _submit(api, draft, documents, reason=reason, as_json=as_json)


def _submit(
    api: "ApiClient", draft: "Pending", documents: dict[str, bytes], *, reason: str, as_json: bool
) -> None:
    from mailboat_schemas.codec import encode
    from mailboat_schemas.submission import Submission

    roles = draft.submission()
    fleet = api.connection.fleet
    payload = encode(Submission(fleet=fleet, roles=roles, documents=documents, reason=reason))
    submission_reply.answer(api.submit(payload), 0, as_json)
