"""Why this device runs what it runs: the checks it decides with, asked of its own disk.

Needs no network and no running agent, and changes nothing: it looks at a copy of what the device
has accepted. The same rule, view and decision as the agent's.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.carrier.preview import Held, copy_of_what_is_held
from mailboat_agent.config import AgentConfig
from mailboat_agent.device_orders import kept_order
from mailboat_agent.device_rules import policy_of
from mailboat_agent.facts import UNKNOWN_RUNTIME, Device, Look
from mailboat_agent.identity.device_key import load_identity
from mailboat_agent.kept_releases import what_is_kept
from mailboat_agent.kept_site_order import standing_offline
from mailboat_agent.model_view import ModelView
from mailboat_agent.overlays.in_force import ConfigInForce, running
from mailboat_agent.serving.process import RuntimeFacts, WorkerNotStarted
from mailboat_agent.serving.runtime_facts import runtime_facts
from mailboat_agent.staleness_watch import judge
from mailboat_agent.state_file import StateFile
from mailboat_agent.status import read_status
from mailboat_agent.update.decide import decide
from mailboat_agent.update.situation import Situation, candidate_for
from mailboat_agent.update.state import DeviceState, ModelState
from mailboat_agent.update.time_floor import stands_before, stands_far_ahead, time_floor
from mailboat_schemas.class_budgets import NO_BUDGETS
from mailboat_schemas.desired import ReleaseRef
from mailboat_schemas.eligibility import evaluate
from mailboat_schemas.errors import NotFound
from mailboat_schemas.staleness import Action, Enforcement, done_about_it


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The state file at rest."""

    state: DeviceState

    def model(self, model: str) -> ModelState:
        return self.state.models.get(model, ModelState())


def explain(config: AgentConfig, now: datetime, model: str = "") -> dict[str, Any]:
    """
    Args:
        model: this one alone; empty: all that the device has to do with.

    Raises:
        ConfigurationInvalid: key, certificate or trust root cannot be read.
        NotFound: the device has nothing to do with this model.
    """
    state = StateFile(config.data_dir).load()
    identity = load_identity(config.key, config.certificate)
    device = Device.of(config, enrolment_number=identity.enrolment_number)
    device.runtime = _runtime(config)
    with copy_of_what_is_held(config, state) as held:
        store = ReleaseStore(config.data_dir)
        _copy_documents(store, held, state)
        order = device.order = kept_order(config.data_dir, held.manifest, device.device)
        for pin in () if order is None else order.pins:
            held.manifest.bring_document(pin.digest)
        standing_offline(config.data_dir, device, held.manifest, now)
        desired = held.manifest.desired
        device.class_budgets = NO_BUDGETS if desired is None else desired.budgets
        models = {*state.models, *(a.model for a in (desired.assignments if desired else ()))}
        if model and model not in models:
            raise NotFound(
                f"This device has nothing to do with a model {model}.",
                next_step=f"its models: {', '.join(sorted(models)) or 'none yet'}.",
            )
        serving = [(name, each.serving) for name, each in state.models.items()]
        policy = policy_of(device, held.manifest)
        device.policy_version, device.policy_ranges = policy.version, policy.ranges
        overlays = ConfigInForce(config.data_dir, device, held.manifest)
        overlays.peek(running(serving, held.manifest))
        _count_what_gives_way(device, held, store, state, models)
        look = _look(held, state, now)
        issued = None if desired is None else datetime.fromtimestamp(desired.issued, UTC)
        expires = held.manifest.expires
        return {
            "device": device.device,
            "hardware_class": device.hardware_class,
            "labels": device.labels,
            "manifest_counter": 0 if desired is None else desired.counter,
            "manifest_issued": None if issued is None else issued.isoformat(),
            "trust_expires": None if expires is None else expires.isoformat(),
            "orders": device.order_notes(now),
            "site_order": _site_order(device),
            "models": [
                _model(each, device, held, store, state, look)
                for each in sorted(models)
                if model in ("", each)
            ],
        }


def _count_what_gives_way(
    device: Device, held: Held, store: ReleaseStore, state: DeviceState, models: Iterable[str]
) -> None:
    """As free room, like the agent does."""
    if held.manifest.view is None:
        return
    views = [
        ModelView(each, device=device, ledger=_Recorded(state), manifest=held.manifest, store=store)
        for each in sorted(models)
    ]
    kept = what_is_kept(held.manifest, store, views).gives_way
    store.gives_way.of = lambda: kept


def _site_order(device: Device) -> dict[str, Any] | None:
    said = device.reported_site_order
    return None if said is None else said.model_dump(mode="json")


