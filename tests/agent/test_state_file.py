"""The state survives anything that happens to its file, and is never half of two states."""

import errno
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from kill_points import killed_at_each_point, recorded_calls, refused_at_each_point
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.state_file import (
    FAILED_MAX,
    STATE_BYTES_MAX,
    DeviceState,
    Installed,
    ModelState,
    StateFile,
    encode_state,
)
from mailboat_schemas.errors import DiskFull
from mailboat_schemas.reports import ModelPhase
from small_disk import run_on_small_disk

TRIAL = ModelState(
    phase=ModelPhase.TRIAL,
    active=Installed(version="1.1.0", digest="b" * 64),
    previous=Installed(version="1.0.0", digest="a" * 64),
    tries=3,
    install=2,
    retry_epoch=1,
    outcome="committed",
    outcome_version="1.0.0",
    outcome_digest="a" * 64,
    security_version=4,
    failed={"c" * 64: 0},
)
STATE = DeviceState(
    session=7, time_floor=1_700_000_000, manifest_counter=12, director_keyid="d" * 64,
    models={"vad": TRIAL},
)  # fmt: skip


def saved_twice(directory: Path) -> StateFile:
    """Generation 1 has session 1, generation 2 has session 2."""
    file = StateFile(directory)
    file.save(DeviceState(session=1))
    file.save(DeviceState(session=2))
    return StateFile(directory)


def test_a_new_device_has_an_empty_state_and_no_problem(tmp_path: Path) -> None:
    file = StateFile(tmp_path)

    assert file.load() == DeviceState()
    assert file.problems == ()


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    saved = StateFile(tmp_path).save(STATE)

    assert saved == replace(STATE, generation=1)
    assert StateFile(tmp_path).load() == saved


def test_generations_go_up_also_from_an_old_value(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    first = file.save(STATE)
    second = file.save(first)
    third = file.save(first)

    assert [first.generation, second.generation, third.generation] == [1, 2, 3]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: bytes(len(content)), id="zero-filled"),
        pytest.param(lambda content: content[:-10], id="truncated"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda content: content.replace(b'"session":2', b'"session":9'), id="crc"),
        pytest.param(lambda content: content + b" ", id="trailing"),
        pytest.param(lambda content: b"\xff\xfe" + content, id="not-utf-8"),
        pytest.param(lambda _: b"[" * 100_000, id="deeply-nested"),
        pytest.param(lambda _: b" " * (STATE_BYTES_MAX + 1), id="too-long"),
        pytest.param(
            lambda _: b'{"crc32":"%08x","state":[1]}\n' % zlib.crc32(b"[1]"), id="other-shape"
        ),
    ],
)
def test_a_damaged_state_falls_back_one_generation(tmp_path: Path, damage: object) -> None:
    file = saved_twice(tmp_path)
    path = tmp_path / "state.json"
    assert callable(damage)
    path.write_bytes(damage(path.read_bytes()))

    state = file.load()

    assert (state.session, state.generation) == (1, 1)
    assert len(file.problems) == 1
    assert file.problems[0].startswith("state.json:")


def test_a_lost_state_falls_back_too_and_says_so(tmp_path: Path) -> None:
    file = saved_twice(tmp_path)
    (tmp_path / "state.json").unlink()

    assert file.load().session == 1
    assert file.problems == ("state.json: missing",)


def test_a_directory_in_place_of_the_state_is_just_another_damage(tmp_path: Path) -> None:
    file = saved_twice(tmp_path)
    (tmp_path / "state.json").unlink()
    (tmp_path / "state.json").mkdir()

    assert file.load().session == 1


def test_with_both_copies_damaged_the_device_starts_empty_and_says_so(tmp_path: Path) -> None:
    file = saved_twice(tmp_path)
    (tmp_path / "state.json").write_bytes(bytes(100))
    (tmp_path / "state.json.prev").write_bytes(bytes(100))

    assert file.load() == DeviceState()
    assert len(file.problems) == 2


