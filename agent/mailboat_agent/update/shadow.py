"""Does a candidate answer as what serves does, and as fast? Mirrored requests tell. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mailboat_agent.update.soak import Breach, Judgement, Verdict
from mailboat_schemas.documents.live_gates import Shadow, WhenUnproven
from mailboat_schemas.live_figures import ShadowSum

DIFFERENCES_MAX = 4  # told as examples


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowStats:
    """What has come of it. Latencies are of the same requests, None while there are none."""

    counts: ShadowSum = field(default_factory=ShadowSum)
    candidate_p95_ms: float | None = None
    live_p95_ms: float | None = None
    worker_deaths: int = 0
    differences: tuple[str, ...] = ()  # the first few
    impossible: str = ""  # why nothing can be mirrored (any more)

    def evidence(self) -> dict[str, Any]:
        """As it stands in the event."""
        counts: Mapping[str, int] = self.counts.model_dump()
        more = {k: v for k, v in asdict(self).items() if k != "counts" and v not in (None, 0, "")}
        return {**counts, **more, "differences": list(self.differences[:DIFFERENCES_MAX])}


def judge_shadow(shadow: Shadow, stats: ShadowStats, elapsed_seconds: float) -> Judgement:
    """Pass, fail, or wait and say for what. Exactly at a bound holds.

    It ends as soon as the answer is certain: also when no agreement to come could make up for what
    differs already.
    """
    counts = stats.counts
    if stats.worker_deaths:
        breach = Breach("crashed", "its worker process died on mirrored requests")
        return breach.judged(stats.evidence())
    if counts.compared >= shadow.requests_min:
        return _compared(shadow, stats)
    best = (counts.agreed + shadow.requests_min - counts.compared) / shadow.requests_min
    if best < shadow.agreement_min:
        return _disagrees(shadow, stats)
    if stats.impossible:
        return _unproven(shadow, stats, stats.impossible)
    if elapsed_seconds >= shadow.seconds_max:
        return _unproven(shadow, stats, f"{shadow.seconds_max:g} s have passed")
    progress = f"shadowing: {counts.compared} of {shadow.requests_min} live requests compared"
    return Judgement(Verdict.WAIT, progress)


def _compared(shadow: Shadow, stats: ShadowStats) -> Judgement:
    counts = stats.counts
    if counts.agreed / counts.compared < shadow.agreement_min:
        return _disagrees(shadow, stats)
    allowed, ours, theirs = shadow.latency_ratio_max, stats.candidate_p95_ms, stats.live_p95_ms
    if allowed is not None:
        if ours is None or not theirs:
            breach = Breach("shadow_latency", "its latency could not be measured")
            return breach.judged(stats.evidence())
        if ours / theirs > allowed:
            because = (
                f"its p95 is {ours:.1f} ms on the same requests, {ours / theirs:.2f} times the "
                f"{theirs:.1f} ms of what serves; {allowed:g} times are allowed"
            )
            return Breach("shadow_latency", because).judged(stats.evidence())
    because = f"{counts.agreed} of {counts.compared} mirrored requests were answered alike"
    return Judgement(Verdict.PASSED, because, evidence=stats.evidence())


def _disagrees(shadow: Shadow, stats: ShadowStats) -> Judgement:
    counts = stats.counts
    because = (
        f"{counts.agreed} of {counts.compared} mirrored requests were answered alike, "
        f"{shadow.agreement_min:.1%} of {max(counts.compared, shadow.requests_min)} must be"
    )
    if stats.differences:
        because += f"; first {stats.differences[0]}"
    return Breach("shadow_disagreement", because).judged(stats.evidence())


def _unproven(shadow: Shadow, stats: ShadowStats, why: str) -> Judgement:
    """Never silently: what was not compared is said, and the document decides what it means."""
    compared = f"{stats.counts.compared} of {shadow.requests_min} live requests were compared"
    evidence = {"not_shadowed": why[:200], **stats.evidence()}
    match shadow.when_unproven:
        case WhenUnproven.PASS:
            because = f"not shadowed: {why}; {compared}; its document lets it pass"
            return Judgement(Verdict.PASSED, because, evidence=evidence)
        case WhenUnproven.FAIL:
            because = f"not shadowed: {why}; {compared}; its document does not let it pass"
            return Breach("not_shadowed", because).judged(evidence)
