"""Files that the controller and its command line read whole: the day one of them is too large."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailboat_controller import data_directory
from mailboat_controller.access.people import TOKEN_CHARS_MAX, new_token
from mailboat_controller.authority.hardware_key import PIN_BYTES_MAX
from mailboat_controller.authority.secret_files import read_secret_file
from mailboat_controller.connection_file import load_token
from mailboat_controller.data_directory import ONLINE_KEYS, TRUST_FILE_BYTES_MAX
from mailboat_controller.sources import taking
from mailboat_schemas.errors import ConfigurationInvalid

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_a_pin_as_long_as_may_be_is_read_and_a_longer_one_is_not_cut_short(tmp_path: Path) -> None:
    """Three wrong PINs lock a token."""
    (tmp_path / "pin").touch(mode=0o600)
    (tmp_path / "pin").write_text("1" * PIN_BYTES_MAX)
    assert read_secret_file(tmp_path / "pin", PIN_BYTES_MAX) == "1" * PIN_BYTES_MAX

    (tmp_path / "pin").write_text("1" * (PIN_BYTES_MAX + 1))
    with pytest.raises(ConfigurationInvalid, match=f"over {PIN_BYTES_MAX} bytes"):
        read_secret_file(tmp_path / "pin", PIN_BYTES_MAX)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644])
def test_a_secret_that_everybody_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "pin"
    path.write_text("1234\n")
    path.chmod(mode)

    with pytest.raises(ConfigurationInvalid, match="open to everybody") as refused:
        read_secret_file(path, PIN_BYTES_MAX)

    assert f"chmod 600 {path}" in refused.value.next_step
    path.chmod(0o640)  # of a group, as services have it
    assert read_secret_file(path, PIN_BYTES_MAX) == "1234"


def test_a_secret_may_come_through_a_pipe() -> None:
    """As `<(pass show backup)` of a shell hands it over."""
    reading, writing = os.pipe()
    os.write(writing, b"correct horse\n")
    os.close(writing)
    try:
        assert read_secret_file(Path(f"/dev/fd/{reading}"), PIN_BYTES_MAX) == "correct horse"
    finally:
        os.close(reading)


def test_a_token_file_with_more_than_a_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    text = new_token().text()

    path.write_text(text.ljust(TOKEN_CHARS_MAX))
    assert load_token(path).text() == text

    path.write_text(text.ljust(TOKEN_CHARS_MAX + 1))
    with pytest.raises(ConfigurationInvalid, match="holds no access token"):
        load_token(path)


def test_a_role_larger_than_any_is_refused_and_never_cut_short(tmp_path: Path) -> None:
    ceremony = tmp_path / "controller"
    for name in (*(f"keys/{key}" for key in ONLINE_KEYS), "trust/1.root.json"):
        (ceremony / name).parent.mkdir(parents=True, exist_ok=True)
        (ceremony / name).write_bytes(b"x")
    with (ceremony / "trust" / "targets.json").open("wb") as file:
        file.truncate(TRUST_FILE_BYTES_MAX + 1)

    with pytest.raises(ConfigurationInvalid, match=r"targets\.json is over"):
        data_directory.create(tmp_path / "data", fleet="demo", trust=ceremony, now=NOON)
    assert not (tmp_path / "data" / "trust").exists()


def test_a_release_yaml_larger_than_any_is_not_copied(tmp_path: Path) -> None:
    with (tmp_path / "release.yaml").open("wb") as file:
        file.truncate(taking.YAML_BYTES_MAX + 1)

    with pytest.raises(ConfigurationInvalid, match=f"over {taking.YAML_BYTES_MAX} bytes"):
        taking._copy_yaml(tmp_path / "release.yaml", tmp_path / "build.yaml")
    assert not (tmp_path / "build.yaml").exists()
