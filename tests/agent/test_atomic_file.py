"""Durable replacement: the old content or the new, whatever happens in between."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from kill_points import killed_at_each_point, recorded_calls, refused_at_each_point
from mailboat_agent.atomic_file import DiskFailing, LockedDirectory, replace_durably
from mailboat_agent.ballast import BALLAST_BYTES, ballast_bytes, give_up_ballast, restore_ballast
from mailboat_schemas.errors import ConfigurationInvalid, DiskFull

OLD, NEW = b"old" * 50, b"new" * 5000


def write_old(directory: Path) -> None:
    (directory / "file").write_bytes(OLD)


def write_new(directory: Path) -> None:
    replace_durably(directory / "file", NEW)


def test_a_file_replaced_is_whole_wherever_the_process_dies(tmp_path: Path) -> None:
    seen = [
        (directory / "file").read_bytes()
        for directory in killed_at_each_point(tmp_path, write_old, write_new)
    ]

    assert set(seen) == {OLD, NEW}
    assert seen[-1] == NEW


@pytest.mark.parametrize(
    ("error", "expected"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, DiskFailing)],
)
def test_a_disk_that_refuses_leaves_the_old_file_and_no_half_written_one(
    tmp_path: Path, error: int, expected: type[Exception]
) -> None:
    for directory in refused_at_each_point(
        tmp_path, write_old, write_new, error=error, expected=(expected,)
    ):
        assert (directory / "file").read_bytes() in (OLD, NEW)
        leftover = directory / "file.new"
        assert not leftover.exists() or (directory / "file").read_bytes() == NEW


def test_content_is_synced_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = recorded_calls(monkeypatch, tmp_path)

    replace_durably(tmp_path / "file", NEW)

    assert done == ["fsync file.new", "rename file.new -> file", "fsync ."]


def test_the_mode_is_the_one_asked_for_whatever_a_leftover_had(tmp_path: Path) -> None:
    leftover = tmp_path / "key.new"
    leftover.write_bytes(b"x" * 9999)
    leftover.chmod(0o666)

    replace_durably(tmp_path / "key", b"secret", mode=0o600)

    assert (tmp_path / "key").read_bytes() == b"secret"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_leftover_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"untouched")
    (tmp_path / "file.new").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(DiskFailing):
        replace_durably(tmp_path / "file", b"content")

    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"


def test_a_data_directory_belongs_to_one_agent_at_a_time(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from mailboat_agent.atomic_file import LockedDirectory\n"
        "with LockedDirectory(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"

        with pytest.raises(ConfigurationInvalid, match="Another agent"), LockedDirectory(tmp_path):
            pass
        other.kill()  # however it ends, the lock ends with it

    with LockedDirectory(tmp_path):
        pass
    with LockedDirectory(tmp_path):
        pass


def test_ballast_is_laid_down_given_up_and_laid_down_again(tmp_path: Path) -> None:
    restore_ballast(tmp_path)
    assert ballast_bytes(tmp_path) == BALLAST_BYTES

    give_up_ballast(tmp_path)
    give_up_ballast(tmp_path)
    assert ballast_bytes(tmp_path) == 0

    restore_ballast(tmp_path)
    assert ballast_bytes(tmp_path) == BALLAST_BYTES
