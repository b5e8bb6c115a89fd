"""The model of power loss against small programs of which everybody knows what may be lost."""

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.power_directory import materialise
from tests.faults.power_states import State, States, final_state
from tests.faults.power_trace import Trace, trace
from tests.faults.traced_run import why_not_traceable

from mailboat_agent.atomic_file import replace_durably

pytestmark = pytest.mark.skipif(bool(why_not_traceable()), reason=why_not_traceable() or "-")


def outcomes(
    tmp_path: Path, act: Callable[[Path], object], before: dict[str, bytes] | None = None
) -> list[State]:
    return list(States(traced(tmp_path, act, before).recording))


def traced(
    tmp_path: Path, act: Callable[[Path], object], before: dict[str, bytes] | None = None
) -> Trace:
    start = tmp_path / "before"
    start.mkdir()
    for name, content in (before or {}).items():
        (start / name).write_bytes(content)
    found = trace(start, tmp_path / "run", tmp_path / "told", act, tmp_path / "log")
    assert found.status == 0
    return found


def contents(states: list[State], *, after: bytes = b"") -> set[tuple[tuple[str, bytes], ...]]:
    """The directories that are possible once the outside was told ``after``."""
    return {
        tuple((path, state.contents[inode]) for path, inode in state.files)
        for state in states
        if state.told.startswith(after)
    }


