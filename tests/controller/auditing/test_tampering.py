"""Whatever is done to the record afterwards is found: in the database, and in an exported file."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError

from audit_tampering import unlock
from enrolled_fleet import migrated_store
from mailboat_controller.auditing import checking, export_file, signed_head
from mailboat_controller.auditing.signed_head import AuditBroken
from mailboat_controller.store import audit, audit_heads, tables
from mailboat_controller.store.audit_chain import FIRST_PREVIOUS_HASH, Chain, canonical, seal
from mailboat_controller.store.engine import Store

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
FLEET = "demo"
ENTRIES = 6
Entry = dict[str, Any]


@cache
def signer() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


def chained(contents: list[Entry]) -> list[Entry]:
    """Entries of these contents, sealed one after the other."""
    found: list[Entry] = []
    for number, content in enumerate(contents, start=1):
        before = found[-1]["hash"] if found else FIRST_PREVIOUS_HASH
        entry = {**content, "sequence": number, "previous_hash": before}
        found.append({**entry, "hash": seal(entry)})
    return found


def log(count: int = ENTRIES) -> list[Entry]:
    return chained(
        [
            {
                "at": 1_000 + number,
                "actor": "operator:alice",
                "action": "device.revoke",
                "subject": f"dev-{number}",
                "reason": "stolen",
                "details": {"number": number, "ü": 0.1, "before": {"revoked": False}},
            }
            for number in range(1, count + 1)
        ]
    )


def holds(entries: list[Entry]) -> bool:
    chain = Chain()
    return all(chain.take(entry) is None for entry in entries)


def exported(entries: list[Entry]) -> list[str]:
    head = signed_head.sign(
        signer(), fleet=FLEET, sequence=len(entries), hash_=entries[-1]["hash"], now=NOON
    )
    return list(export_file.lines(entries, head))


def with_capitals(line: str) -> str:
    """The same signature, spelt another way."""
    signature = json.loads(line)["signed_head"]["signature"]
    return line.replace(signature, signature.upper())


def export_holds(lines: list[str]) -> bool:
    try:
        export_file.verify(io.BytesIO("".join(lines).encode()), signer().public_key)
    except AuditBroken:
        return False
    return True


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20)
)
FIELDS = st.sampled_from(sorted(log(1)[0]))


def test_a_log_nobody_touched_holds_in_the_database_and_in_a_file() -> None:
    assert holds(log())
    assert export_holds(exported(log()))


@given(at=st.integers(0, ENTRIES - 1), field=FIELDS, value=VALUES)
def test_any_altered_field_of_any_entry_is_found(at: int, field: str, value: object) -> None:
    entries = log()
    assume(entries[at][field] != value or type(entries[at][field]) is not type(value))
    entries[at][field] = value

    assert not holds(entries)
    assert not export_holds(exported_with(entries))


def exported_with(entries: list[Entry]) -> list[str]:
    """The file as it was exported, with these entries put into it."""
    header, *_, footer = exported(log())
    return [header, *(canonical(entry) + "\n" for entry in entries), footer]


@given(at=st.integers(0, ENTRIES - 1))
def test_any_removed_entry_is_found(at: int) -> None:
    entries = log()
    del entries[at]

    assert not export_holds(exported_with(entries))
    assert at == ENTRIES - 1 or not holds(entries)  # the last one: see the signed heads


@given(at=st.integers(0, ENTRIES), forged=st.sampled_from(range(ENTRIES)))
def test_any_inserted_entry_is_found(at: int, forged: int) -> None:
    entries = log()
    entries.insert(at, log()[forged])

    assert not holds(entries)
    assert not export_holds(exported_with(entries))


@given(order=st.permutations(range(ENTRIES)))
def test_any_other_order_is_found(order: list[int]) -> None:
    assume(order != sorted(order))
    entries = [log()[at] for at in order]

    assert not holds(entries)
    assert not export_holds(exported_with(entries))


@given(
    at=st.integers(0, ENTRIES - 1),
    reason=st.text(max_size=20).filter(lambda text: text != "stolen"),
)
def test_a_chain_worked_out_anew_does_not_fit_the_signature(at: int, reason: str) -> None:
    forged = log()
    forged[at]["reason"] = reason
    forged = chained([{k: v for k, v in e.items() if k != "hash"} for e in forged])

    assert holds(forged)
    assert not export_holds(exported_with(forged))


@given(data=st.data())
def test_any_changed_byte_of_an_export_is_found(data: st.DataObject) -> None:
    content = bytearray("".join(exported(log(2))).encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))

    with pytest.raises(AuditBroken):
        export_file.verify(io.BytesIO(bytes(content)), signer().public_key)


@given(end=st.integers(0, 1500))
def test_an_export_cut_off_anywhere_is_found(end: int) -> None:
    content = "".join(exported(log(2))).encode()
    assume(end < len(content))

    with pytest.raises(AuditBroken):
        export_file.verify(io.BytesIO(content[:end]), signer().public_key)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:1], lines[1].replace('"reason"', '"reason":"x","reason"')],
        lambda lines: [*lines[:1], " " + lines[1]],
        lambda lines: [*lines[:1], "[" * 100000 + "\n"],
        lambda lines: ["{}\n", *lines[1:]],
        lambda lines: [lines[0].replace('"version":1', '"version":2'), *lines[1:]],
        lambda lines: [*lines[:-1], lines[-1].replace('"keyid"', '"jeyid"')],
        lambda lines: [*lines[:-1], with_capitals(lines[-1])],
        lambda lines: [*lines, "\n"],
        lambda lines: [*lines[:-1], lines[1]],
    ],
)
def test_what_only_looks_like_an_export_is_refused(
    change: Callable[[list[str]], list[str]],
) -> None:
    assert not export_holds(change(exported(log())))


def test_an_export_signed_by_somebody_else_is_refused() -> None:
    other = CryptoSigner.generate_ed25519()

    with pytest.raises(AuditBroken, match="not by"):
        export_file.verify(io.BytesIO("".join(exported(log())).encode()), other.public_key)


# --- in a real database --------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = migrated_store(tmp_path)
    with store.transaction() as tx:
        for number in range(1, ENTRIES + 1):
            audit.append(tx, at=NOON, actor="operator:a", action="b.c", subject=f"s-{number}")
    return store


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET reason = 'x' WHERE sequence = 3",
        "DELETE FROM audit WHERE sequence > 4",
        "DELETE FROM audit_heads",
        "UPDATE audit_heads SET hash = 'x'",
    ],
)
def test_the_database_refuses_to_change_the_log(database_url: str, statement: str) -> None:
    store = Store(database_url)
    with store.transaction() as tx:
        audit.append(tx, at=NOON, actor="operator:a", action="b.c", subject="s")
        row = audit_heads.HeadRow(sequence=1, hash="h", signed="{}", signed_at=NOON)
        audit_heads.put(tx, row)

    with pytest.raises(DBAPIError, match="append-only"), store.transaction() as tx:
        # On SQLite a trigger for each row sees rows alone.
        tx.execute(text(statement.replace("= 3", "= 1").replace("> 4", "> 0")))
    store.close()


@pytest.mark.parametrize("table", ["audit", "audit_heads"])
def test_sqlite_refuses_to_put_another_row_in_a_row_s_place(store: Store, table: str) -> None:
    with store.transaction() as tx:
        row = audit_heads.HeadRow(sequence=1, hash="h", signed="{}", signed_at=NOON)
        audit_heads.put(tx, row)

    again = f"INSERT OR REPLACE INTO {table} SELECT * FROM {table} WHERE sequence = 1"  # noqa: S608
    with pytest.raises(DBAPIError, match="append-only"), store.transaction() as tx:
        tx.execute(text(again))


def test_the_head_is_signed_once_for_what_there_is(store: Store, tmp_path: Path) -> None:
    keys = tmp_path / "keys"

    assert checking.keep_head(store, keys, fleet=FLEET, now=NOON)
    assert not checking.keep_head(store, keys, fleet=FLEET, now=NOON + timedelta(hours=1))

    with store.read() as tx:
        newest = audit.page(tx, after=ENTRIES)
        found = checking.check(tx)
    assert [row.action for row in newest] == [checking.KEY_ACTION]
    assert (found.broken_at, found.heads, found.entries) == (None, 1, ENTRIES + 1)


def test_a_tail_that_was_cut_off_shows_against_the_head_in_the_database(
    store: Store, tmp_path: Path
) -> None:
    checking.keep_head(store, tmp_path / "keys", fleet=FLEET, now=NOON)
    with store.transaction() as tx:
        unlock(tx)
        tx.execute(text("DELETE FROM audit WHERE sequence > 4"))

    with store.read() as tx:
        found = checking.check(tx)
    assert found.broken_at == 5
    assert "cut off" in found.problem


def test_a_log_and_heads_worked_out_anew_do_not_fit_the_head_kept_elsewhere(
    store: Store, tmp_path: Path
) -> None:
    checking.keep_head(store, tmp_path / "keys", fleet=FLEET, now=NOON)
    with store.read() as tx:
        kept = checking.sign_now(tx, signed_head.open_key(tmp_path / "keys"), fleet=FLEET, now=NOON)
        entries = list(audit.entries(tx))
    entries[1]["reason"] = "nothing happened"
    forged = chained([{k: v for k, v in e.items() if k != "hash"} for e in entries])
    with store.transaction() as tx:
        unlock(tx)
        tx.execute(text("DELETE FROM audit_heads"))
        tx.execute(text("DELETE FROM audit"))
        for entry in forged:
            tx.execute(insert(tables.audit).values(**entry))

    with store.read() as tx:
        assert checking.check(tx).broken_at is None  # nothing in the database tells
        with pytest.raises(AuditBroken, match="worked out anew"):
            checking.compare(tx, [kept], FLEET)


def test_a_head_that_was_forged_in_the_database_is_found(store: Store, tmp_path: Path) -> None:
    checking.keep_head(store, tmp_path / "keys", fleet=FLEET, now=NOON)
    with store.transaction() as tx:
        unlock(tx)
        tx.execute(text("UPDATE audit_heads SET signed = replace(signed, 'demo', 'other')"))

    with store.read() as tx:
        found = checking.check(tx)
    assert found.broken_at == ENTRIES + 1
    assert "signature" in found.problem


def test_a_log_worked_out_anew_and_signed_by_somebody_else_is_found(
    store: Store, tmp_path: Path
) -> None:
    ours = signed_head.open_key(tmp_path / "keys").public_key.keyid
    checking.keep_head(store, tmp_path / "keys", fleet=FLEET, now=NOON)
    with store.read() as tx:
        assert checking.check(tx, ours).broken_at is None

    with store.transaction() as tx:
        audit.append(tx, at=NOON, actor="operator:a", action="b.c", subject="s")
    checking.keep_head(store, tmp_path / "theirs", fleet=FLEET, now=NOON)

    with store.read() as tx:
        found = checking.check(tx, ours)
    assert found.broken_at is not None
    assert "somebody else" in found.problem


def test_a_head_of_another_fleet_is_no_anchor_of_this_one(store: Store, tmp_path: Path) -> None:
    with store.read() as tx:
        kept = checking.sign_now(tx, signer(), fleet="other", now=NOON)
        with pytest.raises(AuditBroken, match="fleet other"):
            checking.compare(tx, [kept], FLEET)
