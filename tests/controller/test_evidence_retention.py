"""Evidence of rollouts goes when nobody can need it any more, and not before."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, func, insert, select, update

from controller_core import EVERYBODY, Core, plan
from mailboat_controller.rollout.state import FINAL, Phase
from mailboat_controller.store import evidence_retention, exit_tables, redemption_tables, tables
from mailboat_controller.store.drill_tables import drill_results
from mailboat_controller.store.evidence_retention import OPEN
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.retention import ROWS_PER_STEP_MAX

YEARS = timedelta(days=800)
ANOTHER = "d" * 64
DROPS = (evidence_retention.drop_redemptions, evidence_retention.drop_exit_evidence)


@pytest.fixture
def core(tmp_path: Path, database_url: str) -> Iterator[Core]:
    core = Core(tmp_path, database_url=database_url)
    yield core
    core.store.close()


def told(core: Core, digest: str, devices: int = 1, *, retry_epoch: int = 0) -> None:
    """As many devices fetched it, and restarted on it, now."""
    at = to_ms(core.now)
    names = [f"dev-{number}" for number in range(devices)]
    fetched = [
        {"digest": digest, "device": name, "retry_epoch": retry_epoch, "redeemed_at": at}
        for name in names
    ]
    shown = [{"digest": digest, "device": name, "shown": "restarted", "at": at} for name in names]
    with core.store.transaction() as tx:
        tx.execute(insert(redemption_tables.redemptions), fetched)
        tx.execute(insert(exit_tables.exit_evidence), shown)


def in_phase(core: Core, phase: Phase) -> None:
    with core.store.transaction() as tx:
        tx.execute(update(tables.rollouts).values(phase=phase.value))
        tx.execute(update(tables.assignments).values(digest=None))


def left(core: Core) -> tuple[int, ...]:
    evidence = (redemption_tables.redemptions, exit_tables.exit_evidence)
    with core.store.read() as tx:
        return tuple(tx.execute(select(func.count()).select_from(t)).scalar_one() for t in evidence)


def thin(core: Core, older_than: timedelta) -> list[tuple[int, bool]]:
    found = []
    for drop in DROPS:
        with core.store.transaction() as tx:
            step = drop(tx, older_than=core.now + older_than)
            found.append((step.rows, step.more))
    return found


@pytest.mark.parametrize("phase", sorted(OPEN))
def test_what_an_open_rollout_counts_by_stays_however_old(core: Core, phase: Phase) -> None:
    digest = core.release("1.0.0", plan("first", EVERYBODY))
    told(core, digest)
    in_phase(core, phase)

    assert thin(core, YEARS) == [(0, False), (0, False)]
    assert left(core) == (1, 1)


@pytest.mark.parametrize("phase", sorted({*FINAL, Phase.COMPLETED, Phase.SUPERSEDED}))
def test_it_goes_long_after_the_last_rollout_of_the_release(core: Core, phase: Phase) -> None:
    digest = core.release("1.0.0", plan("first", EVERYBODY))
    told(core, digest)
    in_phase(core, phase)

    assert thin(core, timedelta(0)) == [(0, False), (0, False)]  # just over
    assert thin(core, YEARS) == [(1, False), (1, False)]
    assert left(core) == (0, 0)


def test_what_is_current_may_be_rolled_out_to_another_class_and_stays(core: Core) -> None:
    digest = core.release("1.0.0", plan("first", EVERYBODY))
    told(core, digest)
    in_phase(core, Phase.COMPLETED)
    with core.store.transaction() as tx:
        tx.execute(delete(tables.assignments))
        tx.execute(insert(tables.assignments), [_current(digest)])

    assert thin(core, YEARS) == [(0, False), (0, False)]


def test_a_release_that_is_rolled_out_again_keeps_all_of_it(core: Core) -> None:
    digest = core.release("1.0.0", plan("first", EVERYBODY))
    told(core, digest)
    in_phase(core, Phase.HALTED)
    with core.store.transaction() as tx:
        row = dict(tx.execute(select(tables.rollouts)).mappings().one())
        again = row | {"name": "again", "phase": Phase.RUNNING.value, "retry_epoch": 1}
        tx.execute(insert(tables.rollouts).values(**again))

    assert thin(core, YEARS) == [(0, False), (0, False)]


def test_a_step_takes_no_more_than_its_bound_and_leaves_other_releases_alone(core: Core) -> None:
    digest = core.release("1.0.0", plan("first", EVERYBODY))
    told(core, digest, ROWS_PER_STEP_MAX + 3)
    told(core, ANOTHER)  # of no rollout that is known
    in_phase(core, Phase.HALTED)

    assert thin(core, YEARS) == [(ROWS_PER_STEP_MAX, True)] * 2
    assert thin(core, YEARS) == [(3, False)] * 2
    assert left(core) == (1, 1)


def test_of_more_releases_than_one_statement_takes_the_next_step_takes_the_rest(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_retention, "RELEASES_PER_STATEMENT_MAX", 1)
    for number in range(3):
        digest = core.release(f"1.{number}.0", plan(f"rollout-{number}", EVERYBODY))
        if number != 1:  # of one nobody told anything
            told(core, digest)
    in_phase(core, Phase.HALTED)

    steps = [thin(core, YEARS) for _ in range(3)]

    assert [rows for step in steps for rows, _ in step] == [1, 1, 1, 1, 0, 0]
    assert all(more for _, more in steps[0])
    assert not any(more for _, more in steps[2])
    assert left(core) == (0, 0)


def test_the_newest_drill_of_a_device_stays_until_it_is_old(core: Core) -> None:
    with core.store.transaction() as tx:
        for name, days in (("gone", 0), ("here", 10)):
            tx.execute(insert(drill_results).values(**_drill(core, name, days)))
    with core.store.transaction() as tx:
        step = evidence_retention.drop_drill_results(tx, older_than=core.now + timedelta(days=5))
        names = tx.execute(select(drill_results.c.device)).scalars().all()

    assert (step.rows, step.more, names) == (1, False, ["here"])


def _current(digest: str) -> dict[str, object]:
    return {
        "hardware_class": "kiosk-x86",
        "model": "vad",
        "version": "1.0.0",
        "digest": digest,
        "retry_epoch": 0,
    }


def _drill(core: Core, device: str, days: int) -> dict[str, object]:
    return {
        "device": device,
        "model": "vad",
        "order": "due-1",
        "outcome": "passed",
        "code": "",
        "because": "",
        "told_at": to_ms(core.now + timedelta(days=days)),
    }
