"""What one decision looks at, and the questions that every part of it asks. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from mailboat_agent.update.state import Installed, ModelState
from mailboat_schemas.desired import Assignment, ReleaseRef
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.documents.release import ReleaseDocument, Variant
from mailboat_schemas.eligibility import Candidate, DeviceFacts
from mailboat_schemas.trust import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A release this device has heard of: its standing, and its document if it holds it."""

    standing: Standing
    document: ReleaseDocument | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything one decision looks at.

    ``known`` holds, by document digest, what the assignment and the state name. It is None when
    the device's own trust metadata does not verify: then nothing can be vouched for.
    ``failure_mode`` is the stricter of what the class and the device say; a release adds its own.
    ``attempt_running`` says that this process has begun the recorded trial or soak attempt,
    ``trial_passed`` that the trial it ran ended well, ``shadow_over`` that the shadow after it did,
    or that it was not to be had. ``in_memory`` is the digest of the release
    that serves from verified bytes in memory, whatever the disk holds by now; ``set_aside`` are
    files that were damaged on this disk; ``cannot_fetch`` is the digest of the release whose last
    download came to nothing; ``stopped`` is that of a release that policy stops for being too far
    behind: it stays where it is, and answers nobody.
    """

    model: str
    assignment: Assignment | None
    state: ModelState
    facts: DeviceFacts
    known: Mapping[str, Known] | None
    failure_mode: FailureMode = FailureMode.FAIL_SAFE
    attempt_running: bool = False
    trial_passed: bool = False
    shadow_over: bool = False
    in_memory: str = ""
    set_aside: frozenset[str] = frozenset()
    cannot_fetch: str = ""
    stopped: str = ""

    def of(self, release: Installed | ReleaseRef | None) -> Known | None:
        if release is None or self.known is None:
            return None
        return self.known.get(release.digest)


def may_serve(situation: Situation, release: Installed | ReleaseRef) -> bool:
    known = situation.of(release)
    return known is not None and known.standing.may_serve(release.digest)


def intact(situation: Situation, release: Installed | ReleaseRef) -> bool:
    """Whether the document and everything that this class's variant needs are in the store."""
    # Asked several times at each look, so without making the set of what is lacking.
    held = situation.facts.held_files
    variant = _variant(situation, release)
    return variant is not None and release.digest in held and variant.needed <= held


def lacking(situation: Situation, release: Installed | ReleaseRef) -> frozenset[str] | None:
    """What the store lacks of it; None when its document is not known, or has no such variant."""
    variant = _variant(situation, release)
    if variant is None:
        return None
    return frozenset({release.digest} | variant.needed) - situation.facts.held_files


def _variant(situation: Situation, release: Installed | ReleaseRef) -> Variant | None:
    """Of this device's class; None when its document is not known, or has none."""
    known = situation.of(release)
    if known is None or known.document is None:
        return None
    return known.document.variant_for(situation.facts.hardware_class)


def shadow_comes_first(situation: Situation, release: Installed) -> bool:
    """Whether a release that passed its trial is to be mirrored live requests before it serves.

    Only beside one that may serve: with none there is nothing to compare with, and callers wait.
    """
    known, previous = situation.of(release), situation.state.previous
    if situation.shadow_over or known is None or known.document is None or previous is None:
        return False
    variant = known.document.variant_for(situation.facts.hardware_class)
    if variant is None or variant.health.shadow is None:
        return False
    serves = may_serve(situation, previous) and previous.digest != situation.stopped
    return serves and at_hand(situation, previous)


def at_hand(situation: Situation, release: Installed | ReleaseRef) -> bool:
    """Whether it can serve without being fetched: whole on the disk, or serving from memory."""
    return release.digest == situation.in_memory or intact(situation, release)


def candidate_for(situation: Situation, ref: ReleaseRef | Installed, *, offered: bool) -> Candidate:
    """A release as `eligibility.evaluate` judges it; ``offered``: by the waves that are open."""
    assignment = situation.assignment
    known = (situation.known or {}).get(ref.digest)
    return Candidate(
        model=situation.model,
        version=ref.version,
        digest=ref.digest,
        standing=_no_standing(situation.model, ref) if known is None else known.standing,
        document=None if known is None else known.document,
        offer=assignment.offer if offered and assignment is not None else None,
        retry_epoch=0 if assignment is None else assignment.retry_epoch,
    )


def _no_standing(model: str, ref: ReleaseRef | Installed) -> Standing:
    return Standing(
        model=model, version=ref.version, released_digest=None, approved_digest=None, plan=None
    )
