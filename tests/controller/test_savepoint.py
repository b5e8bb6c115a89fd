from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from enrolled_fleet import NOON, EnrolledFleet
from mailboat_controller.store import quarantine
from mailboat_controller.store.savepoint import savepoint
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import MalformedPayload


def put(tx: Transaction, code: str) -> None:
    quarantine.put(tx, topic="t", code=code, problem="p", payload=b"", at=NOON)


def test_what_fails_is_undone_alone(tmp_path: Path) -> None:
    fleet = EnrolledFleet(tmp_path)
    with fleet.store.transaction() as tx:
        put(tx, "before")
        with pytest.raises(MalformedPayload), savepoint(tx):  # noqa: PT012  the block is the point
            put(tx, "undone")
            raise OverflowError
        put(tx, "after")

    with fleet.store.read() as tx:
        assert [row["code"] for row in quarantine.page(tx)] == ["before", "after"]
    fleet.store.close()


def test_trouble_of_the_database_itself_is_nobodys_malformed_message(tmp_path: Path) -> None:
    fleet = EnrolledFleet(tmp_path)

    with fleet.store.transaction() as tx, pytest.raises(OperationalError), savepoint(tx):
        tx.execute(text("SELECT * FROM no_such_table"))
    fleet.store.close()
