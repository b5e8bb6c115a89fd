"""What a class is told: a bundle without its cryptography. A signature is the name of a key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mailboat_agent.update.situation import Known
from mailboat_controller.simulate.releases import MODEL, SimulatedRelease
from mailboat_controller.simulate.signed_documents import (
    NO_DOCUMENTS,
    NOTHING_BROUGHT,
    Brought,
    SignedDocuments,
)
from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets
from mailboat_schemas.desired import Assignment
from mailboat_schemas.plan import Plan
from mailboat_schemas.trust import Standing

AUTHORITY = "authority"  # who signs the roles: the offline keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The release and approval roles of one version, and the director they delegate to."""

    version: int
    signer: str
    director: str
    issued: int  # seconds since 1970 UTC
    known: Mapping[str, Known] = field(default_factory=lambda: MappingProxyType({}))
    documents: SignedDocuments = NO_DOCUMENTS  # config and policy, as their roles list them

    def approves(self, digest: str) -> bool:
        held = self.known.get(digest)
        return held is not None and held.standing.may_serve(digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The one retained message of a class. ``expires``: of its timestamp, seconds since 1970."""

    hardware_class: str
    counter: int
    director: str  # whose signature it bears
    roles: Roles
    assignment: Assignment | None
    expires: float
    brought: Brought = NOTHING_BROUGHT
    budgets: ClassBudgets = NO_BUDGETS


def known_as(release: SimulatedRelease, plan: Plan | None) -> Known:
    """As the roles list it. Without a plan it is not approved (any more)."""
    return Known(
        standing=Standing(
            model=MODEL,
            version=release.version,
            released_digest=release.digest,
            approved_digest=None if plan is None else release.digest,
            plan=plan,
        ),
        document=release.document,
    )
