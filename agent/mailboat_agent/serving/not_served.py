"""Why a model is not served here, or not now."""

from dataclasses import dataclass
from datetime import timedelta

from mailboat_agent.serving.served_release import ServedRelease
from mailboat_schemas.documents.degraded_policy import DegradedPolicy
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.errors import NotFound, ReleaseRejected, Transient


class ModelNotServed(NotFound):
    """No release of this model, or another version of it, serves on this device."""

    code = "E-MODEL-NOT-SERVED"

    def __init__(self, model: str, version: str | None) -> None:
        named = f"{model!r}" if version is None else f"{model!r} version {version!r}"
        super().__init__(
            f"The model {named} is not served here.",
            next_step="ask GET /v2/models/<model> for the version that is.",
        )


class ModelSuspended(Transient):
    """The device has this model to serve, and nothing to serve it with at the moment."""

    code = "E-MODEL-SUSPENDED"

    def __init__(self, model: str, absence: "Absence") -> None:
        super().__init__(
            f"The model {model!r} is not served now: {absence.because}.",
            next_step="send the request again after the given time.",
            retry_after=timedelta(seconds=absence.retry_seconds),
        )
        self.absence = absence


class ReleaseWithdrawn(ReleaseRejected):
    """It was barred before it could serve, or while it was being loaded."""

    code = "E-WITHDRAWN"

    def __init__(self, release: ServedRelease) -> None:
        super().__init__(
            f"{release.model} {release.version} is not approved any more.",
            next_step="approve it again, or approve another release, if it shall run.",
        )


@dataclass(frozen=True, slots=True)
class Absence:
    """Why a model that belongs here is not served, and when to ask again.

    ``word`` says why in one word, for a response header. What may answer meanwhile is up to the
    document of the release that served or should, if it is approved and at hand; ``closed`` says
    that nothing may. ``version`` and ``digest`` are of that release.
    """

    because: str
    retry_seconds: int
    word: str = "not-loaded"
    policy: DegradedPolicy | None = None
    interface: Interface | None = None
    closed: bool = False
    version: str = ""
    digest: str = ""