def _model(
    model: str,
    device: Device,
    held: Held,
    store: ReleaseStore,
    state: DeviceState,
    look: Look,
) -> dict[str, Any]:
    view = ModelView(
        model, device=device, ledger=_Recorded(state), manifest=held.manifest, store=store
    )
    serving = view.state.serving
    stale = judge(device, held.manifest, model, view.state, look)
    if serving is not None and stale.action is Action.STOP:
        device.stopped[model] = serving
    situation = view.situation(
        look,
        attempt_running=False,
        trial_passed=False,
        shadow_over=False,
        in_memory="",
        cannot_fetch="",
    )
    step = decide(situation, look.now)
    return {
        "model": model,
        "phase": str(view.state.phase),
        "serving": None if serving is None else serving.version,
        "next": type(step).__name__,
        "because": step.because,
        "stale": _stale(stale),
        "releases": [
            _release(situation, role, ref, look.now) for role, ref in _named(situation, look.now)
        ],
    }


def _stale(found: Enforcement) -> list[str]:
    """As far as is known here: what was approved since the trust metadata came is not."""
    return [each for each in (found.because, done_about_it(found)) if each]


def _named(situation: Situation, now: datetime) -> Iterator[tuple[str, ReleaseRef]]:
    pin = situation.facts.pin_of(situation.model, now)
    assignment = situation.assignment
    offer = None if assignment is None else assignment.offer
    found = {
        "pinned": None if pin is None else ReleaseRef(version=pin.version, digest=pin.digest),
        "offered": None if offer is None else offer.release,
        "current": None if assignment is None else assignment.current,
    }
    seen: set[str] = set()
    for role, ref in found.items():
        if ref is not None and ref.digest not in seen:
            seen.add(ref.digest)
            yield role, ref


def _release(situation: Situation, role: str, ref: ReleaseRef, now: datetime) -> dict[str, Any]:
    offer = None if situation.assignment is None else situation.assignment.offer
    offered = offer is not None and offer.release.digest == ref.digest
    candidate = candidate_for(situation, ref, offered=offered)
    result, plan = evaluate(situation.facts, candidate, now), candidate.standing.plan
    refusal = result.refusal
    return {
        "role": role,
        "version": ref.version,
        "digest": ref.digest,
        "eligible": result.eligible,
        "emergency": (plan.reason or "") if plan is not None and plan.is_emergency else "",
        "checks": [
            {
                "name": check.name,
                "passed": check.passed,
                "first_no": check is refusal,
                "because": check.because,
                "code": check.code,
            }
            for check in result.checks
        ],
    }


def _look(held: Held, state: DeviceState, now: datetime) -> Look:
    """As `ClockWatch` sees it; nothing is told."""
    floor = time_floor((), state.time_floor)
    fresh = held.manifest.is_fresh(now)
    expired = held.manifest.expires is not None and not fresh
    wrong = stands_before(now, floor) or (expired and stands_far_ahead(now, floor))
    return Look(now=now, monotonic=0.0, clock_trusted=not wrong, trust_fresh=fresh)


def _runtime(config: AgentConfig) -> RuntimeFacts:
    """What the running agent has found, else what a worker says now."""
    with suppress(NotFound, KeyError):
        facts = read_status(config.data_dir)["report"]["facts"]
        if facts["runtime_version"]:
            return RuntimeFacts(facts["runtime_version"], tuple(facts["providers"]))
    try:
        return runtime_facts()
    except WorkerNotStarted:
        return UNKNOWN_RUNTIME


def _copy_documents(store: ReleaseStore, held: Held, state: DeviceState) -> None:
    """Of what this device runs and ran; the manifest brings the others."""
    for model in state.models.values():
        for release in (model.active, *model.predecessors):
            if release is not None:
                with suppress(OSError, ValueError):
                    target = held.store.path(release.digest)
                    shutil.copyfile(store.path(release.digest), target)


def in_words(found: Mapping[str, Any]) -> list[str]:
    """For people, line by line."""
    issued = found["manifest_issued"]
    lines = [
        f"device    {found['device']}, class {found['hardware_class']}",
        f"manifest  {found['manifest_counter'] or 'none yet'}"
        + (f", issued {issued}" if issued else ""),
        f"trust     until {found['trust_expires'] or 'unknown'}",
    ]
    lines += [f"order     {note}" for note in found["orders"]]
    for model in found["models"]:
        serving = model["serving"] or "nothing"
        lines += ["", f"model     {model['model']}: {model['phase']}, serves {serving}"]
        lines += [f"  stale: {each}" for each in model["stale"]]
        for release in model["releases"]:
            verdict = "may be installed" if release["eligible"] else "not now"
            lines.append(f"  {release['version']} ({release['role']}): {verdict}")
            if release["emergency"]:
                lines.append(f"    emergency: {release['emergency']}")
            for check in release["checks"]:
                mark = "NO <-" if check["first_no"] else _MARKS[check["passed"]]
                lines.append(f"    {mark:<5} {check['name']:<16} {check['because']}")
        lines.append(f"  next: {model['next']}: {model['because']}")
    return lines


_MARKS = {True: "yes", False: "no", None: "?"}
