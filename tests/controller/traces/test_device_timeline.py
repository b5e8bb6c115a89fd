"""One device's timeline: what it told, what was ordered of it, what its rollouts did, in pages."""

from collections.abc import Iterator

import pytest

from controller_core import Core
from mailboat_controller.store import audit
from mailboat_controller.traces import device_timeline
from mailboat_controller.traces.device_timeline import DeviceTimeline
from mailboat_schemas.errors import NotFound
from traces_story import failing_rollout


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    core = failing_rollout(tmp_path_factory.mktemp("core"))
    with core.store.transaction() as tx:
        for device in ("dev-2", "dev-3"):
            audit.append(
                tx,
                at=core.now,
                actor="operator:ada",
                action="device.hold",
                subject=device,
                reason="ticket 8",
            )
    yield core
    core.store.close()


def read(core: Core, device: str = "dev-2", **more: object) -> DeviceTimeline:
    with core.store.read() as tx:
        return device_timeline.read(tx, device, **more)  # type: ignore[arg-type]


def test_it_tells_what_was_deployed_what_failed_and_what_resumed(core: Core) -> None:
    told = [entry.what for entry in read(core).entries]

    wanted = ["rollout.start", "device.soak_started", "device.rolled_back", "rollout.halted"]
    assert [what for what in told if what in wanted] == wanted
    (left,) = [each for each in read(core).entries if each.what == "device.rolled_back"]
    assert left.threshold == "error_rate"
    assert left.resumed == {"version": "1.0.0", "seconds": 0.4}


def test_it_tells_which_threshold_tripped_and_who_acted(core: Core) -> None:
    by_what = {entry.what: entry for entry in read(core).entries}

    assert by_what["rollout.halted"].threshold
    assert (by_what["rollout.start"].who, by_what["rollout.start"].because) == (
        "operator:ada",
        "ticket 7",
    )
    assert by_what["device.hold"].because == "ticket 8"


def test_other_devices_are_not_in_it(core: Core) -> None:
    told = read(core).entries

    assert {entry.subject for entry in told if entry.what.startswith("device.")} == {"dev-2"}
    assert all(entry.who != "dev-1" for entry in told)


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
def test_pages_put_together_are_the_whole(core: Core, limit: int) -> None:
    whole = read(core, limit=500)
    pages = [read(core, limit=limit)]
    while pages[-1].earlier is not None:
        pages.append(read(core, limit=limit, before=pages[-1].earlier))

    together = [entry for page in reversed(pages) for entry in page.entries]
    key = lambda entry: (entry.at, entry.what, entry.because)  # noqa: E731  of one instant any order
    assert sorted(together, key=key) == sorted(whole.entries, key=key)
    assert whole.earlier is None
    assert all(len(page.entries) <= limit for page in pages)


@pytest.mark.parametrize("before", ["", "x", "1-", "-1", "1-x", "1-2-3", "²-1"])
def test_a_page_that_there_is_not_is_refused(core: Core, before: str) -> None:
    with pytest.raises(NotFound, match="page"):
        read(core, before=before)


def test_a_device_that_is_not_enrolled_has_none(core: Core) -> None:
    with pytest.raises(NotFound):
        read(core, "dev-9")
