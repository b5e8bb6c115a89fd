"""Policy documents, signed like people sign them, into a `TrustFleet`."""

from datetime import datetime, timedelta
from typing import Any

from mailboat_controller.authority import fleet_documents
from mailboat_controller.authority.keys import load_key
from mailboat_schemas.documents.fleet_document import document_digest
from mailboat_schemas.documents.policy import PolicyDocument
from mailboat_schemas.fleet_documents import Listed, Place
from signed_config import held
from trust_fleet import CLASS, TrustFleet


def policy_document(
    *rules: dict[str, Any],
    version: str = "1.0.0",
    level: str = "class",
    target: str = CLASS,
    **spec: Any,
) -> PolicyDocument:
    return PolicyDocument.model_validate(
        {
            "apiVersion": "mailboat/v1",
            "kind": "Policy",
            "metadata": {"name": "hours", "version": version, "level": level, "target": target},
            "spec": {"rules": list(rules), **spec},
        }
    )


def sign_policy(
    fleet: TrustFleet,
    document: PolicyDocument,
    *,
    brought: bool = True,
    place: Place | None = None,
    at: datetime | None = None,
) -> Listed:
    """From the next bundle on it is listed; ``brought``: and carried beside it.

    Args:
        place: where it is listed, if not where it says.
        at: when the role was signed, from which its expiry counts.
    """
    content, about = document.canonical_bytes(), document.metadata
    entry = Listed(
        place=place or Place("policy", about.level, about.target),
        digest=document_digest(content),
        length=len(content),
    )
    pending = fleet_documents.put(held(fleet), entry, at or fleet.now)
    pending.sign(load_key(fleet.directory / "fleet" / "policy.pem"))
    fleet.roles |= pending.submission()
    fleet.resign()
    if brought:
        fleet.documents[entry.digest] = content
    return entry


def window_from(start: datetime, minutes: int = 60) -> dict[str, Any]:
    """Daily, in UTC."""
    return {"start": f"{start:%H:%M}", "length_minutes": minutes, "zone": "UTC"}


def window_in(now: datetime, hours: float) -> dict[str, Any]:
    """Daily, and closed until so many hours from now."""
    return window_from(now + timedelta(hours=hours))
