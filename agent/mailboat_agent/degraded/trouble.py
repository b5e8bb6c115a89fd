"""Why a release on this device did not answer, and what its document allows instead."""

from dataclasses import dataclass

from mailboat_agent.degraded.settings import Why
from mailboat_agent.serving.admission import DeadlinePassed, Refused
from mailboat_agent.serving.runtime import Absence, ModelNotServed, ModelSuspended, Runtime
from mailboat_agent.serving.worker_errors import WorkerDied, WorkerHung, WorkerNotStarted
from mailboat_schemas.documents.degraded_policy import DegradedPolicy
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.errors import MailboatError, ReleaseRejected, Transient

NO_POLICY = DegradedPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """``digest`` is of the release that should answer, empty when nothing serves.

    ``policy`` and ``interface`` are None when no document is at hand: then nobody can say whether
    inputs may leave the device, or whether an answer fits.
    """

    why: Why
    word: str
    digest: str = ""
    policy: DegradedPolicy | None = None
    interface: Interface | None = None

    @property
    def nothing_serves(self) -> bool:
        return not self.digest

    @property
    def may_leave_device(self) -> bool:
        return self.policy is not None and not self.policy.inputs_stay_on_device


def of_absence(absence: Absence) -> Trouble | None:
    """None where the device is to stop serving, whatever else could answer."""
    if absence.closed:
        return None
    return Trouble(
        why=Why.FAILURE, word=absence.word, policy=absence.policy, interface=absence.interface
    )


def of_error(error: MailboatError, model: str, runtime: Runtime) -> Trouble | None:
    """None for what is the caller's own, or too late for anything else."""
    match error:
        case ModelSuspended():
            return of_absence(error.absence)
        case DeadlinePassed():
            return None
        case WorkerDied() | WorkerHung():
            return of_release(Why.FAILURE, "worker-failed", model, runtime)
        case WorkerNotStarted():
            return of_release(Why.FAILURE, "worker-not-started", model, runtime)
        case ReleaseRejected():
            return of_release(Why.FAILURE, "inference-failed", model, runtime)
        case Refused():
            return _of_refusal(model, runtime)
        case Transient():  # no room for it in memory, for one
            return of_release(Why.FAILURE, "not-loaded", model, runtime)
    return None


def _of_refusal(model: str, runtime: Runtime) -> Trouble | None:
    """The queue is full, or the worker is being started again."""
    try:
        ready = runtime.ready(model)
    except ModelSuspended as error:
        return of_absence(error.absence)
    except ModelNotServed:
        return None
    if ready:
        return of_release(Why.BUSY, "queue-full", model, runtime)
    return of_release(Why.FAILURE, "worker-restarting", model, runtime)


def of_release(why: Why, word: str, model: str, runtime: Runtime) -> Trouble | None:
    """Of the release that serves, though it did not answer."""
    try:
        release, _ = runtime.serving(model)
    except ModelSuspended as error:
        return of_absence(error.absence)
    except ModelNotServed:
        return None
    return Trouble(
        why=why,
        word=word,
        digest=release.digest,
        policy=release.policy.degraded or NO_POLICY,
        interface=release.interface,
    )
