"""A delta that takes the device down with it is not tried for ever."""

from pathlib import Path

import pytest

from mailboat_agent.delta.attempts import ATTEMPTS_MAX, GIVEN_UP, TARGETS_MAX, Attempts

TARGET = "cc" * 32


def test_attempts_are_counted_over_restarts(tmp_path: Path) -> None:
    for number in range(1, ATTEMPTS_MAX + 1):
        Attempts(tmp_path).count("director:1", TARGET)
        assert Attempts(tmp_path).of("director:1", TARGET) == number


def test_what_was_given_up_stays_so_until_a_newer_desired_state(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    attempts.give_up("director:1", TARGET)

    assert Attempts(tmp_path).of("director:1", TARGET) == GIVEN_UP
    assert Attempts(tmp_path).of("director:2", TARGET) == 0


def test_a_count_for_one_desired_state_forgets_the_one_before(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    attempts.give_up("director:1", TARGET)
    attempts.count("director:2", "dd" * 32)

    assert attempts.of("director:1", TARGET) == 0
    assert attempts.of("director:2", TARGET) == 0


def test_no_more_targets_are_counted_than_a_desired_state_can_name(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    for number in range(TARGETS_MAX + 1):
        attempts._counts[f"{number:064x}"] = 1
        attempts._desired = "director:1"
    attempts.count("director:1", TARGET)

    found = Attempts(tmp_path)
    assert found.of("director:1", TARGET) == 1
    assert len(found._counts) == TARGETS_MAX


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"[]", b'{"desired": 1}', b'{"targets": [1]}', b"[" * 70_000]
)
def test_a_damaged_file_costs_an_attempt_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "deltas.json").write_bytes(content)

    attempts = Attempts(tmp_path)
    attempts.count("director:1", TARGET)

    assert Attempts(tmp_path).of("director:1", TARGET) == 1
