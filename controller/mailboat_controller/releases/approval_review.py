"""What an approver reads before signing: a release, its plan and what differs, in plain words.

Pure. Everything is worked out from the bytes that get signed, never from what somebody says of
them.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from mailboat_controller.rollout.binomial import trials_needed
from mailboat_schemas.cohort import PPM
from mailboat_schemas.documents.interface import Tensor
from mailboat_schemas.documents.release import ReleaseDocument, Variant
from mailboat_schemas.gate_terms import StatisticalGate
from mailboat_schemas.plan import Plan, PlanWave

FILES_SHOWN_MAX = 64  # as many as a variant can have
NAMES_SHOWN_MAX = 8


def release_sentences(document: ReleaseDocument) -> Iterator[str]:
    """What the release is, what is in it, and where it comes from."""
    yield f"{document.model} {document.version}, security version {document.security_version}"
    if document.description:
        yield document.description
    for variant in document.variants:
        yield from _variant(variant)
    yield f"takes {_tensors(document.interface.inputs)}"
    yield f"gives {_tensors(document.interface.outputs)}"
    for name, value in document.provenance.model_dump(mode="json").items():
        if value:
            yield f"{name.replace('_', ' ')}: {value}"
    if document.fallback is not None:
        yield f"falls back to {document.fallback} when nothing else is approved"
    if document.failure_mode is not None:
        yield f"failure mode: {document.failure_mode}"


def differences(document: ReleaseDocument, current: ReleaseDocument | None) -> Iterator[str]:
    """Against what is approved and newest now."""
    if current is None:
        yield "nothing is approved for this model yet"
        return
    yield f"compared with {current.version}:"
    if _without_version(document) == _without_version(current):
        yield "nothing but the version differs"
        return
    if document.interface != current.interface:
        yield "the interface differs: callers have to be changed"
    if document.security_version != current.security_version:
        yield f"security version {current.security_version} becomes {document.security_version}"
    mine, theirs = _by_class(document), _by_class(current)
    for name in sorted(mine.keys() | theirs.keys()):
        yield from _class_differences(name, theirs.get(name), mine.get(name))
    for field in ("fallback", "failure_mode", "compatibility", "provenance"):
        if getattr(document, field) != getattr(current, field):
            yield f"{field.replace('_', ' ')} differs"


def plan_sentences(plan: Plan) -> Iterator[str]:
    """Who may get it, how many at most, and when."""
    classes = ", ".join(plan.hardware_classes) or "every class it has a variant for"
    yield f"rollout {plan.rollout} in {classes}"
    for number, wave in enumerate(plan.waves, start=1):
        yield f"wave {number}: {wave_sentence(wave)}"
    if plan.manual_start:
        yield "an operator has to start it"
    if plan.expires:
        yield f"expires at {_at(plan.expires)}: then it halts, and no device installs it any more"


def wave_sentence(wave: PlanWave) -> str:
    parts = []
    if wave.pilots:
        named = ", ".join(wave.pilots[:NAMES_SHOWN_MAX])
        more = len(wave.pilots) - NAMES_SHOWN_MAX
        parts.append(f"pilots {named}" + (f" and {more} more" if more > 0 else ""))
    if wave.count:
        parts.append(f"{wave.count} devices of each class")
    if wave.count_ppm:
        parts.append(f"{_percent(wave.count_ppm)} of each class")
    if 0 < wave.cap_ppm < PPM:
        parts.append(f"never more than {_percent(wave.cap_ppm)}")
    if wave.ring:
        parts.append("only " + ", ".join(f"{name}={value}" for name, value in wave.ring.items()))
    if wave.earliest:
        parts.append(f"not before {_at(wave.earliest)}")
    if wave.gate is not None:
        parts.append(_statistical(wave.gate))
    else:
        verdicts = f"{wave.ok_min} good verdicts" if wave.ok_min else "a good verdict of everybody"
        parts.append(f"passes with {verdicts} in each class")
    if wave.restarts_min:
        parts.append(f"in each class {wave.restarts_min} come back from a restart of the agent")
    if wave.drills_min:
        parts.append(f"in each class {wave.drills_min} pass a rollback drill under load")
    if wave.wait_max:
        parts.append(f"pauses for a person after {wave.wait_max / 3600:g} h")
    return "; ".join(parts)


def _statistical(gate: StatisticalGate) -> str:
    """What the approver agrees to, and how many devices it takes at least."""
    error = gate.beta_ppm / PPM / (2 if gate.looks > 1 else 1)
    needed = trials_needed(0, gate.p1_ppm / PPM, error)
    return (
        f"passes when fewer than {_percent(gate.p1_ppm)} fail (wrong in {_percent(gate.beta_ppm)} "
        f"of rollouts), asked {gate.looks} times from {gate.soak_seconds / 3600:g} h on every "
        f"{gate.look_seconds / 3600:g} h, the silent counted as failed: {needed} good verdicts at "
        f"least; halts on evidence that more than {_percent(gate.p0_ppm)} fail, or more than "
        f"{_percent(gate.silence_ppm)} are gone for {gate.verdict_seconds / 3600:g} h (wrong in "
        f"{_percent(gate.alpha_ppm)} of rollouts each)"
    )


def _variant(variant: Variant) -> Iterator[str]:
    sealed = "encrypted, " if any(file.sealed for file in variant.files) else ""
    yield (
        f"for {', '.join(variant.hardware_classes)}: {len(variant.files)} files, {sealed}"
        f"{_bytes(variant.size_bytes)}, at its peak {_bytes(variant.peak_memory)} of memory"
    )
    for file in variant.files[:FILES_SHOWN_MAX]:
        yield f"  {file.path} ({file.role}), {_bytes(file.length)}, sha256 {file.sha256}"


def _class_differences(name: str, before: Variant | None, after: Variant | None) -> Iterator[str]:
    if after is None:
        yield f"{name}: has no variant any more"
    elif before is None:
        yield f"{name}: is new"
    else:
        old = {file.path: file.sha256 for file in before.files}
        new = {file.path: file.sha256 for file in after.files}
        changed = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
        if changed:
            grown = after.size_bytes - before.size_bytes
            yield f"{name}: other {', '.join(changed)} ({grown:+,} bytes)"
        if before.health != after.health:
            yield f"{name}: other health gates"
        if before.runtime != after.runtime:
            yield f"{name}: other runtime requirements"
        if before.peak_memory != after.peak_memory:
            old_peak, new_peak = _bytes(before.peak_memory), _bytes(after.peak_memory)
            yield f"{name}: peak memory {old_peak} becomes {new_peak}"


def _by_class(document: ReleaseDocument) -> dict[str, Variant]:
    return {name: each for each in document.variants for name in each.hardware_classes}


def _without_version(document: ReleaseDocument) -> ReleaseDocument:
    return document.model_copy(update={"version": ""})


def _tensors(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{each.name} {each.dtype}{list(each.shape)}" for each in tensors)


def _percent(ppm: int) -> str:
    return f"{ppm * 100 / PPM:.4g} %"


def _bytes(count: int) -> str:
    return f"{count:,} bytes" if count < 1 << 20 else f"{count / (1 << 20):,.1f} MiB"


def _at(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
