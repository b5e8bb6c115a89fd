"""What must hold of a device directory after any crash, said as a list of what does not.

Source: DESIGN section 12, invariants 1, 3, 4 and 7; the numbers I1 to I10 are of the list in
docs/reliability.md.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults import dead_disk, world
from tests.faults.acknowledged import Acknowledged
from tests.faults.device import Life, NotReached, live

from mailboat_agent.state_file import decode_state
from mailboat_agent.update.events import implied_events
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.errors import MailboatError
from trust_fleet import CLASS, MODEL

if TYPE_CHECKING:
    from tests.faults.scenes import Scene

# The controller takes a second one for a second install; none of the stories has one.
ONCE = frozenset(
    {"trial_started", "soak_started", "committed", "restarted", "trial_failed", "rolled_back"}
)


def violations(
    scene: "Scene", directory: Path, told: Acknowledged, *, quickly: bool = False
) -> list[str]:
    found = list(_of_the_files(directory, told))
    if not quickly:
        found += of_a_start_on_a_dead_disk(directory, told)
    found += _of_a_start_without_network(directory, told)
    if not quickly:
        found += _of_the_rest_of_the_story(scene, directory, told)
    return found


# --- files ----------------------------------------------------------------------------------------


def _of_the_files(directory: Path, told: Acknowledged) -> Iterator[str]:
    """Without any code that might repair them."""
    for path in (directory / "store").iterdir():
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            yield f"I6: store/{path.name[:16]} has other bytes than its name says"
    generation = _generation(directory / "state.json")
    previous = _generation(directory / "state.json.prev")
    promised = told.saved.get("generation", 0)
    if promised and generation is None:
        yield "I1: state.json is damaged or missing after a mere crash"
    if generation is not None and generation < promised:
        yield f"I3: the record is of generation {generation}, {promised} was promised"
    if generation is not None and generation > 1 and (previous or 0) < generation - 1:
        yield f"I1: state.json.prev is of generation {previous}, the record of {generation}"


def _generation(path: Path) -> int | None:
    try:
        return decode_state(path.read_bytes()).generation
    except Exception:  # noqa: BLE001 - after a crash a file can be anything
        return None


# --- starting -------------------------------------------------------------------------------------


async def _settle(life: Life) -> None:
    """A few looks, until nothing is under way."""
    for _ in range(4):
        await life.step()


def of_a_start_on_a_dead_disk(directory: Path, told: Acknowledged) -> list[str]:
    """No network, and every change refused, the journal too: it serves all the same. I10."""
    found: list[str] = []

    async def look(life: Life) -> None:
        await _settle(life)
        found.extend(f"on a dead disk: {each}" for each in _of_what_serves(life))

    try:
        with dead_disk.refusing(directory):
            live(directory, look, Acknowledged(crashes=told.crashes), connected=False, crash=_spare)
    except Exception as error:  # noqa: BLE001 - that is what is asked
        found.append(f"I10: it does not start on a dead disk: {type(error).__name__}: {error}")
    return found


def _spare() -> None:
    """A deadly release, where its deadliness is not what is asked about: an attempt is spent."""
    raise RuntimeError("It would have taken the device down.")


def _of_a_start_without_network(directory: Path, told: Acknowledged) -> list[str]:
    found: list[str] = []
    before = told.session

    async def look(life: Life) -> None:
        found.extend(f"I1: the record was damaged by a mere crash: {p}" for p in life.problems)
        if life.ledger.state.session <= before:
            found.append(f"I9: session {life.ledger.state.session} was told before")
        found.extend(_of_what_is_installed(life))
        found.extend(_of_the_trust(life, told))
        found.extend(_of_the_record(life, told))
        await _settle(life)
        found.extend(_of_what_serves(life))
        found.extend(_of_the_journal(life, told))

    try:
        live(directory, look, told, connected=False, crash=_spare)
    except Exception as error:  # noqa: BLE001 - whatever it is, a device would not have started
        found.append(f"I4: it does not start: {type(error).__name__}: {error}")
    return found


def _of_what_serves(life: Life) -> Iterator[str]:
    """Approved and whole, if there is anything that is."""
    lane = life.serving
    if lane is None:
        if _servable(life):
            yield f"I4: nothing serves, {_servable(life)} could; {life.model}"
        return
    release = lane.release
    if not life.manifest.may_serve(MODEL, release.version, release.digest):
        yield f"1: {release.version} serves and is not approved"
    document = ReleaseDocument.parse(life.store.read_verified(release.digest, 1 << 20))
    variant = document.variant_for(CLASS)
    if variant is None or lane.content_digest != variant.model_file.sha256:
        yield f"1: {release.version} serves with other bytes than were signed"


def _servable(life: Life) -> list[str]:
    """What the record names as active or as one that ran before, is approved, and is whole."""
    state = life.model
    named = [*state.predecessors]
    # A candidate has to pass its trial first, and no start alone can let it.
    named += [] if state.phase == "trial" else [state.active]
    return [
        each.version
        for each in named
        if each is not None
        and life.manifest.may_serve(MODEL, each.version, each.digest)
        and not _missing(life, each.digest)
    ]


def _missing(life: Life, digest: str) -> list[str]:
    """Files of a release that are not there, or not whole."""
    document = life.manifest.document(digest)
    variant = None if document is None else document.variant_for(CLASS)
    if variant is None:
        return [digest]
    missing = []
    for needed in variant.needed:
        try:
            os.close(life.store.open_verified(needed))
        except MailboatError:
            missing.append(needed)
    return missing


def _of_what_is_installed(life: Life) -> Iterator[str]:
    state = life.model
    for role, release in (("active", state.active), ("previous", state.previous)):
        if release is None:
            continue
        if not life.manifest.may_serve(MODEL, release.version, release.digest):
            continue  # what is withdrawn may be garbage
        missing = _missing(life, release.digest)
        if missing:
            yield f"I1: the record names {release.version} as {role}, {missing[0][:16]} is lacking"


def _of_the_trust(life: Life, told: Acknowledged) -> Iterator[str]:
    if life.manifest.view is None:
        yield "I9: the trust metadata was damaged by a mere crash"
        return
    versions = life.manifest.view.versions()
    for role, version in told.versions.items():
        if versions.get(role, 0) < version:
            yield f"I9: role {role} is back at {versions.get(role, 0)} from {version}"
    if life.ledger.state.manifest_counter < told.counter:
        yield f"I9: counter {life.ledger.state.manifest_counter}, {told.counter} was accepted"
    if told.counter > 1 and life.manifest.desired is None:
        yield "I9: the desired state is lost"


def _of_the_record(life: Life, told: Acknowledged) -> Iterator[str]:
    """An outcome that was told stands: it is recorded, or another install has begun since."""
    state = life.model
    for line in told.outcomes:
        told_install = int(line["event_id"].split(":")[1])
        if state.install < told_install or (
            state.install == told_install and state.outcome not in (line["kind"], "returned")
        ):
            yield f"I3: {line['kind']} {line['version']} was told, the record says {state.phase}"


def _of_the_journal(life: Life, told: Acknowledged) -> Iterator[str]:
    if life.journal.was_lost:
        yield "I8: the journal was damaged by a mere crash"
    waiting = {
        event.sequence: event.event_id for event in life.journal.events_after(0, 1000, 1 << 24)
    }
    epoch = life.journal.epoch
    ids = {*waiting.values(), *(line["event_id"] for line in told.received.values())}
    for (of, sequence), event_id in told.recorded.items():
        if event_id not in ids:
            yield f"I8: event {event_id} was recorded and is lost"
        elif of == epoch and sequence in waiting and waiting[sequence] != event_id:
            yield f"I8: sequence {sequence} was {event_id}, now it is {waiting[sequence]}"
    upto = told.watermarks.get(epoch, 0)
    if waiting and min(waiting) > upto + 1:
        yield f"I8: the outbox begins at {min(waiting)}, the controller has {upto}"
    with suppress(MailboatError):
        for event in implied_events(MODEL, life.model, life.now):
            if event.event_id not in ids and not life.journal.has_event(event.event_id):
                yield f"I5: the record implies {event.event_id}, which is not told"


# --- going on -------------------------------------------------------------------------------------


def _of_the_rest_of_the_story(scene: "Scene", directory: Path, told: Acknowledged) -> Iterator[str]:
    """The story goes on and must come to its end; then the past is offered again, and refused."""
    problems: list[str] = []

    async def play(life: Life) -> None:
        await scene.play(life)
        problems.extend(_of_the_end(scene, life, told))

    try:
        live(directory, play, told, crash=_spare)
    except NotReached as error:
        yield f"I4: the story does not come to its end: {error}"
    except Exception as error:  # noqa: BLE001 - a story must not end in any
        yield f"I4: the story ends in {type(error).__name__}: {error}"
    yield from problems


def _of_the_end(scene: "Scene", life: Life, told: Acknowledged) -> Iterator[str]:
    yield from _of_what_serves(life)
    held = life.ledger.state.manifest_counter
    for old in world.current().bundles[scene.story][:-1]:
        life.take(old)
    if life.ledger.state.manifest_counter < held:
        yield "7: an older desired state was taken"
    times = Counter(
        (line["kind"], line["version"]) for line in told.received.values() if line["kind"] in ONCE
    )
    for (kind, version), count in times.items():
        if count > 1:
            yield f"3: {kind} {version} was told {count} times"
    by_epoch: dict[str, set[int]] = {}
    for epoch, sequence in told.received:
        by_epoch.setdefault(epoch, set()).add(sequence)
    for sequences in by_epoch.values():
        if sequences != set(range(min(sequences), max(sequences) + 1)):
            yield "3: the controller lacks an event in the middle"
