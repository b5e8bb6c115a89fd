"""The signed policies of a device: which there are, what they say together. Pure.

A site's rules come before its class's, and both before those that the class document gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mailboat_schemas.documents.fleet_document import Level
from mailboat_schemas.documents.policy import PolicyDocument
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.fleet_documents import POLICY_ROLE, Listed, Place, content_of, listed_by
from mailboat_schemas.policy_rules import PolicyRule
from mailboat_schemas.trust import TrustView


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPolicy:
    """``version`` is of the document that comes first, as ranges elsewhere ask for it; ``problem``
    says what is listed and cannot be gone by."""

    rules: tuple[PolicyRule, ...] = ()
    titles: tuple[str, ...] = ()
    version: str | None = None
    problem: str = ""


NO_POLICY = SignedPolicy()


def signed_policy(
    view: TrustView | None, documents: Mapping[str, bytes], *, hardware_class: str, site: str
) -> SignedPolicy:
    """
    Args:
        documents: by digest, of which nothing is believed that the role does not list.
    """
    places = (
        Place(POLICY_ROLE, Level.SITE, site),
        Place(POLICY_ROLE, Level.CLASS, hardware_class),
    )
    try:
        listed = listed_by(view, POLICY_ROLE)
        found = {place: _read(listed[place], documents) for place in places if place in listed}
    except MailboatError as error:
        return SignedPolicy(problem=f"the signed policy cannot be gone by: {error.what}"[:300])
    lacking = [place for place, document in found.items() if document is None]
    if lacking:
        return SignedPolicy(problem=f"the signed policy for {lacking[0]} has not come yet")
    held = [document for document in found.values() if document is not None]
    return SignedPolicy(
        rules=tuple(rule for each in held for rule in each.spec.rules),
        titles=tuple(f"{each.metadata.name} {each.metadata.version}" for each in held),
        version=held[0].metadata.version if held else None,
    )


def _read(listed: Listed, documents: Mapping[str, bytes]) -> PolicyDocument | None:
    content = content_of(listed, documents)
    return None if content is None else PolicyDocument.parse(content)
