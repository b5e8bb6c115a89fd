"""How pages say numbers and instants."""

from datetime import UTC, datetime, timedelta

import pytest

from mailboat_controller.console import words

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "now"),
        (42, "42 s ago"),
        (180, "3 min ago"),
        (5 * 3600, "5 h ago"),
        (12 * 86400, "12 days ago"),
        (-3600 * 3, "in 3 h"),
    ],
)
def test_an_instant_is_told_by_its_distance(seconds: int, said: str) -> None:
    assert words.ago(NOON - timedelta(seconds=seconds), NOON) == said
    assert words.ago(None, NOON) == "never"


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(0, 10, "0 %"), (1, 1000, "<1 %"), (999, 1000, ">99 %"), (10, 10, "100 %"), (0, 0, "–")],
)
def test_a_share_is_never_rounded_to_all_or_none(part: int, whole: int, said: str) -> None:
    assert words.percent(part, whole) == said


def test_a_clock_is_ahead_or_behind_or_right() -> None:
    assert words.offset(125_000) == "2 min ahead"
    assert words.offset(-4_000) == "4 s behind"
    assert words.offset(400) == words.offset(None) == ""


def test_large_numbers_are_grouped_and_sizes_have_units() -> None:
    assert words.number(1234567) == "1\u202f234\u202f567"
    assert words.number(None) == words.size(None) == "–"
    assert (words.size(512), words.size(3 << 20)) == ("512 B", "3.0 MiB")
