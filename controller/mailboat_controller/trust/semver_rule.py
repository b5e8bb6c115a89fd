"""A changed interface is a new major version."""

from collections.abc import Sequence

from mailboat_controller.trust.refusal import Refusal
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import ReleaseDocument


def require_semver(releases: Sequence[ReleaseDocument], known: Sequence[ReleaseDocument]) -> None:
    """All releases of one major version agree, also its pre-releases, and whichever comes first.

    Raises:
        Refusal
    """
    for document in releases:
        for other in (*known, *releases):
            same_major = (other.model, _major(other)) == (document.model, _major(document))
            if same_major and _contract(other.interface) != _contract(document.interface):
                raise Refusal(
                    "E-SEMVER",
                    f"{document.model} {document.version} has another interface than "
                    f"{other.version}: that is a new major version.",
                )


def _major(document: ReleaseDocument) -> str:
    return document.version.partition(".")[0]


def _contract(interface: Interface) -> tuple[frozenset[object], frozenset[object]]:
    return frozenset(interface.inputs), frozenset(interface.outputs)
