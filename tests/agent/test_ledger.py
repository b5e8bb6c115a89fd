"""Record, then tell: nothing is told under a number that was used before, and nothing forgotten."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.ledger import PROVOKED_BURST, PROVOKED_SECONDS_EACH, UNTOLD_MAX, Ledger
from mailboat_agent.state_file import StateFile
from mailboat_agent.update.state import DeviceState, Installed, ModelState
from mailboat_agent.update.time_floor import BUILT_AT
from mailboat_schemas.errors import MalformedPayload
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.reports import ModelPhase
from small_disk import run_on_small_disk

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
OLD, NEW = (Installed(version=f"{n}.0.0", digest=f"{n}" * 64) for n in (1, 2))

Open = Callable[..., Ledger]


@pytest.fixture
def reopen(tmp_path: Path) -> Open:
    """The ledger of one device, read back; another ``seed`` is another start."""

    def opened(now: datetime = NOON, seed: int = 1) -> Ledger:
        journal = Journal(tmp_path / "journal.db", random.Random(seed))
        return Ledger(StateFile(tmp_path), journal, now=now, rng=random.Random(seed))

    return opened


def install(ledger: Ledger, release: Installed = NEW) -> int:
    """Record a trial as the model loop does; returns the install's number."""
    number = ledger.state.next_install
    trial = ModelState(
        phase=ModelPhase.TRIAL, active=release, install_of=release, tries=3, install=number
    )
    ledger.record("vad", trial, NOON)
    return number


def told(ledger: Ledger) -> list[Event]:
    return ledger._journal.events_after(0, 1000, 1 << 20)


def test_after_the_record_is_lost_a_new_install_is_told_under_a_new_id(
    reopen: Open, tmp_path: Path
) -> None:
    ledger = reopen()
    ledger.begin_session()
    session = ledger.state.session
    install(ledger)
    for name in ("state.json", "state.json.prev"):
        (tmp_path / name).write_bytes(bytes(100))

    ledger = reopen(NOON + timedelta(seconds=30), seed=2)
    ledger.begin_session()
    install(ledger)

    ids = [event.event_id for event in told(ledger)]
    assert len(ids) == len(set(ids)) == 2
    assert ledger.state.session > session


def test_a_device_wiped_and_enrolled_again_does_not_repeat_itself(
    reopen: Open, tmp_path: Path
) -> None:
    """The controller knows a device's events by their ids, whatever the epoch of its outbox."""
    ledger = reopen()
    install(ledger)
    before = {event.event_id for event in told(ledger)}
    for path in tmp_path.iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path)

    ledger = reopen(NOON + timedelta(minutes=5), seed=2)
    install(ledger)

    assert before.isdisjoint(event.event_id for event in told(ledger))


def test_with_a_wrong_clock_chance_tells_two_lives_apart(reopen: Open, tmp_path: Path) -> None:
    in_1970 = datetime(1970, 1, 1, 0, 0, 7, tzinfo=UTC)
    lives = []
    for seed in range(3):
        (tmp_path / "state.json").unlink(missing_ok=True)
        lives.append(reopen(in_1970, seed).state)

    assert len({life.next_install for life in lives}) == 3
    assert {life.session for life in lives} == {BUILT_AT}


def test_the_generation_before_counts_on_from_beyond_the_lost_one(
    reopen: Open, tmp_path: Path
) -> None:
    ledger = reopen()
    ledger.begin_session()
    first = install(ledger)
    second = install(ledger, OLD)
    (tmp_path / "state.json").write_bytes(b"a bad sector")

    ledger = reopen()

    assert ledger.model("vad").install == first
    assert ledger.state.next_install > second
    session = ledger.state.session
    ledger.begin_session()
    assert ledger.state.session == session + 1


def test_what_a_restart_finds_whole_is_not_counted_on(reopen: Open) -> None:
    ledger = reopen()
    ledger.begin_session()
    number = install(ledger)

    again = reopen()

    assert again.state == ledger.state
    assert again.state.next_install == number + 1


def test_a_number_is_used_once_on_a_device_and_not_once_for_each_model(reopen: Open) -> None:
    ledger = reopen()
    number = install(ledger)

    ledger.save(replace(ledger.state, models={**ledger.state.models, "kws": ModelState()}))

    assert ledger.state.next_install == number + 1
    assert DeviceState(models={"a": ModelState(install=9)}).next_install == 10


