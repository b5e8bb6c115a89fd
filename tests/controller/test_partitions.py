"""Every device is one process's, and always the same one's."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from enrolled_fleet import EnrolledDevice
from mailboat_controller.ingest.partition import (
    PARTITIONS_MAX,
    client_name,
    device_of,
    partition_of,
    share,
)
from mailboat_schemas.names import INGEST_NAMES
from mailboat_schemas.topics import Channel


def test_a_device_keeps_its_partition_for_ever() -> None:
    """Other numbers here would mean that two processes take the same device after an update."""
    assert [partition_of(f"dev-{n}", 4) for n in range(8)] == GOLDEN


GOLDEN = [0, 2, 3, 2, 1, 2, 3, 2]


@given(device=st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,30}[a-z0-9]\Z"), partitions=st.integers(1, 16))
def test_each_topic_is_taken_by_exactly_one(device: str, partitions: int) -> None:
    for channel in (Channel.EVENTS, Channel.STATUS):
        topic = EnrolledDevice.topic(_Named(device), channel)  # type: ignore[arg-type]
        owners = [n for n in range(partitions) if share(n, partitions)(topic)]

        assert owners == [partition_of(device, partitions)]


class _Named:
    site = "-"

    def __init__(self, name: str) -> None:
        self.name = name


def test_what_is_no_devices_is_set_aside_by_the_first_alone() -> None:
    for topic in ("", "mb/1/demo/site/-/dev", "$SYS/broker", "mb/1/demo/ci/build/submit", "a/" * 9):
        assert device_of(topic) is None
        assert [n for n in range(4) if share(n, 4)(topic)] == [0]


def test_partitions_are_of_about_the_same_size() -> None:
    counts = Counter(partition_of(f"kiosk-{n}", 8) for n in range(8000))

    assert len(counts) == 8
    assert all(850 < count < 1150 for count in counts.values())


def test_no_device_can_have_the_name_of_a_process() -> None:
    assert {client_name(n) for n in range(PARTITIONS_MAX)} == INGEST_NAMES
