"""What the rows of the journal look like, and how each proves itself whole.

SQLite has no checksums of its own: every row carries 64 bits of a hash over everything it says.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from mailboat_agent.journal.database import Connection, Damaged
from mailboat_schemas.codec import encode, unpacked_size_bytes
from mailboat_schemas.errors import PayloadTooLarge
from mailboat_schemas.events import Event

# Names in `meta`.
EPOCH = "epoch"
EVENTS_ACKNOWLEDGED = "events_acknowledged"
EVENTS_GIVEN, WINDOWS_GIVEN = "events_given", "windows_given"  # the last sequence that was given
WINDOWS_RECORDED = "windows_recorded"  # the last number that a window was recorded under
WINDOWS_MERGED, WINDOWS_DROPPED = "windows_merged", "windows_dropped"  # counts, of this epoch
BATCH_BESIDE_ROWS_BYTES = 4096  # unpacked: device, epoch and what frames the rows
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE,
    content BLOB NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE TABLE told (sequence INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE windows (
    number INTEGER PRIMARY KEY, series TEXT NOT NULL, level INTEGER NOT NULL,
    started_at INTEGER NOT NULL, seconds REAL NOT NULL, bytes INTEGER NOT NULL,
    sequence INTEGER UNIQUE, content BLOB NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE INDEX windows_by_level ON windows (level, number, bytes);
CREATE INDEX windows_by_series ON windows (series, level, started_at)
"""
EVENTS_FROM = """
SELECT sequence, event_id, content, hash FROM events WHERE sequence >= ? ORDER BY sequence LIMIT ?
"""


def encode_event(event: Event) -> bytes:
    try:
        return encode(event)
    except PayloadTooLarge:
        # A state event is never dropped; its evidence may be.
        return encode(event.model_copy(update={"evidence": {"dropped": "too large"}}))


def insert_event(connection: Connection, event: Event) -> None:
    content = encode_event(event)
    digest = row_hash(event.sequence, event.event_id, content)
    connection.execute(
        "INSERT INTO events VALUES (?, ?, ?, ?)", (event.sequence, event.event_id, content, digest)
    )


def sequence_of(connection: Connection, event_id: str) -> int | None:
    row = connection.execute(
        "SELECT sequence FROM events WHERE event_id = ? "
        "UNION ALL SELECT sequence FROM told WHERE event_id = ?",
        (event_id, event_id),
    ).fetchone()
    return None if row is None else int(row[0])


def last_event(connection: Connection) -> int:
    """The last sequence that was given, also when every row is gone. SQLite would remember it for
    AUTOINCREMENT, but nothing would say whether that number is still what it was."""
    return int(read_meta(connection, EVENTS_GIVEN))


def acknowledged(connection: Connection) -> int:
    return int(read_meta(connection, EVENTS_ACKNOWLEDGED))


def read_meta(connection: Connection, name: str) -> str:
    query = "SELECT value, hash FROM meta WHERE name = ?"
    row = connection.execute(query, (name,)).fetchone()
    if row is None or row[1] != row_hash(0, name, str(row[0]).encode()):
        raise Damaged(f"{name} does not hold")
    return str(row[0])


def set_meta(connection: Connection, name: str, value: str) -> None:
    digest = row_hash(0, name, value.encode())
    connection.execute("REPLACE INTO meta VALUES (?, ?, ?)", (name, value, digest))


def row_hash(sequence: int, key: str, content: bytes) -> bytes:
    """64 bits over everything a row says: SQLite has no checksums of its own."""
    return hashlib.sha256(b"%d\0%b\0%b" % (sequence, key.encode(), content)).digest()[:8]


def is_whole(row: Sequence[Any]) -> bool:
    sequence, key, content, digest = row
    as_written = isinstance(key, str) and isinstance(content, bytes)
    return as_written and bool(row_hash(sequence, key, content) == digest)


class BatchSize:
    """What rows take together. Each holds its content compressed; side by side in a batch they
    count unpacked too, and what repeats itself, as lines of a log do, is small only on the disk."""

    def __init__(self, bytes_max: int, unpacked_bytes_max: float = math.inf) -> None:
        self._left_bytes = bytes_max
        self._left_unpacked_bytes = unpacked_bytes_max - BATCH_BESIDE_ROWS_BYTES
        self._rows = 0

    def takes(self, content: object) -> bool:
        """Whether one more row finds room; the first always does. A damaged one may hold
        anything."""
        if isinstance(content, bytes):
            self._left_bytes -= len(content)
            self._left_unpacked_bytes -= unpacked_size_bytes(content)
        self._rows += 1
        return self._rows == 1 or min(self._left_bytes, self._left_unpacked_bytes) >= 0