# --- what others provoke -------------------------------------------------------------------------


def refuse(ledger: Ledger, number: int, now: datetime) -> bool:
    error = MalformedPayload("garbage", next_step="look")
    kind = EventKind.MANIFEST_REFUSED
    return ledger.tell_trouble(kind, f"{kind}:{number}:{error.code}", error, now)


def test_a_flood_of_refusals_is_a_burst_and_then_one_now_and_then(reopen: Open) -> None:
    ledger = reopen()
    for second in range(PROVOKED_SECONDS_EACH * 2):  # a new payload every second
        refuse(ledger, second, NOON + timedelta(seconds=second))

    rows = told(ledger)

    assert len(rows) in (PROVOKED_BURST + 1, PROVOKED_BURST + 2)
    assert rows[PROVOKED_BURST].evidence["withheld_before"] > 400


def test_the_same_refusal_again_costs_no_allowance(reopen: Open) -> None:
    ledger = reopen()
    assert refuse(ledger, 0, NOON)
    for _ in range(2 * PROVOKED_BURST):
        assert not refuse(ledger, 0, NOON)
    again = reopen()
    for _ in range(2 * PROVOKED_BURST):
        assert not refuse(again, 0, NOON)

    assert refuse(again, 1, NOON)


def test_a_flood_does_not_hide_what_happens_to_a_release(reopen: Open) -> None:
    ledger = reopen()
    for number in range(2 * PROVOKED_BURST):
        refuse(ledger, number, NOON)

    install(ledger)

    assert told(ledger)[-1].kind is EventKind.TRIAL_STARTED


def test_while_the_journal_is_closed_a_flood_leaves_room_for_what_happens_to_a_release(
    reopen: Open, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.db"
    journal.symlink_to(tmp_path / "nowhere" / "journal.db")  # nothing can be opened there
    ledger = reopen()
    for number in range(2 * UNTOLD_MAX):
        refuse(ledger, number, NOON)
    install(ledger)
    ledger.record("vad", ModelState(), NOON)  # of the trial the record says nothing any more

    journal.unlink()
    ledger.tell_what_the_state_implies(NOON)
    assert EventKind.TRIAL_STARTED in [event.kind for event in told(ledger)]


# --- a journal that cannot be written ------------------------------------------------------------


@pytest.mark.slow
def test_what_the_journal_could_not_take_is_told_in_order_when_it_can(tmp_path: Path) -> None:
    program = """
    import random
    from datetime import UTC, datetime
    from mailboat_agent.journal.event_journal import Journal
    from mailboat_agent.ledger import Ledger
    from mailboat_agent.state_file import StateFile
    from mailboat_agent.update.state import Installed, ModelState
    from mailboat_schemas.errors import DiskFull
    from mailboat_schemas.events import Event, EventKind
    from mailboat_schemas.reports import ModelPhase

    def event(number):
        name, text = f"e:{number}", "x" * 900
        return Event(event_id=name, sequence=1, kind="committed", observed_at=0, because=text)

    noon, rng = datetime(2026, 3, 1, tzinfo=UTC), random.Random(1)
    journal = Journal(DISK / "journal.db", rng)
    ledger = Ledger(StateFile(pathlib.Path("ELSEWHERE")), journal, now=noon, rng=rng)
    fill()
    told = 0
    while True:  # the last room in the journal's own file
        try:
            journal.record_event(event(told))
            told += 1
        except DiskFull:
            break
    new = Installed(version="2.0.0", digest="2" * 64)
    number = ledger.state.next_install
    trial = ModelState(phase=ModelPhase.TRIAL, active=new, install_of=new, install=number)
    ledger.record("vad", trial, noon)
    ledger.tell_damage("trust", "rot", noon)
    try:
        ledger.require_told("vad", noon)
    except DiskFull:
        pass
    else:
        raise AssertionError("the record may not be overwritten yet")
    ledger.tell_what_the_state_implies(noon)
    (DISK / "filler").unlink()
    ledger.tell_what_the_state_implies(noon)
    ledger.tell_what_the_state_implies(noon)
    ledger.require_told("vad", noon)
    kinds = [each.kind for each in journal.events_after(told, 100, 1 << 20)]
    assert kinds == [EventKind.TRIAL_STARTED, EventKind.STORAGE_DAMAGED], kinds
    """
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    run_on_small_disk(tmp_path / "disk", 1 << 20, program.replace("ELSEWHERE", str(elsewhere)))
