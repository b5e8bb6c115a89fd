"""A person looks into a device's journal: read only, bounded, and the agent writes on meanwhile."""

import csv
import io
import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mailboat_agent.cli import main
from mailboat_agent.journal import inspection as inspection_module
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.inspection import Inspection, InspectorMissing, QueryRefused
from mailboat_agent.journal.inspection_bounds import (
    QUERY_ROWS,
    QUERY_ROWS_MAX,
    STATEMENT_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from mailboat_agent.journal.inspection_command import CELL_LENGTH_MAX
from mailboat_schemas.errors import NotFound
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.reports import TelemetryWindow


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Open, as that of an agent that runs."""
    with closing(Journal(tmp_path / "journal.db", random.Random(1))) as journal:
        for number in range(3):
            journal.record_event(
                Event(
                    event_id=f"e:{number}",
                    sequence=1,
                    kind=EventKind.COMMITTED,
                    observed_at=0,
                    because='done, "as agreed"',
                )
            )
        journal.record_window(window())
        yield journal


def window() -> TelemetryWindow:
    return TelemetryWindow(
        sequence=1, model="vad", version="1.0.0", digest="a" * 64, started_at=0, seconds=60,
        requests_ok=7, requests_error=0,
    )  # fmt: skip


@pytest.fixture
def inspection(journal: Journal, tmp_path: Path) -> Inspection:
    return Inspection(tmp_path / "journal.db")


def test_it_says_which_tables_there_are(inspection: Inspection) -> None:
    rows = {row["table"]: row["rows"] for row in inspection.tables()}
    assert (rows["events"], rows["windows"]) == (3, 1)


def test_a_query_reads_content_as_json(inspection: Inspection) -> None:
    rows, more = inspection.query(
        "SELECT sequence, json_extract(decoded(content), '$.because') AS because FROM events"
    )

    assert rows[2] == {"sequence": 3, "because": 'done, "as agreed"'}
    assert not more
    ((row,), _) = inspection.query("SELECT content, hash FROM windows")
    assert row["content"]["requests_ok"] == 7
    assert len(row["hash"]) == 16


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events",
        "UPDATE meta SET value = 'x'",
        "CREATE TABLE mine (x)",
        "CREATE TEMP TABLE mine (x)",
        "ATTACH ':memory:' AS other",
        "PRAGMA journal_mode = DELETE",
        f"SELECT length(zeroblob({VALUE_BYTES_MAX + 1}))",
        f"SELECT hex(zeroblob({VALUE_BYTES_MAX}))",
        "no sql at all",
        "SELECT " + "x" * STATEMENT_BYTES_MAX,
    ],
)
def test_nothing_can_be_changed(inspection: Inspection, journal: Journal, statement: str) -> None:
    with pytest.raises(QueryRefused):
        inspection.query(statement)

    assert journal.span_events().last == 3
    assert len(inspection.query("SELECT * FROM events")[0]) == 3


def test_no_file_can_be_written_from_a_query(inspection: Inspection, tmp_path: Path) -> None:
    with pytest.raises(QueryRefused):
        inspection.query(f"VACUUM INTO '{tmp_path / 'copy.db'}'")

    assert not (tmp_path / "copy.db").exists()


def test_an_answer_has_a_bound_in_rows_and_in_bytes(
    inspection: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, more = inspection.query("SELECT * FROM events", rows_max=2)
    assert (len(rows), more) == (2, True)

    monkeypatch.setattr(inspection_module, "RESULT_BYTES_MAX", 100)
    with pytest.raises(QueryRefused, match="The answer is over"):
        inspection.query("SELECT * FROM events")


def test_a_query_without_an_end_is_broken_off(
    inspection: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection_module, "QUERY_SECONDS_MAX", 0.05)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"

    with pytest.raises(QueryRefused, match="longer than"):
        inspection.query(endless)


def test_the_agent_writes_on_while_somebody_reads(inspection: Inspection, journal: Journal) -> None:
    exported = inspection.export("events")
    assert next(exported)["event_id"] == "e:0"

    database = inspection._open()  # in the middle of a read, and left there
    reading = database.query("SELECT * FROM events")
    assert next(reading)["sequence"] == 1
    journal.record_window(window())
    assert journal.held_telemetry().windows == 2
    journal.acknowledge(2, 0)
    database.close()

    assert [row["sequence"] for row in inspection.query("SELECT sequence FROM events")[0]] == [3]


def test_a_journal_at_rest_is_read_too_and_left_as_it_is(tmp_path: Path, journal: Journal) -> None:
    journal.close()
    path = tmp_path / "journal.db"
    before = path.read_bytes()

    assert len(list(Inspection(path).export("events"))) == 3

    assert path.read_bytes() == before


def test_an_export_goes_on_page_by_page(
    inspection: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection_module, "EXPORT_ROWS_AT_ONCE", 2)

    assert [row["event_id"] for row in inspection.export("events")] == ["e:0", "e:1", "e:2"]
    with pytest.raises(QueryRefused, match="no table to export"):
        list(inspection.export("meta"))


def test_a_damaged_file_is_said_and_not_repaired(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database" * 1000)

    with pytest.raises(QueryRefused, match="not a database"):
        Inspection(tmp_path / "journal.db").tables()
    with pytest.raises(NotFound):
        Inspection(tmp_path / "none.db")


def test_a_damaged_row_is_shown_as_it_is(tmp_path: Path, inspection: Inspection) -> None:
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database, database:
        database.execute("UPDATE events SET content = x'00ff' WHERE sequence = 2")

    assert [type(row["content"]) for row in inspection.export("events")] == [dict, str, dict]


def test_without_the_extra_it_is_said_what_to_install(
    inspection: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sqlite_utils", None)

    with pytest.raises(InspectorMissing) as error:
        inspection.tables()
    assert "mailboat[inspect]" in error.value.next_step


def test_the_command_line_gives_tables_json_and_csv(
    tmp_path: Path, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert main(["db", *arguments, "--file", str(tmp_path / "journal.db")]) == 0
        return capsys.readouterr().out

    assert said("tables").splitlines()[0].split() == ["table", "rows", "columns"]
    assert json.loads(said("tables", "--json"))["tables"]
    lines = said("query", "SELECT sequence FROM events", "--rows", "2").splitlines()
    assert lines == ["sequence", "1", "2", "... and more than these 2; see --rows"]
    answer = json.loads(said("query", "SELECT sequence FROM events WHERE sequence > 9", "--json"))
    assert answer == {"rows": [], "more": False}
    exported = [json.loads(line) for line in said("export", "events").splitlines()]
    assert [row["content"]["kind"] for row in exported] == ["committed"] * 3
    table = list(csv.reader(io.StringIO(said("export", "events", "--format", "csv"))))
    assert table[0] == ["sequence", "event_id", "content", "hash"]
    assert json.loads(table[1][2])["because"] == 'done, "as agreed"'


def test_a_refused_query_ends_the_command_with_a_next_step(
    tmp_path: Path, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["db", "query", "DROP TABLE events", "--file", str(tmp_path / "journal.db")]) == 1
    assert "it can only be read" in capsys.readouterr().err


def test_a_table_for_people_has_bounds_and_does_not_speak_to_the_terminal(
    tmp_path: Path, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    said = f"\x1b[2J\r{'x' * 100}"
    journal.record_event(
        Event(event_id="e:9", sequence=1, kind=EventKind.SECURITY, observed_at=0, because=said)
    )
    statement = "SELECT json_extract(decoded(content), '$.because') AS said FROM events"

    assert main(["db", "query", statement, "--file", str(tmp_path / "journal.db")]) == 0

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\r" not in out
    assert max(len(line) for line in out.splitlines()) == CELL_LENGTH_MAX


@pytest.mark.parametrize("rows", ["0", str(QUERY_ROWS_MAX + 1), "many"])
def test_more_rows_than_may_be_asked_for_are_refused(
    capsys: pytest.CaptureFixture[str], rows: str
) -> None:
    with pytest.raises(SystemExit):
        main(["db", "query", "SELECT 1", "--rows", rows])
    assert f"from 1 to {QUERY_ROWS_MAX}" in capsys.readouterr().err


def test_a_query_gives_so_many_rows_unless_told_otherwise(inspection: Inspection) -> None:
    rows, more = inspection.query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1001) SELECT i FROM n"
    )
    assert (len(rows), more) == (QUERY_ROWS, True)