def say(directory: Path, word: bytes) -> None:
    told = os.open(directory.with_name("told"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(told, word)
    os.close(told)


def write(path: Path, content: bytes, *, sync: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, content)
    if sync:
        os.fsync(descriptor)
    os.close(descriptor)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def test_a_write_without_fsync_may_be_lost_torn_or_zeros(tmp_path: Path) -> None:
    def act(directory: Path) -> None:
        write(directory / "a", b"1234", sync=False)
        sync_directory(directory)
        say(directory, b"!")

    found = contents(outcomes(tmp_path, act), after=b"!")

    assert found == {(("a", c),) for c in (b"1234", b"12", b"", b"\0\0\0\0", b"\0\x0034")}


def test_a_synced_file_whose_directory_is_not_synced_may_be_gone(tmp_path: Path) -> None:
    def act(directory: Path) -> None:
        write(directory / "a", b"1234", sync=True)
        say(directory, b"!")

    assert contents(outcomes(tmp_path, act), after=b"!") == {(("a", b"1234"),), ()}


def test_a_rename_whose_directory_is_not_synced_may_be_lost(tmp_path: Path) -> None:
    def act(directory: Path) -> None:
        (directory / "new").rename(directory / "a")
        say(directory, b"!")

    found = contents(outcomes(tmp_path, act, {"a": b"old", "new": b"new"}), after=b"!")

    assert found == {(("a", b"new"),), (("a", b"old"), ("new", b"new"))}


def test_write_fsync_rename_and_fsync_of_the_directory_lose_nothing(tmp_path: Path) -> None:
    def act(directory: Path) -> None:
        replace_durably(directory / "a", b"new")
        say(directory, b"!")

    states = outcomes(tmp_path, act, {"a": b"old"})

    assert contents(states, after=b"!") == {(("a", b"new"),)}
    assert {dict(names)["a"] for names in contents(states)} == {b"old", b"new"}


def test_a_rename_before_the_fsync_may_show_half_a_file(tmp_path: Path) -> None:
    def act(directory: Path) -> None:
        write(directory / "new", b"1234", sync=False)
        (directory / "new").rename(directory / "a")
        sync_directory(directory)

    found = {dict(names).get("a") for names in contents(outcomes(tmp_path, act, {"a": b"old"}))}

    assert found == {b"old", b"1234", b"12", b"", b"\0\0\0\0", b"\0\x0034"}


def test_only_the_weak_model_loses_an_earlier_rename_and_keeps_a_later_one(tmp_path: Path) -> None:
    def act(directory: Path) -> None:
        (directory / "1").rename(directory / "a")
        (directory / "2").rename(directory / "b")

    states = outcomes(tmp_path, act, {"1": b"1", "2": b"2"})

    (reordered,) = [s for s in states if {path for path, _ in s.files} == {"1", "b"}]
    assert reordered.because.startswith("weak")
    assert {tuple(path for path, _ in state.files) for state in states} == {
        ("1", "2"),
        ("2", "a"),
        ("a", "b"),
        ("1", "b"),
    }


def test_a_rename_into_another_directory_never_loses_both_names(tmp_path: Path) -> None:
    def act(directory: Path) -> None:
        (directory / "store").mkdir()
        sync_directory(directory)
        say(directory, b"!")
        (directory / "part").rename(directory / "store" / "done")
        sync_directory(directory)
        say(directory, b"?")

    states = outcomes(tmp_path, act, {"part": b"1"})

    names = {tuple(path for path, _ in state.files) for state in states}
    assert names == {("part",), ("store/done",), ("part", "store/done")}
    # The old name is durably gone, so the new one is durably there.
    after = {tuple(path for path, _ in state.files) for state in states if b"?" in state.told}
    assert after == {("store/done",)}


def test_a_file_that_is_overwritten_in_place_may_be_old_new_or_both(tmp_path: Path) -> None:
    def act(directory: Path) -> None:
        write(directory / "a", b"NEWS", sync=False)

    found = contents(outcomes(tmp_path, act, {"a": b"olds"}))

    assert found == {(("a", c),) for c in (b"olds", b"NEWS", b"NEds", b"olWS")}


def test_a_long_write_is_torn_between_sectors(tmp_path: Path) -> None:
    def act(directory: Path) -> None:
        write(directory / "a", b"n" * 2000, sync=False)

    found = {dict(names)["a"] for names in contents(outcomes(tmp_path, act, {"a": b"o" * 2000}))}

    assert b"n" * 512 + b"o" * 1488 in found
    assert b"n" * 1000 + b"o" * 1000 in found


def test_what_was_told_is_told_in_every_state_from_then_on(tmp_path: Path) -> None:
    def act(directory: Path) -> None:
        say(directory, b"1")
        write(directory / "a", b"x", sync=True)
        say(directory, b"2")

    assert {state.told for state in outcomes(tmp_path, act)} == {b"", b"1", b"12"}


def test_descriptors_are_followed_over_fork_dup_append_and_threads(tmp_path: Path) -> None:
    """`trace` itself raises when the model's end is not, byte for byte, the directory's."""

    def act(directory: Path) -> None:
        appends = os.open(directory / "a", os.O_WRONLY | os.O_APPEND)
        again = os.dup(appends)
        os.write(appends, b"1")
        os.writev(again, [b"2", b"3"])
        child = os.fork()
        if child == 0:
            os.write(appends, b"4")
            os._exit(0)
        os.waitpid(child, 0)
        thread = threading.Thread(target=lambda: os.write(again, b"5"))
        thread.start()
        thread.join()
        both = os.open(directory / "b", os.O_RDWR | os.O_CREAT)
        os.pwrite(both, b"zz", 3)
        os.read(both, 2)
        os.write(both, b"y")
        os.lseek(both, 1, os.SEEK_END)
        os.write(both, b"!")
        os.ftruncate(both, 20)
        (directory / "b").unlink()
        cut = os.open(directory / "cut", os.O_RDWR)
        os.ftruncate(cut, 2)
        os.ftruncate(cut, 5)
        os.write(both, b"nobody sees this")
        os.link(directory / "a", directory / "second-name")
        os.write(appends, b"6")
        (directory / "deep" / "down").mkdir(parents=True)
        (directory / "deep").rename(directory / "moved")
        (directory / "shortcut").symlink_to("moved/down")
        (directory / "shortcut" / "c").write_bytes(b"c" * 100_000)

    final = final_state(traced(tmp_path, act, {"a": b"0", "cut": b"123456"}).recording)
    assert final.contents[dict(final.files)["cut"]] == b"12\0\0\0"
    assert final.contents[dict(final.files)["a"]] == b"0123456"


def test_a_state_on_disk_is_the_state(tmp_path: Path) -> None:
    def act(directory: Path) -> None:
        (directory / "deep").mkdir()
        write(directory / "deep" / "a", b"x" * 5000, sync=True)
        os.link(directory / "deep" / "a", directory / "again")

    states = outcomes(tmp_path, act)
    for state in states:
        materialise(state, tmp_path / "state")
        there = {p.name for p in (tmp_path / "state").rglob("*") if p.is_file()}
        assert there == {path.rsplit("/", 1)[-1] for path, _ in state.files}
        names = [tmp_path / "state" / name for name in ("again", "deep/a")]
        if all(name.exists() for name in names):
            assert names[0].samefile(names[1])


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_sqlite_loses_an_acknowledged_row_only_without_synchronous_full(
    tmp_path: Path, synchronous: str
) -> None:
    def act(directory: Path) -> None:
        connection = sqlite3.connect(directory / "a.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("CREATE TABLE t (x)")
        sync_directory(directory)
        for row in range(3):
            connection.execute("INSERT INTO t VALUES (?)", (row,))
            say(directory, b"!")
        os._exit(0)

    lost = 0
    for state in outcomes(tmp_path, act):
        materialise(state, tmp_path / "state")
        lost += _rows(tmp_path / "state" / "a.db") < len(state.told)

    assert (lost == 0) == (synchronous == "FULL")


def _rows(path: Path) -> int:
    if not path.exists():
        return 0
    connection = sqlite3.connect(path)
    try:
        (rows,) = connection.execute("SELECT count(*) FROM t").fetchone()
    except sqlite3.DatabaseError:
        return 0
    finally:
        connection.close()
    return int(rows)
