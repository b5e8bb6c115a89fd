"""Two machines with one identity, as the device at one of them sees it."""

from mailboat_agent.link.flapping import SHORT_IN_A_ROW, SHORT_SECONDS, TAKEN_OVER, Flapping

CLOSED = "Unspecified error"


def connections(flapping: Flapping, count: int, seconds: float) -> list[bool]:
    told = []
    for number in range(count):
        flapping.up(number * 1000.0)
        told.append(flapping.down(number * 1000.0 + seconds, CLOSED) is not None)
    return told


def test_several_connections_that_end_at_once_are_told() -> None:
    told = connections(Flapping(), SHORT_IN_A_ROW + 1, seconds=1)

    assert told == [False] * (SHORT_IN_A_ROW - 1) + [True, True]


def test_one_that_lasts_in_between_is_a_bad_network() -> None:
    flapping = Flapping()

    assert not any(connections(flapping, SHORT_IN_A_ROW - 1, seconds=1))
    assert not any(connections(flapping, 1, seconds=SHORT_SECONDS))
    assert not any(connections(flapping, SHORT_IN_A_ROW - 1, seconds=1))


def test_a_broker_that_is_not_reached_counts_for_nothing() -> None:
    flapping = Flapping()

    assert [flapping.down(float(at), CLOSED) for at in range(10)] == [None] * 10


def test_a_broker_that_says_so_is_believed_at_once() -> None:
    flapping = Flapping()
    flapping.up(0)
    problem = flapping.down(500, TAKEN_OVER)

    assert problem is not None
    assert problem.code == "E-SESSION-TAKEN"
