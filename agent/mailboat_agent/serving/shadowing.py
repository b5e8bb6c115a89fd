"""The shadow of one candidate from beginning to end: loaded beside, mirrored to, judged, unloaded.

Blocking; it runs in a thread of its own until it knows, or is told to stop. Whatever comes of it,
the candidate is gone afterwards.
"""

import random
import threading
import time
from collections.abc import Callable

from mailboat_agent.serving.lane import Lane
from mailboat_agent.serving.process import InferenceFailed, WorkerDied, WorkerHung
from mailboat_agent.serving.process_usage import available_memory_bytes
from mailboat_agent.serving.requirements import RuntimeUnsupported
from mailboat_agent.serving.residency import NoRoom
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.shadow import MEMORY_AVAILABLE_MIN_BYTES, Mirror
from mailboat_agent.serving.trial import GateFailed
from mailboat_agent.update.shadow import ShadowStats, judge_shadow
from mailboat_agent.update.soak import Judgement, Verdict
from mailboat_schemas.documents.live_gates import Shadow

LOOK_SECONDS = 0.25  # between two judgements
LIVE_REQUESTS_MIN = 50  # behind a p95 that says what is usual here; with fewer it is measured anew
CLOSE_SECONDS_MAX = 5.0  # for the candidate's process to be gone before another is loaded
_MIB = 1 << 20

_NOBODY_WANTS_IT = Judgement(Verdict.WAIT, "nobody waits for it any more")


def shadow_candidate(
    runtime: Runtime,
    release: ServedRelease,
    shadow: Shadow,
    *,
    stop: threading.Event,
    tell: Callable[[str], None] = lambda _: None,
    available_bytes: Callable[[], int | None] = available_memory_bytes,
) -> Judgement:
    """Mirror live requests to a release until it is judged. It answers nobody.

    ``tell`` is given how far it is. When ``stop`` is set first, the verdict is WAIT.

    Raises:
        GateFailed: final for this release here. ``reason`` is one of crashed, hung, load_failed,
            shadow_disagreement, shadow_latency, not_shadowed.
        WorkerNotStarted, ModelAltered: the device, not the release; try again.
    """
    available = available_bytes()
    needed = release.memory_bytes + MEMORY_AVAILABLE_MIN_BYTES
    if available is not None and available < needed:
        impossible = (
            f"beside what serves it needs {needed / _MIB:.0f} MiB, "
            f"{available / _MIB:.0f} MiB are free"
        )
        return _settled(judge_shadow(shadow, ShadowStats(impossible=impossible), 0))
    try:
        lane = _load(runtime, release)
    except NoRoom as error:
        return _settled(judge_shadow(shadow, ShadowStats(impossible=error.what), 0))
    try:
        return _settled(_watch(runtime, lane, shadow, stop, tell, available_bytes))
    finally:
        lane.retire()
        lane.join(CLOSE_SECONDS_MAX)


def _load(runtime: Runtime, release: ServedRelease) -> Lane:
    """
    Raises:
        GateFailed, NoRoom, WorkerNotStarted, ModelAltered
    """
    evidence = {"stage": "shadow"}
    try:
        return runtime.candidate(release)
    except WorkerDied as error:
        because = f"The model's process ended as it was loaded: {error.reason}."
        raise GateFailed("crashed", because, evidence) from error
    except WorkerHung as error:
        raise GateFailed("hung", error.what, evidence) from error
    except (InferenceFailed, RuntimeUnsupported) as error:
        raise GateFailed("load_failed", error.what, evidence) from error


def _watch(
    runtime: Runtime,
    lane: Lane,
    shadow: Shadow,
    stop: threading.Event,
    tell: Callable[[str], None],
    available_bytes: Callable[[], int | None],
) -> Judgement:
    release = lane.release
    live = runtime.snapshot(release.model)
    known = live is not None and live.requests_ok >= LIVE_REQUESTS_MIN
    mirror = Mirror(
        lane,
        shadow,
        live_p95_ms=live.latency_p95_ms if live is not None and known else None,
        available_bytes=available_bytes,
        # The same device draws the same lots again: there is nobody to be unpredictable to.
        rng=random.Random(release.digest),  # noqa: S311
    )
    runtime.live.begin_mirror(mirror)
    began = time.monotonic()
    try:
        while True:
            judgement = judge_shadow(shadow, mirror.stats(), time.monotonic() - began)
            if judgement.verdict is not Verdict.WAIT:
                return judgement
            tell(judgement.because)
            if stop.wait(LOOK_SECONDS):
                return _NOBODY_WANTS_IT
    finally:
        runtime.live.end_mirror(mirror)


def _settled(judgement: Judgement) -> Judgement:
    if judgement.verdict is Verdict.FAILED:
        because = judgement.because[:1].upper() + judgement.because[1:]
        raise GateFailed(judgement.code, f"{because}.", judgement.evidence)
    return judgement
