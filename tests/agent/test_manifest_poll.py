"""When the manifest is asked for over HTTPS: hours pass as the test says, nothing waits."""

import asyncio
import random

import pytest

from mailboat_agent.link.manifest_poll import ManifestPoll
from mailboat_agent.trust.manifest import Counter
from mailboat_schemas.errors import ArtifactMissing, ServerUnavailable

INTERVAL, CHECK = 300.0, 21_600.0


class Situation:
    def __init__(self) -> None:
        self.now = 1000.0
        self.heard_at: float | None = 1000.0
        self.counter, self.director = 4, "d1"
        self.asked: list[str | None] = []
        self.taken: list[bytes] = []
        self.answer: tuple[bytes, str | None] | Exception | None = None
        self.poll = ManifestPoll(
            fetch=self._fetch,
            take=self.taken.append,
            quiet_since=lambda: self.heard_at,
            held=lambda: Counter(self.counter, self.director),
            interval_seconds=INTERVAL,
            check_seconds=CHECK,
            monotonic=lambda: self.now,
            rng=random.Random(1),
        )

    async def _fetch(self, etag: str | None) -> tuple[bytes, str | None] | None:
        self.asked.append(etag)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def due(self, seconds: float) -> bool:
        self.now += seconds
        return self.poll._is_due(self.now)


def test_a_broker_that_spoke_lately_is_believed() -> None:
    assert not Situation().due(INTERVAL - 1)


def test_a_silent_broker_is_not() -> None:
    assert Situation().due(INTERVAL)


def test_without_a_broker_it_is_asked_at_every_turn() -> None:
    situation = Situation()
    situation.heard_at = None

    assert situation.due(1)


def test_a_talkative_broker_is_checked_all_the_same() -> None:
    situation = Situation()
    situation.now = situation.heard_at = 1000 + CHECK

    assert situation.due(0)


def test_a_manifest_that_an_acknowledgement_names_and_nobody_delivered_is_asked_for() -> None:
    situation = Situation()
    situation.poll.heard_of(5)
    assert situation.due(1)

    situation.counter = 5  # it came
    assert not situation.due(1)


def test_an_older_counter_is_no_news() -> None:
    situation = Situation()
    situation.poll.heard_of(4)

    assert not situation.due(1)


@pytest.mark.parametrize(
    "problem",
    [
        ArtifactMissing("There is none.", next_step="wait."),
        ServerUnavailable("Nobody answers.", next_step="wait."),
    ],
)
def test_an_answer_that_does_not_come_is_waited_for(problem: Exception) -> None:
    situation = Situation()
    situation.answer = problem

    asyncio.run(situation.poll._ask())

    assert situation.taken == []
    assert not situation.due(1), "not asked again at once"


def test_what_is_found_is_taken_and_its_etag_is_sent_the_next_time() -> None:
    async def story() -> Situation:
        situation = Situation()
        situation.answer = (b"bundle", '"7"')
        await situation.poll._ask()
        situation.answer = None
        await situation.poll._ask()
        return situation

    situation = asyncio.run(story())

    assert situation.taken == [b"bundle"]
    assert situation.asked == [None, '"7"']


def test_a_new_director_counts_anew_and_is_not_behind_its_predecessor() -> None:
    situation = Situation()
    situation.poll.heard_of(500)
    assert situation.due(1)

    situation.counter, situation.director = 3, "d2"
    situation.poll.heard_of(3)
    assert not situation.due(1)
    situation.poll.heard_of(4)
    assert situation.due(1)
