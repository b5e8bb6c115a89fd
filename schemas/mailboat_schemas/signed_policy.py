"""The signed policies of a device: which there are, what they say together. Pure.

A site's rules come before its class's, and both before those that the class document gives.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mailboat_schemas.documents.fleet_document import Level
from mailboat_schemas.documents.policy import PolicyCompatible, PolicyDocument
from mailboat_schemas.documents.site_key import SiteKey
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.fleet_documents import POLICY_ROLE, Listed, Place, content_of, listed_by
from mailboat_schemas.policy_rules import PolicyRange, PolicyRule
from mailboat_schemas.trust import TrustView


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPolicy:
    """``version`` is of the document that comes first, as ranges elsewhere ask for it; ``ranges``
    are what each asks for from its side; ``problem`` says what is listed and cannot be gone by."""

    rules: tuple[PolicyRule, ...] = ()
    ranges: tuple[PolicyRange, ...] = ()
    titles: tuple[str, ...] = ()
    version: str | None = None
    # By the Policy for the site alone, however its class's stands; None: it cannot be read now.
    site_keys: tuple[SiteKey, ...] | None = ()
    problem: str = ""

    def before(self, assigned: Iterable[PolicyRule]) -> tuple[PolicyRule, ...]:
        """With those of the class document behind, which the director alone signs: whoever has
        stolen the controller must not be able to stop what serves, so those ask for a warning at
        most."""
        return (*self.rules, *(_that_stops_nothing(rule) for rule in assigned))


NO_POLICY = SignedPolicy()


def signed_policy(
    view: TrustView | None, documents: Mapping[str, bytes], *, hardware_class: str, site: str
) -> SignedPolicy:
    """
    Args:
        documents: by digest, of which nothing is believed that the role does not list.

    A role that has expired is gone by like any other, as long as it is the newest that is known:
    expiry keeps new things away, and takes nothing back that people signed.
    """
    places = (
        Place(POLICY_ROLE, Level.SITE, site),
        Place(POLICY_ROLE, Level.CLASS, hardware_class),
    )
    try:
        listed = listed_by(view, POLICY_ROLE)
    except MailboatError as error:
        return _cannot_be_gone_by(error, site_keys=None)
    keys = _site_keys(places[0], listed, documents)
    try:
        found = {place: _read(listed[place], documents) for place in places if place in listed}
    except MailboatError as error:
        return _cannot_be_gone_by(error, site_keys=keys)
    lacking = [place for place, document in found.items() if document is None]
    if lacking:
        problem = f"the signed policy for {lacking[0]} has not come yet"
        return SignedPolicy(problem=problem, site_keys=keys)
    held = [document for document in found.values() if document is not None]
    if strange := [place for place, each in found.items() if each and not _is_for(place, each)]:
        problem = f"the signed policy for {strange[0]} says that it is for another"
        return SignedPolicy(problem=problem, site_keys=keys)
    return SignedPolicy(
        rules=tuple(rule for each in held for rule in each.spec.rules),
        ranges=tuple(
            _range_of(each) for each in held if each.spec.compatible != PolicyCompatible()
        ),
        titles=tuple(map(_title, held)),
        version=held[0].metadata.version if held else None,
        site_keys=keys,
    )


def _cannot_be_gone_by(
    error: MailboatError, *, site_keys: tuple[SiteKey, ...] | None
) -> SignedPolicy:
    problem = f"the signed policy cannot be gone by: {error.what}"[:300]
    return SignedPolicy(problem=problem, site_keys=site_keys)


def _site_keys(
    place: Place, listed: Mapping[Place, Listed], documents: Mapping[str, bytes]
) -> tuple[SiteKey, ...] | None:
    if place not in listed:
        return ()
    try:
        document = _read(listed[place], documents)
    except MailboatError:
        return None
    if document is None:
        return None
    return document.spec.site_keys if _is_for(place, document) else ()


def _read(listed: Listed, documents: Mapping[str, bytes]) -> PolicyDocument | None:
    content = content_of(listed, documents)
    return None if content is None else PolicyDocument.parse_as_reader(content)


def _that_stops_nothing(rule: PolicyRule) -> PolicyRule:
    if rule.staleness is None or rule.staleness.enforce != "stop":
        return rule
    warns = rule.staleness.model_copy(update={"enforce": "warn"})
    return rule.model_copy(update={"staleness": warns})


def _is_for(place: Place, document: PolicyDocument) -> bool:
    """The role's path says whom it is for, and so does the document. One that differs was signed by
    mistake: no rules of a class are rules of a site."""
    about = document.metadata
    return (about.level, about.target) == (place.level, place.target)


def _title(document: PolicyDocument) -> str:
    return f"{document.metadata.name} {document.metadata.version}"


def _range_of(document: PolicyDocument) -> PolicyRange:
    wanted = document.spec.compatible
    return PolicyRange(title=_title(document), models=wanted.models, config=wanted.config)
