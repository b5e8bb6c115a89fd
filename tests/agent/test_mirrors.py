"""Which mirror is asked, and for how long one is left alone."""

from mailboat_agent.artifacts.mirrors import (
    FILES_MAX,
    LACK_SECONDS,
    LIE_SECONDS,
    LIE_SECONDS_MAX,
    STRIKE_SECONDS_MAX,
    STRIKE_SECONDS_MIN,
    WAIT_SECONDS_MAX,
    Mirrors,
)

FILE, OTHER = "aa" * 32, "bb" * 32


def two() -> Mirrors:
    return Mirrors(("near", "far"))


def test_mirrors_are_asked_in_the_order_of_the_configuration() -> None:
    assert two().to_ask(FILE, 0.0) == ["near", "far"]


def test_one_that_fails_is_left_out_for_longer_each_time_and_never_for_ever() -> None:
    mirrors, now = two(), 0.0
    waits = []
    for _ in range(12):
        mirrors.failed("near", now)
        began = now
        while "near" not in mirrors.to_ask(FILE, now):
            now += 1.0
        waits.append(now - began)
    assert waits[0] == STRIKE_SECONDS_MIN
    assert waits == sorted(waits)
    assert waits[-1] == STRIKE_SECONDS_MAX


def test_one_success_forgets_all_strikes() -> None:
    mirrors = two()
    for _ in range(5):
        mirrors.failed("near", 0.0)
    mirrors.did_well("near")
    mirrors.failed("near", 0.0)
    assert "near" in mirrors.to_ask(FILE, STRIKE_SECONDS_MIN)


def test_a_liar_is_left_out_for_that_file_alone_and_for_an_hour() -> None:
    mirrors = two()
    mirrors.lied("near", FILE, 0.0)
    assert mirrors.to_ask(FILE, LIE_SECONDS - 1) == ["far"]
    assert mirrors.to_ask(OTHER, 0.0) == ["near", "far"]
    assert mirrors.to_ask(FILE, LIE_SECONDS) == ["near", "far"]


def test_what_a_mirror_does_not_have_is_asked_of_it_again_soon() -> None:
    mirrors = two()
    mirrors.lacks("near", FILE, 0.0)
    assert mirrors.to_ask(FILE, LACK_SECONDS - 1) == ["far"]
    assert mirrors.to_ask(FILE, LACK_SECONDS) == ["near", "far"]


def test_a_lie_is_not_shortened_by_a_lack() -> None:
    mirrors = two()
    mirrors.lied("near", FILE, 0.0)
    mirrors.lacks("near", FILE, 1.0)
    assert mirrors.to_ask(FILE, LACK_SECONDS + 2) == ["far"]


def test_one_that_asks_to_wait_is_waited_for_once() -> None:
    mirrors = two()
    assert mirrors.waits("near", 40.0, 0.0) == 40.0
    assert mirrors.waits("near", 40.0, 40.0) == 0.0
    assert mirrors.to_ask(FILE, 79.0) == ["far"]
    mirrors.did_well("near")
    assert mirrors.waits("near", 40.0, 100.0) == 40.0


def test_nobody_waits_long_for_a_mirror() -> None:
    assert two().waits("near", WAIT_SECONDS_MAX, 0.0) == WAIT_SECONDS_MAX
    mirrors = two()
    assert mirrors.waits("near", WAIT_SECONDS_MAX + 1, 0.0) == 0.0
    assert mirrors.waits("far", 3600.0, 0.0) == 0.0
    assert mirrors.to_ask(FILE, STRIKE_SECONDS_MAX) == ["near", "far"]


def test_no_more_files_are_remembered_than_a_bound_and_the_newest_stay() -> None:
    mirrors = two()
    for number in range(FILES_MAX + 1):
        mirrors.lied("near", f"{number:064x}", 0.0)
    assert mirrors.to_ask(f"{0:064x}", 0.0) == ["near", "far"]
    assert mirrors.to_ask(f"{1:064x}", 0.0) == ["far"]
    assert mirrors.to_ask(f"{FILES_MAX:064x}", 0.0) == ["far"]


def test_whoever_lies_about_the_same_file_again_is_left_out_twice_as_long() -> None:
    """A slow link needs longer than an hour for a file that one byte of a liar spoils."""
    mirrors = two()
    mirrors.lied("near", FILE, 0.0)
    mirrors.lied("near", FILE, LIE_SECONDS)
    assert mirrors.to_ask(FILE, 3 * LIE_SECONDS - 1) == ["far"]
    assert mirrors.to_ask(FILE, 3 * LIE_SECONDS) == ["near", "far"]
    for _ in range(64):
        mirrors.lied("near", FILE, 3 * LIE_SECONDS)
    assert mirrors.to_ask(FILE, 3 * LIE_SECONDS + LIE_SECONDS_MAX) == ["near", "far"]
