"""A device at rest whose files are damaged while it is off, and what it makes of that at its start.

Everything is real but the worker process and the network (`tests.faults.device`). A start takes
some ten milliseconds, so that a sweep may have hundreds of them.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults import world
from tests.faults.acknowledged import Acknowledged
from tests.faults.device import Life, live

from mailboat_schemas.events import Event, EventKind

JOURNAL_FILES = ("journal.db", "journal.db-wal", "journal.db-shm")
WAITING = 40  # events in the journal of a device at rest, besides those of its installs
Damage = Callable[[bytes], bytes]


def marker(number: int) -> Event:
    return Event(
        event_id=f"marker:{number}",
        sequence=1,
        kind=EventKind.COMMITTED,
        observed_at=1,
        because="y" * 80,
    )


@dataclass
class Start:
    """What one start of the agent came to, without a network."""

    serving: str | None = None
    desired: int | None = None  # counter of the desired state that was read back
    markers: int = 0  # of the events that waited
    damage: frozenset[str] = frozenset()  # what it says was damaged
    unreadable: int = 0  # events handed out as damaged
    notes: tuple[str, ...] = ()
    journal_works: bool = False  # an event recorded now is handed out last, and acknowledged


def start(directory: Path) -> Start:
    found = Start()

    async def story(life: Life) -> None:
        life.source.connected = False
        for _ in range(4):
            await life.step()
        found.serving = None if life.serving is None else life.serving.release.version
        desired = life.manifest.desired
        found.desired = None if desired is None else desired.counter
        events = life.journal.events_after(0, 1000, 1 << 20)
        found.markers = sum(event.event_id.startswith("marker:") for event in events)
        broken = [event for event in events if event.kind is EventKind.STORAGE_DAMAGED]
        found.damage = frozenset(event.code for event in broken if event.code != "journal_row")
        found.unreadable = sum(event.code == "journal_row" for event in broken)
        found.journal_works = _works(life)

    live(directory, story, Acknowledged())
    return found


def _works(life: Life) -> bool:
    """An index that contradicts its table is found in use: then a new journal takes over."""
    lost_before = life.journal.was_lost
    last = life.journal.record_event(marker(WAITING + 1))
    told = life.journal.events_after(last - 1, 1, 1 << 20)
    life.journal.acknowledge(last, 0)
    if life.journal.was_lost and not lost_before:
        last = life.journal.record_event(marker(WAITING + 2))
        told = life.journal.events_after(last - 1, 1, 1 << 20)
    return [event.sequence for event in told] == [last] and life.journal.span_events().last == last


def at_rest(directory: Path, story: str, upto: int) -> None:
    """Take the first bundles of a story, install each, and switch off."""

    async def install(life: Life) -> None:
        for bundle in world.current().bundles[story][:upto]:
            assert life.take(bundle)
            await life.until(lambda: life.model.phase == "committed" and life.serving is not None)
            for _ in range(3):
                await life.step()

    live(directory, install, Acknowledged())


def cut_off(directory: Path) -> None:
    """2.0.0 serves, `WAITING` events wait, and power fails: the newest are in the WAL alone."""
    crashed = directory.with_name(directory.name + ".crashed")
    crashed.mkdir()

    async def install(life: Life) -> None:
        life.connected = False
        for number, bundle in enumerate(world.current().bundles["second"], start=1):
            assert life.take(bundle)
            await life.until(lambda version=f"{number}.0.0": life.serves(version))  # type: ignore[misc]
        for number in range(WAITING):
            life.ledger.tell(marker(number))
        for name in JOURNAL_FILES:
            shutil.copyfile(directory / name, crashed / name)

    live(directory, install, Acknowledged())
    for name in JOURNAL_FILES:
        (directory / name).unlink(missing_ok=True)
        shutil.move(crashed / name, directory / name)
    crashed.rmdir()


def flip(at: int, bit: int = 0) -> Damage:
    def damage(content: bytes) -> bytes:
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]

    return damage


def noise(at: int, length: int, rng: random.Random) -> Damage:
    filling = rng.randbytes(length)
    return lambda content: (content[:at] + filling + content[at + length :])[: len(content)]


def zeros(at: int, length: int) -> Damage:
    return lambda content: (content[:at] + bytes(length) + content[at + length :])[: len(content)]


def sweep(length: int, rng: random.Random, each: int) -> Iterator[tuple[str, Damage]]:
    """Damage of every kind, in every region of a file of ``length`` bytes."""
    for part in range(each):
        cut = length * part // each
        yield f"cut at {cut}", lambda content, cut=cut: content[:cut]  # type: ignore[misc]
    for at in range(0, min(100, length), max(1, 200 // each)):
        yield f"header byte {at}", flip(at, rng.randrange(8))
    for _ in range(4 * each):
        at = rng.randrange(length)
        yield f"bit at {at}", flip(at, rng.randrange(8))
    for _ in range(2 * each):
        at, size = rng.randrange(length), rng.choice((4, 16, 512))
        yield f"{size} bytes of noise at {at}", noise(at, size, rng)
    for at in range(0, length, max(4096, length // each // 4096 * 4096)):
        yield f"page of zeros at {at}", zeros(at, 4096)
