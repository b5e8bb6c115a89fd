"""Situations a device may be in for one model, to decide on."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mailboat_agent.update.situation import Known, Situation
from mailboat_agent.update.state import Installed, ModelState
from mailboat_schemas.desired import Assignment, Offer, OfferWave, ReleaseRef
from mailboat_schemas.eligibility import DeviceFacts
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.reports import ModelPhase
from mailboat_schemas.trust import Standing
from trust_fleet import CLASS, document

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVERYBODY = Plan(rollout="all", waves=(PlanWave(cap_ppm=1_000_000),))
FILE = "ab" * 32
A, B, C = "aa" * 32, "bb" * 32, "cc" * 32
RUNS_A = ModelState(
    phase=ModelPhase.COMMITTED, active=Installed(version="1.0.0", digest=A), install=1
)
EMPTY = ModelState()
VERSION = {A: "1.0.0", B: "2.0.0", C: "3.0.0"}


def ref(digest: str) -> ReleaseRef:
    return ReleaseRef(version=VERSION[digest], digest=digest)


def installed(digest: str) -> Installed:
    return Installed(version=VERSION[digest], digest=digest)


def known(digest: str, *, approved: bool = True, released: bool = True, **changes: Any) -> Known:
    return Known(
        standing=Standing(
            model="vad",
            version=VERSION[digest],
            released_digest=digest if released else None,
            approved_digest=digest if approved else None,
            plan=EVERYBODY if approved else None,
        ),
        document=document(VERSION[digest], **changes),
    )


def assigned(
    current: str | None = None, offer: str | None = None, *, upto: str = "f" * 16, **more: Any
) -> Assignment:
    epoch = more.pop("retry_epoch", 0)
    kept = tuple(ref(digest) for digest in more.pop("kept", ()))
    return Assignment(
        model="vad",
        current=None if current is None else ref(current),
        offer=None
        if offer is None
        else Offer(
            release=ref(offer), rollout="all", waves=(OfferWave(upto=upto, roster=9),), **more
        ),
        retry_epoch=epoch,
        kept=kept,
    )


def situation(
    state: ModelState = EMPTY,
    assignment: Assignment | None = None,
    *,
    held: tuple[str, ...] = (A, B, FILE),
    trust_fresh: bool = True,
    clock_trusted: bool = True,
    standings: dict[str, Known] | None = None,
    **more: Any,
) -> Situation:
    facts = DeviceFacts(
        device="kiosk-1",
        hardware_class=CLASS,
        enrolment_number=7,
        runtime_version="1.20.0",
        providers=frozenset({"CPUExecutionProvider"}),
        memory_budget_bytes=1 << 30,
        disk_free_bytes=1 << 30,
        held_files=frozenset(held),
        failed=state.failed,
        security_versions={"vad": state.security_version},
        trust_fresh=trust_fresh,
        clock_trusted=clock_trusted,
    )
    return Situation(
        model="vad",
        assignment=assignment,
        state=state,
        facts=facts,
        known={A: known(A), B: known(B), C: known(C)} | (standings or {}),
        **more,
    )


def trying(digest: str, previous: str | None = None, tries: int = 3, **more: Any) -> ModelState:
    return ModelState(
        phase=ModelPhase.TRIAL,
        active=installed(digest),
        previous=None if previous is None else installed(previous),
        tries=tries,
        install=2,
        **more,
    )


def soaking(digest: str, previous: str | None = None, tries: int = 2) -> ModelState:
    return replace(trying(digest, previous, tries), phase=ModelPhase.SOAK)
