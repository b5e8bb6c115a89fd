"""The journal's files damaged while the device was off: it starts, serves, says so, counts on."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.faults import world
from tests.faults.acknowledged import Acknowledged
from tests.faults.device import Life, live

from damaged_device import (
    JOURNAL_FILES,
    WAITING,
    Damage,
    Start,
    cut_off,
    flip,
    marker,
    start,
    sweep,
    zeros,
)
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.journal import database
from mailboat_agent.journal.event_journal import Journal
from mailboat_schemas.events import EventKind

SEED = 20260301
DATABASE, WAL, INDEX = JOURNAL_FILES


@pytest.fixture(scope="module")
def rested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("rested") / "device"
    cut_off(directory)
    return directory


@pytest.fixture
def device(rested: Path, tmp_path: Path) -> Path:
    return shutil.copytree(rested, tmp_path / "device")


def damaged(device: Path, name: str, damage: Damage) -> Start:
    path = device / name
    path.write_bytes(damage(path.read_bytes()))
    return start(device)


def edit(device: Path, statement: str) -> None:
    with closing(sqlite3.connect(device / DATABASE)) as opened, opened:
        opened.execute(statement)


def test_what_waited_when_power_failed_waits_still(device: Path) -> None:
    found = start(device)

    assert found == Start(serving="2.0.0", desired=2, markers=WAITING, journal_works=True)


@pytest.mark.parametrize(
    ("name", "damage", "lost"),
    [
        pytest.param(DATABASE, lambda _: b"", True, id="emptied"),
        pytest.param(DATABASE, lambda content: content[:1], True, id="one-byte"),
        pytest.param(DATABASE, lambda content: content[:3000], True, id="truncated"),
        pytest.param(DATABASE, lambda content: bytes(len(content)), True, id="zero-filled"),
        pytest.param(DATABASE, flip(3), True, id="no-magic"),
        pytest.param(WAL, lambda content: content[: len(content) // 2], False, id="wal-truncated"),
        pytest.param(WAL, lambda content: bytes(len(content)), False, id="wal-zero-filled"),
        pytest.param(INDEX, zeros(0, 4096), False, id="shm-zero-filled"),
        pytest.param(INDEX, lambda _: b"\xff" * 100, False, id="shm-garbage"),
    ],
)
def test_a_damaged_journal_keeps_nothing_from_serving(
    device: Path, name: str, damage: Damage, lost: bool
) -> None:
    found = damaged(device, name, damage)

    assert (found.serving, found.desired, found.journal_works) == ("2.0.0", 2, True)
    assert found.damage == (frozenset({"journal"}) if lost else frozenset())
    if name == INDEX:
        assert found.markers == WAITING  # it only spares SQLite a look at the WAL


@pytest.mark.slow
def test_damage_of_any_kind_anywhere_in_the_journal_is_survived_and_told(
    rested: Path, tmp_path: Path
) -> None:
    """A WAL that is cut is what any power cut leaves, so what it lost is not told. What is lost
    from the database is, as a whole or event by event."""
    rng = random.Random(SEED)
    cases = 0
    for name in JOURNAL_FILES:
        length = (rested / name).stat().st_size
        for number, (what, damage) in enumerate(sweep(length, rng, each=25)):
            device = shutil.copytree(rested, tmp_path / f"{name}-{number}")
            found = damaged(device, name, damage)
            cases += 1
            case = f"seed {SEED}, {name}, {what}: {found}"
            assert (found.serving, found.desired) == ("2.0.0", 2), case
            assert found.journal_works, case
            if name == DATABASE:
                told = "journal" in found.damage or found.markers + found.unreadable == WAITING
                assert told, case
            else:
                assert name == WAL or found.markers == WAITING, case
            shutil.rmtree(device)
    assert cases > 500


# --- what SQLite itself does not notice -----------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = '9223372036854775807' WHERE name = 'events_given'",
        "UPDATE meta SET value = 'x' WHERE name = 'windows_given'",
        "DELETE FROM meta WHERE name = 'events_given'",
        "UPDATE meta SET value = '-1' WHERE name = 'events_acknowledged'",
        "DROP TABLE told",
        "CREATE TRIGGER no BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END",
    ],
)
def test_a_journal_that_contradicts_itself_is_set_aside(device: Path, statement: str) -> None:
    """Numbers of its own making are checked: one of them alone had kept an agent from starting."""
    edit(device, statement)

    found = start(device)

    assert (found.serving, found.journal_works) == ("2.0.0", True)
    assert list(device.glob("journal.db.damaged-*"))
    assert found.damage == {"journal"} or "TRIGGER" in statement  # met at the next event


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET sequence = -sequence",
        "UPDATE events SET sequence = 9223372036854775807 WHERE sequence = 5",
        "INSERT INTO windows VALUES (-7, 'x', 9, -1, 1e308, -5, -7, x'00', x'00')",
        "INSERT INTO windows VALUES (9223372036854775807, 'x', 0, 0, 0, 1, 9, x'00', x'00')",
    ],
)
def test_rows_with_impossible_numbers_are_no_end(device: Path, statement: str) -> None:
    edit(device, statement)

    found = start(device)

    assert (found.serving, found.journal_works) == ("2.0.0", True)
    assert found.markers + found.unreadable >= WAITING


def test_a_header_that_forbids_writing_is_damage_and_no_disk_gone_read_only(device: Path) -> None:
    """Byte 18 is the version that may write it. Source: SQLite database file format, 1.3."""
    start(device)  # plays the WAL in and closes
    content = bytearray((device / DATABASE).read_bytes())
    content[18] = 3
    (device / DATABASE).write_bytes(content)

    async def story(life: Life) -> None:
        life.ledger.tell(marker(100))
        await life.step()
        assert life.serves("2.0.0")
        told = [event.event_id for event in life.journal.events_after(0, 1000, 1 << 20)]
        assert told[0] == "marker:100"
        assert told[-1].endswith(":journal")
        assert life.journal.was_lost

    live(device, story, Acknowledged(), connected=False)


# --- what stands in its place ---------------------------------------------------------------------


@pytest.mark.parametrize("name", JOURNAL_FILES)
def test_a_directory_in_the_place_of_a_file_of_the_journal_is_moved_aside(
    device: Path, name: str
) -> None:
    (device / name).unlink()
    (device / name).mkdir()
    (device / name / "file").touch()

    found = start(device)

    assert (found.serving, found.damage, found.journal_works) == ("2.0.0", {"journal"}, True)
    assert (device / f"{name}.in-the-way" / "file").exists()


AS_NOBODY = """
import os, pathlib, random, sys
from mailboat_agent.journal.event_journal import Journal
from mailboat_schemas.events import Event, EventKind
os.setgroups([]); os.setgid(65534); os.setuid(65534)
journal = Journal(pathlib.Path(sys.argv[1]) / "journal.db", random.Random(2))
journal.record_event(Event(event_id="new", sequence=1, kind=EventKind.COMMITTED, observed_at=0))
events = journal.events_after(0, 10, 100_000)
print(journal.was_lost, *(event.event_id for event in events))
"""


@pytest.mark.slow
@pytest.mark.parametrize("owner", [65534, 0])
def test_a_file_that_may_not_be_written_is_made_writable_or_set_aside(
    tmp_path: Path, owner: int
) -> None:
    if os.geteuid() != 0:
        pytest.skip("files of other users need root")
    with closing(Journal(tmp_path / DATABASE, random.Random(1))) as journal:
        journal.record_event(marker(1))
    path = tmp_path  # nobody has to reach it, through directories that are ours alone
    while path != Path(tempfile.gettempdir()) and path.stat().st_mode & 0o077 == 0:
        path.chmod(0o755)
        path = path.parent
    os.chown(tmp_path, 65534, 65534)
    os.chown(tmp_path / DATABASE, owner, owner)
    (tmp_path / DATABASE).chmod(0o444)

    command = [sys.executable, "-c", AS_NOBODY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    told = "False marker:1 new" if owner else "True new"
    assert done.stdout.strip() == told
    assert (tmp_path / "journal.db.damaged-1").exists() == (owner == 0)


@pytest.fixture
def locked(device: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process has it for itself."""
    program = (
        "import sqlite3, sys\n"
        "journal = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "journal.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, device / DATABASE]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_journal_that_somebody_keeps_locked_is_waited_for_once(
    device: Path, locked: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS_MAX", 1.5)
    monkeypatch.setattr(database, "BUSY_AGAIN_SECONDS_MAX", 0.01)
    began: list[float] = []

    async def story(life: Life) -> None:
        began.append(os.times().elapsed)
        for _ in range(5):
            await life.step()
        began.append(os.times().elapsed)
        assert life.serves("2.0.0")
        with pytest.raises(DiskFailing, match="who else has it open"):
            life.journal.span_events()
        life.ledger.tell(marker(WAITING))  # kept in memory until somebody lets go
        locked.kill()
        locked.wait()
        await life.step()
        told = [event.event_id for event in life.journal.events_after(0, 1000, 1 << 20)]
        assert {f"marker:{number}" for number in range(WAITING + 1)} <= set(told)
        assert not life.journal.was_lost

    live(device, story, Acknowledged())
    # Five looks at it, each of which would have waited three times a second and a half.
    assert began[1] - began[0] < 18


def test_a_journal_taken_away_under_the_agent_is_missed_at_the_next_check(device: Path) -> None:
    async def story(life: Life) -> None:
        epoch = life.journal.epoch
        life.ledger.check_journal()
        assert life.journal.epoch == epoch
        for name in JOURNAL_FILES:
            (device / name).unlink()

        life.ledger.check_journal()
        await life.step()

        assert life.journal.epoch != epoch
        events = life.journal.events_after(0, 1000, 1 << 20)
        assert [(each.kind, each.code) for each in events][-1] == (
            EventKind.STORAGE_DAMAGED,
            "journal",
        )
        assert life.serves("2.0.0")

    live(device, story, Acknowledged())


# --- rows that the controller has, and the device no longer ---------------------------------------


def test_a_journal_set_back_does_not_give_numbers_twice(tmp_path: Path) -> None:
    """The rows of a lost WAL, or that an older image of the disk has not, are with the controller.
    What comes now would be taken for them, and be lost, if it were told under their numbers."""
    device, image, told = tmp_path / "device", tmp_path / "image", Acknowledged()
    (start_bundle,) = world.current().bundles["first"][:1]

    async def first_life(life: Life) -> None:
        assert life.take(start_bundle)
        await life.until(lambda: life.serves("1.0.0") and life.nothing_waits())
        shutil.copytree(device, image)
        for number in range(20):
            life.ledger.tell(marker(number))
        await life.until(life.nothing_waits)

    async def next_life(life: Life) -> None:
        life.connected = life.source.connected = False
        for number in range(100, 105):
            life.ledger.tell(marker(number))
        await life.step()
        life.source.connected = True
        await life.until(life.nothing_waits)

    live(device, first_life, told)
    shutil.rmtree(device)
    shutil.copytree(image, device)
    live(device, next_life, told)

    received = [row["event_id"] for row in told.received.values()]
    assert {f"marker:{number}" for number in (*range(20), *range(100, 105))} <= set(received)
    assert len({epoch for epoch, _ in told.received}) == 2


def test_what_waits_keeps_its_order_and_its_windows_in_the_new_epoch(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / DATABASE, random.Random(1))) as journal:
        for number in range(6):
            journal.record_event(marker(number))
        journal.acknowledge(2, 0)
        epoch = journal.epoch

        journal.begin_epoch_anew()

        assert journal.epoch != epoch
        events = journal.events_after(0, 10, 1 << 20)
        assert [(e.sequence, e.event_id) for e in events] == [
            (number - 1, f"marker:{number}") for number in range(2, 6)
        ]
        assert journal.record_event(marker(0)) <= 0  # known, though not in this epoch
        assert journal.record_event(marker(9)) == 5
        assert journal.was_lost
    with closing(Journal(tmp_path / DATABASE, random.Random(2))) as journal:
        assert journal.epoch != epoch
        assert len(journal.events_after(0, 10, 1 << 20)) == 5