def test_the_good_copy_is_not_replaced_by_the_damaged_one(tmp_path: Path) -> None:
    file = saved_twice(tmp_path)
    (tmp_path / "state.json").write_bytes(bytes(100))
    state = file.load()

    saved = file.save(replace(state, session=3))
    (tmp_path / "state.json").write_bytes(bytes(100))

    assert saved.generation == 2
    assert StateFile(tmp_path).load().session == 1


def test_a_field_this_version_does_not_know_is_ignored(tmp_path: Path) -> None:
    body = b'{"generation":5,"session":3,"models":{"vad":{"phase":"absent","new":1}},"newer":[1]}'
    content = b'{"crc32":"%08x","state":%b}\n' % (zlib.crc32(body), body)
    (tmp_path / "state.json").write_bytes(content)

    state = StateFile(tmp_path).load()

    assert (state.generation, state.session, state.models) == (5, 3, {"vad": ModelState()})


def test_saving_may_die_anywhere(tmp_path: Path) -> None:
    def save(directory: Path) -> None:
        file = StateFile(directory)
        file.save(replace(file.load(), session=3))

    sessions = []
    for directory in killed_at_each_point(tmp_path, saved_twice, save):
        file = StateFile(directory)
        sessions.append(file.load().session)
        assert file.problems == ()

    assert sorted(set(sessions)) == [2, 3]
    assert sessions == sorted(sessions)


def test_the_copy_is_durable_before_the_state_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved_twice(tmp_path)
    state = file.load()
    done = recorded_calls(monkeypatch, tmp_path)

    file.save(state)

    assert done == [
        "fsync state.json.prev.new",
        "rename state.json.prev.new -> state.json.prev",
        "fsync .",
        "fsync state.json.new",
        "rename state.json.new -> state.json",
        "fsync .",
    ]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_leaves_a_state_that_was_saved(tmp_path: Path, error: int) -> None:
    def save(directory: Path) -> None:
        file = StateFile(directory)
        file.save(replace(file.load(), session=3))

    for directory in refused_at_each_point(
        tmp_path,
        saved_twice,
        save,
        error=error,
        expected=(DiskFull, DiskFailing),
    ):
        assert StateFile(directory).load().session in (2, 3)


def test_on_a_full_disk_the_ballast_makes_room_for_the_state_once(tmp_path: Path) -> None:
    run_on_small_disk(
        tmp_path / "disk",
        2 << 20,
        """
        from mailboat_agent.ballast import restore_ballast
        from mailboat_agent.state_file import DeviceState, StateFile
        from mailboat_schemas.errors import DiskFull

        file = StateFile(DISK)
        file.save(DeviceState(session=1))
        restore_ballast(DISK)
        fill()
        file.save(DeviceState(session=2))
        assert not (DISK / "ballast").exists()
        assert StateFile(DISK).load().session == 2

        fill()
        try:
            file.save(DeviceState(session=3))
        except DiskFull:
            pass
        else:
            raise AssertionError("no DiskFull")
        assert StateFile(DISK).load().session == 2
        """,
    )


def test_failures_are_remembered_up_to_a_bound_and_the_oldest_goes_first() -> None:
    state = ModelState()
    for number in range(FAILED_MAX + 1):
        state = state.with_failed(f"{number:064x}", retry_epoch=0)
    assert len(state.failed) == FAILED_MAX
    assert f"{0:064x}" not in state.failed

    state = state.with_failed(f"{1:064x}", retry_epoch=2)  # failed again: the newest now
    state = state.with_failed("f" * 64, retry_epoch=0)

    assert state.failed[f"{1:064x}"] == 2
    assert f"{2:064x}" not in state.failed
    assert len(replace(state, failed={**state.failed, "e" * 64: 0}).failed) == FAILED_MAX


def test_a_full_state_stays_below_the_bound_of_its_file() -> None:
    failed = {f"{number:064x}": 1 << 40 for number in range(FAILED_MAX)}
    model = replace(TRIAL, failed=failed, outcome_because="x" * 1000)
    state = DeviceState(models={f"{number:063x}": model for number in range(64)})

    assert len(encode_state(state)) < STATE_BYTES_MAX
