from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from audit_tampering import unlock
from enrolled_fleet import migrated_store
from mailboat_controller.store import audit
from mailboat_controller.store.audit_chain import seal
from mailboat_controller.store.engine import Store

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = migrated_store(tmp_path)
    with store.transaction() as tx:
        for number in range(1, 6):
            audit.append(
                tx,
                at=NOON,
                actor="operator:alice",
                action="device.revoke",
                subject=f"dev-{number}",
                reason="stolen",
                details={"number": number, "ü": 0.1},
            )
    return store


def broken_at(store: Store) -> int | None:
    with store.read() as tx:
        return audit.verify(tx)


def tamper(store: Store, statement: str) -> None:
    with store.transaction() as tx:
        unlock(tx)
        tx.execute(text(statement))


def test_a_chain_nobody_touched_holds(store: Store) -> None:
    assert broken_at(store) is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET reason = 'lost' WHERE sequence = 3",
        "UPDATE audit SET actor = 'operator:bob' WHERE sequence = 3",
        "UPDATE audit SET at = at + 1 WHERE sequence = 3",
        "UPDATE audit SET details = '{}' WHERE sequence = 3",
        "UPDATE audit SET hash = previous_hash WHERE sequence = 3",
        "DELETE FROM audit WHERE sequence = 3",
    ],
)
def test_a_changed_or_removed_entry_is_found_where_it_was(store: Store, statement: str) -> None:
    tamper(store, statement)

    assert broken_at(store) == 3


def test_an_entry_made_to_look_right_breaks_the_one_after_it(store: Store) -> None:
    with store.transaction() as tx:
        unlock(tx)
        row = tx.execute(text("SELECT * FROM audit WHERE sequence = 3")).mappings().one()
        content = {**row, "reason": "lost", "details": {"number": 3, "ü": 0.1}}
        del content["hash"]
        forged = seal(content)
        tx.execute(
            text("UPDATE audit SET reason = 'lost', hash = :hash WHERE sequence = 3"),
            {"hash": forged},
        )

    assert broken_at(store) == 4


def test_entries_cut_off_at_the_end_show_in_the_head_alone(store: Store) -> None:
    with store.read() as tx:
        before = audit.head(tx)
    tamper(store, "DELETE FROM audit WHERE sequence > 3")

    with store.read() as tx:
        assert audit.verify(tx) is None
        assert audit.head(tx) != before


def test_an_entry_of_a_transaction_that_failed_leaves_no_gap(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        1 / audit.append(tx, at=NOON, actor="a", action="b", subject="c") / 0
    with store.transaction() as tx:
        assert audit.append(tx, at=NOON, actor="a", action="b", subject="c") == 6

    assert broken_at(store) is None


def test_a_reason_over_its_bound_is_cut_and_still_verifies(store: Store) -> None:
    with store.transaction() as tx:
        audit.append(tx, at=NOON, actor="a" * 500, action="b", subject="c" * 999, reason="r" * 9999)

    assert broken_at(store) is None
    with store.read() as tx:
        newest = audit.page(tx, after=5)[0]
    assert (len(newest.actor), len(newest.subject), len(newest.reason)) == (128, 256, 2000)


def test_pages_follow_each_other_and_may_be_about_one_subject(store: Store) -> None:
    with store.read() as tx:
        first = audit.page(tx, limit=2)
        second = audit.page(tx, after=first[-1].sequence, limit=2)
        about = audit.page(tx, subject="dev-4")

    assert [row.subject for row in (*first, *second)] == ["dev-1", "dev-2", "dev-3", "dev-4"]
    assert [row.sequence for row in about] == [4]
    assert first[0].at == NOON
