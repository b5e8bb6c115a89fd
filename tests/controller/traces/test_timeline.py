"""One rollout's timeline: who, what, which threshold tripped, what resumed service, in order."""

import json
from collections.abc import Iterator

import pytest

from controller_core import Core
from mailboat_controller.cli.timeline import _told
from mailboat_controller.rollout.state import Phase
from mailboat_controller.traces import timeline
from mailboat_controller.traces.timeline import Timeline, threshold_of
from mailboat_schemas.errors import NotFound
from traces_story import failing_rollout


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """Two releases; the second goes wrong on its second wave. Only read."""
    core = failing_rollout(tmp_path_factory.mktemp("core"))
    yield core
    core.store.close()


@pytest.fixture(scope="module")
def told(core: Core) -> Timeline:
    return read(core, "second")


def read(core: Core, name: str) -> Timeline:
    with core.store.read() as tx:
        return timeline.read(tx, name)


def test_it_tells_who_and_what_in_the_order_it_happened(told: Timeline) -> None:
    names = {
        "rollout.start",
        "rollout.wave",
        "rollout.halted",
        "device.committed",
        "device.rolled_back",
        "device.returned",
    }
    assert [(each.what, each.who) for each in told.entries if each.what in names] == [
        ("rollout.start", "operator:ada"),
        ("rollout.wave", "controller"),
        ("device.committed", "dev-1"),
        ("rollout.wave", "controller"),
        ("device.rolled_back", "dev-2"),
        ("rollout.halted", "controller"),
        ("device.returned", "dev-1"),
    ]
    assert [each.at for each in told.entries] == sorted(each.at for each in told.entries)
    assert any(each.what == "release.approve" for each in told.entries)


def test_it_tells_which_threshold_tripped(told: Timeline) -> None:
    (halt,) = [each for each in told.entries if each.what == "rollout.halted"]
    (left,) = [each for each in told.entries if each.what == "device.rolled_back"]

    assert told.phase is Phase.HALTED
    assert halt.threshold == told.threshold == "one failure halts: 1 failed"
    assert "5 of 20 requests failed" in told.because
    assert left.threshold == "error_rate"


def test_it_tells_what_resumed_service(told: Timeline) -> None:
    (left,) = [each for each in told.entries if each.what == "device.rolled_back"]

    assert left.resumed == {"version": "1.0.0", "seconds": 0.4}
    assert told.resumed == {"1.0.0": 2}
    assert told.resume_seconds_max == 0.4


def test_another_rollout_is_not_in_it(core: Core, told: Timeline) -> None:
    assert "first" not in {each.subject for each in told.entries}
    other = read(core, "first")
    assert (other.version, other.threshold, other.resumed) == ("1.0.0", "", {})
    with pytest.raises(NotFound):
        read(core, "third")


def test_people_read_the_same_in_a_table(told: Timeline) -> None:
    rows = _told(
        [
            json.loads(json.dumps({**_plain(each), "at": each.at.isoformat()}))
            for each in told.entries
        ]
    )
    (row,) = [row for row in rows if row["what"] == "device.rolled_back"]

    assert (row["after"], row["resumed"]) == ("+39.0 s", "1.0.0 after 0.4 s")
    assert _told([]) == []


def _plain(entry: timeline.Entry) -> dict[str, object]:
    return {
        "what": entry.what,
        "who": entry.who,
        "subject": entry.subject,
        "because": entry.because,
        "threshold": entry.threshold,
        "resumed": entry.resumed,
    }


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ({}, ""),
        ({"rule": "integrity", "devices": ["a"]}, "other bytes"),
        ({"rule": "reboot_loop", "devices": ["a", "b"]}, "restart in a loop"),
        (
            {"rule": "failing", "log_e1": 6.8, "log_threshold": 4.6, "part": ""},
            "ln E = 6.8, of 4.6",
        ),
        ({"rule": "vanishing", "log_e2": 5, "log_threshold": 4.6, "part": "wave 2"}, "in wave 2"),
        ({"look": 2, "p1_ppm": 100_000, "error": 0.005}, "fewer than 10 % fail, wrong in 0.5 %"),
        ({"rule": "of a later version"}, ""),
    ],
)
def test_a_threshold_is_told_in_one_line(evidence: dict[str, object], words: str) -> None:
    told = threshold_of(evidence)

    assert words in told
    assert bool(told) == bool(words)
