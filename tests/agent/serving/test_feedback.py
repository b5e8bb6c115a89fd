"""What the application says of answers, and which release it counts for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_agent.serving.feedback import (
    FEEDBACK_BYTES_MAX,
    POSTS_BURST_MAX,
    POSTS_PER_SECOND_MAX,
    RELEASES_MAX,
    REQUEST_IDS_MAX,
    SETTLED_SECONDS,
    VALUES_MAX,
    Feedback,
    FeedbackBusy,
    FeedbackRefused,
    FeedbackUnattributed,
)
from mailboat_schemas.documents.live_gates import COUNTERS_MAX
from mailboat_schemas.live_figures import CounterSum, ValueSum

OLD, NEW = "a" * 64, "b" * 64
NINE_OF_TEN = {"accuracy": {"good": 9, "total": 10}}


def body(**content: Any) -> bytes:
    return json.dumps({"model": "vad", **content}).encode()


def switched(at: float = 0) -> Feedback:
    """1.0.0 answered, and 1.1.0 does from ``at`` on."""
    feedback = Feedback()
    feedback.serves("vad", "1.0.0", OLD, at - 1000)
    feedback.serves("vad", "1.1.0", NEW, at)
    return feedback


@pytest.mark.parametrize(("named", "digest"), [(OLD, OLD), ("1.0.0", OLD), ("1.1.0", NEW)])
def test_it_counts_for_the_release_that_is_named(named: str, digest: str) -> None:
    feedback = switched()

    answer = feedback.post(body(release=named, counters=NINE_OF_TEN), 1)

    assert answer["release"] == digest
    assert feedback.posted("vad", digest).counters == {"accuracy": CounterSum(good=9, total=10)}
    assert feedback.posted("vad", NEW if digest == OLD else OLD).nothing


def test_the_id_of_a_request_says_who_answered_it() -> None:
    feedback = switched()
    feedback.answered("vad", "request-7", OLD)

    assert feedback.post(body(id="request-7", counters=NINE_OF_TEN), 1)["version"] == "1.0.0"
    with pytest.raises(FeedbackUnattributed, match="'request-8'"):
        feedback.post(body(id="request-8", counters=NINE_OF_TEN), 1)


def test_an_id_is_forgotten_after_so_many_others() -> None:
    feedback = switched()
    for number in range(REQUEST_IDS_MAX + 1):
        feedback.answered("vad", f"request-{number}", NEW)

    assert feedback.post(body(id="request-1", counters=NINE_OF_TEN), 1)
    with pytest.raises(FeedbackUnattributed):
        feedback.post(body(id="request-0", counters=NINE_OF_TEN), 1)


def test_without_a_name_it_counts_only_when_there_is_no_doubt() -> None:
    alone, feedback = Feedback(), switched()
    # The first in this process: before a restart another one may have answered.
    alone.serves("vad", "1.0.0", OLD, 0)
    for each in (alone, feedback):
        with pytest.raises(FeedbackUnattributed, match="alone for 60 s"):
            each.post(body(counters=NINE_OF_TEN), SETTLED_SECONDS - 0.1)
    assert alone.post(body(counters=NINE_OF_TEN), SETTLED_SECONDS)["release"] == OLD
    assert feedback.post(body(counters=NINE_OF_TEN), SETTLED_SECONDS)["release"] == NEW


def test_a_model_that_nothing_has_answered_for_has_no_feedback() -> None:
    with pytest.raises(FeedbackUnattributed, match="'vad'"):
        Feedback().post(body(counters=NINE_OF_TEN), 0)


def test_values_may_come_alone_or_together() -> None:
    feedback = switched()
    feedback.post(body(release=NEW, values={"order_eur": 10}), 1)
    feedback.post(body(release=NEW, values={"order_eur": [20.5, 30]}), 1)

    assert feedback.posted("vad", NEW).values == {"order_eur": ValueSum(count=3, sum=60.5)}


def test_what_was_posted_before_can_be_taken_off() -> None:
    feedback = switched()
    feedback.post(body(release=NEW, counters=NINE_OF_TEN, values={"order_eur": 5}), 1)
    before = feedback.posted("vad", NEW)
    assert feedback.posted("vad", NEW).since(before).nothing
    feedback.post(body(release=NEW, counters={"accuracy": {"good": 1, "total": 4}}), 1)

    since = feedback.posted("vad", NEW).since(before)

    assert (since.counters, since.values) == ({"accuracy": CounterSum(good=1, total=4)}, {})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not feedback"),
        (b"\xff", "not feedback"),
        (b"[]", "not feedback"),
        (body(), "neither counters nor values"),
        (body(counters={"accuracy": {"good": 2, "total": 1}}), "2 of 1 cannot be good"),
        (body(counters={"accuracy": {"good": -1, "total": 1}}), "counters.accuracy.good"),
        (body(counters={"accuracy": {"good": True, "total": 1}}), "counters.accuracy.good"),
        (body(counters={"accuracy": {"good": 0.5, "total": 1}}), "counters.accuracy.good"),
        (body(counters={"accuracy": {"good": 1, "total": 10**10}}), "counters.accuracy.total"),
        (body(counters={"Accuracy!": {"good": 1, "total": 1}}), "not feedback"),
        (body(values={"order": "NaN"}), "not feedback"),
        (b'{"model": "vad", "values": {"order": NaN}}', "order"),
        (b'{"model": "vad", "values": {"order": 1e999}}', "order"),
        (body(values={"order": []}), "1 to 256 values"),
        (body(values={"order": [1] * (VALUES_MAX + 1)}), "1 to 256 values"),
        (body(values={"order": 2e15}), "not a number up to 1e\\+15"),
        (body(counter=NINE_OF_TEN), "counter"),
        (b" " * (FEEDBACK_BYTES_MAX + 1), "16384 are allowed"),
    ],
)
def test_what_is_no_feedback_is_refused_and_counts_for_nothing(content: bytes, says: str) -> None:
    feedback = switched()

    with pytest.raises(FeedbackRefused, match=says):
        feedback.post(content, 1000)

    assert feedback.posted("vad", NEW).nothing


def test_a_post_of_exactly_the_bytes_allowed_is_read() -> None:
    content = body(release=NEW, counters=NINE_OF_TEN)

    assert switched().post(content.ljust(FEEDBACK_BYTES_MAX), 1)


def test_a_release_has_a_bounded_number_of_names() -> None:
    feedback = switched()
    for number in range(COUNTERS_MAX):
        feedback.post(body(release=NEW, counters={f"c{number}": {"good": 1, "total": 1}}), number)

    with pytest.raises(FeedbackRefused, match="at most 32 names"):
        feedback.post(body(release=NEW, counters=NINE_OF_TEN), 100)
    assert feedback.post(body(release=NEW, counters={"c0": {"good": 1, "total": 1}}), 100)


def test_posts_have_a_rate() -> None:
    feedback = switched()
    for _ in range(POSTS_BURST_MAX):
        feedback.post(body(release=NEW, counters=NINE_OF_TEN), 5)

    with pytest.raises(FeedbackBusy) as busy:
        feedback.post(body(release=NEW, counters=NINE_OF_TEN), 5)
    assert busy.value.retry_after is not None
    assert feedback.post(body(release=NEW, counters=NINE_OF_TEN), 5 + 2 / POSTS_PER_SECOND_MAX)


def test_of_each_model_the_releases_of_longest_ago_are_forgotten() -> None:
    feedback = Feedback()
    feedback.serves("other", "1.0.0", "c" * 64, 0)
    for number in range(RELEASES_MAX + 1):
        feedback.serves("vad", f"1.{number}.0", f"{number:064x}", number)

    with pytest.raises(FeedbackUnattributed):
        feedback.post(body(release="1.0.0", counters=NINE_OF_TEN), 100)
    assert feedback.post(body(release="1.1.0", counters=NINE_OF_TEN), 100)
    other = body(release="1.0.0", counters=NINE_OF_TEN).replace(b'"vad"', b'"other"')
    assert feedback.post(other, 100)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20))
def test_however_it_is_split_into_posts_the_sums_are_the_same(
    posts: list[tuple[int, int]],
) -> None:
    feedback = switched()
    for good, bad in posts:
        counter = {"accuracy": {"good": good, "total": good + bad}}
        feedback.post(body(release=NEW, counters=counter), 0)

    posted = feedback.posted("vad", NEW).counters.get("accuracy", CounterSum())
    assert posted.good == sum(good for good, _ in posts)
    assert posted.total == sum(good + bad for good, bad in posts)


def test_a_flood_of_nonsense_is_refused_unread() -> None:
    feedback = switched()
    for _ in range(POSTS_BURST_MAX):
        with pytest.raises(FeedbackRefused):
            feedback.post(b"nonsense", 1)

    with pytest.raises(FeedbackBusy):
        feedback.post(b"nonsense", 1)


def test_a_release_that_was_forgotten_and_answers_again_begins_from_nothing() -> None:
    feedback = switched()
    feedback.post(body(release=NEW, counters=NINE_OF_TEN, values={"order_eur": [5, 6]}), 1)
    before = feedback.posted("vad", NEW)
    for number in range(RELEASES_MAX):
        feedback.serves("vad", f"2.{number}.0", f"{number}" * 64, 2)
    feedback.serves("vad", "1.1.0", NEW, 3)
    few = {"accuracy": {"good": 1, "total": 2}}
    feedback.post(body(release=NEW, counters=few, values={"order_eur": 4}), 4)

    since = feedback.posted("vad", NEW).since(before)

    # Never less than nothing: the controller takes no negative sums.
    assert since.counters == {"accuracy": CounterSum(good=1, total=2)}
    assert since.values == {"order_eur": ValueSum(count=1, sum=4)}
