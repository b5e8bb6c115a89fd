"""Config documents, signed like people sign them, into a `TrustFleet`."""

from typing import Any

from mailboat_controller.authority import fleet_documents
from mailboat_controller.authority.keys import load_key
from mailboat_schemas.documents.config import ConfigDocument
from mailboat_schemas.documents.fleet_document import document_digest
from mailboat_schemas.fleet_documents import Listed, Place
from trust_fleet import CLASS, TrustFleet


def config_document(
    version: str = "1.0.0",
    values: dict[str, Any] | None = None,
    *,
    level: str = "class",
    target: str = CLASS,
    name: str = "defaults",
    **compatible: Any,
) -> ConfigDocument:
    spec: dict[str, Any] = {"values": {"gain": 1} if values is None else values}
    if compatible:
        spec["compatible"] = compatible
    return ConfigDocument.model_validate(
        {
            "apiVersion": "mailboat/v1",
            "kind": "Config",
            "metadata": {"name": name, "version": version, "level": level, "target": target},
            "spec": spec,
        }
    )


def listed(document: ConfigDocument, epoch: int = 0) -> Listed:
    content, about = document.canonical_bytes(), document.metadata
    return Listed(
        place=Place("config", about.level, about.target),
        digest=document_digest(content),
        length=len(content),
        epoch=epoch,
    )


def sign_config(
    fleet: TrustFleet, document: ConfigDocument, *, epoch: int = 0, brought: bool = True
) -> Listed:
    """From the next bundle on it is listed; ``brought``: and carried beside it."""
    entry = listed(document, epoch)
    pending = fleet_documents.put(held(fleet), entry, fleet.now)
    _sign(fleet, pending)
    if brought:
        fleet.documents[entry.digest] = document.canonical_bytes()
    return entry


def withdraw_config(fleet: TrustFleet, place: Place) -> None:
    _sign(fleet, fleet_documents.take_away(held(fleet), place, fleet.now))


def held(fleet: TrustFleet) -> dict[str, bytes]:
    return {**fleet.roles, "root": fleet.roots[-1]}


def _sign(fleet: TrustFleet, pending: Any) -> None:
    pending.sign(load_key(fleet.directory / "fleet" / "config.pem"))
    fleet.roles |= pending.submission()
    fleet.resign()
