"""The release before the last: kept to go back to, and the first to give way. On real workers."""

import json

import pytest

from agent_box import AgentBox, Play, device_facts
from mailboat_agent.status_lines import describe
from mailboat_schemas.desired import ReleaseRef
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase, ReportedModel
from model_fleet import MIB, MODEL, ModelFleet, golden
from patched_fleet import heavy

KEPT = "          kept to go back to: "


def releases(fleet: ModelFleet, count: int) -> list[ReleaseRef]:
    return [fleet.model_release(f"1.{n}.0", factor=2.0 + n) for n in range(count)]


async def install(box: AgentBox, fleet: ModelFleet, refs: list[ReleaseRef]) -> None:
    for ref in refs:
        await box.install(fleet.current(ref), ref.version)


def ran(box: AgentBox) -> list[str]:
    return [each.version for each in box.state.predecessors]


def is_whole(box: AgentBox, ref: ReleaseRef) -> bool:
    (loop,) = box.reconciler.loops.values()
    return ref.digest in loop.view.whole_releases()


@pytest.mark.slow
def test_two_rollbacks_in_a_row_need_no_download(play: Play, fleet: ModelFleet) -> None:
    refs = releases(fleet, 3)

    async def story(box: AgentBox) -> None:
        await install(box, fleet, refs)
        asked = len(box.server.requests)
        for ref, left in ((refs[1], ["1.0.0"]), (refs[0], [])):
            await box.install(fleet.current(ref), ref.version)
            assert ran(box) == left
        assert box.told()[-2:] == ["returned 1.2.0", "returned 1.1.0"]
        assert len(box.server.requests) == asked

    play(story)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["withdrawn", "damaged"])
def test_past_a_predecessor_that_cannot_serve_it_goes_to_the_one_before(
    trouble: str, play: Play, fleet: ModelFleet
) -> None:
    refs = releases(fleet, 3)

    async def story(box: AgentBox) -> None:
        await install(box, fleet, refs)
        await box.restart()  # nothing is remembered but what is on the disk
        if trouble == "withdrawn":
            fleet.withdraw("1.1.0")
        else:
            document = box.manifest.document(refs[1].digest)
            assert document is not None
            box.store.path(document.variants[0].model_file.sha256).unlink()
        fleet.withdraw("1.2.0")
        box.server.artifacts.clear()
        box.take(fleet.current(refs[2]))
        await box.until(lambda: box.committed("1.0.0"))
        (left,) = [each for each in box.events() if each.kind is EventKind.RETURNED]
        assert (left.version, left.serving_version) == ("1.2.0", "1.0.0")
        assert "back to 1.0.0" in left.because

    play(story)


@pytest.mark.slow
def test_a_trial_that_fails_costs_no_place_to_go_back_to(play: Play, fleet: ModelFleet) -> None:
    refs = releases(fleet, 3)
    bad = fleet.model_release("1.3.0", factor=4.0, samples=golden(5.0))

    async def story(box: AgentBox) -> None:
        await install(box, fleet, refs)
        box.take(fleet.offered(bad, refs[2]))
        await box.until(lambda: "trial_failed 1.3.0" in box.told())
        await box.step()
        assert ran(box) == ["1.1.0", "1.0.0"]
        assert all(is_whole(box, ref) for ref in refs)

    play(story)


@pytest.mark.slow
def test_a_kept_release_gives_way_to_an_install_within_the_budget(
    play: Play, fleet: ModelFleet
) -> None:
    refs = [
        fleet.model_release(f"1.{n}.0", model=heavy(2.0 + n, 6 * MIB), factor=2.0 + n)
        for n in range(4)
    ]

    async def story(box: AgentBox) -> None:
        # Three of them, and not four. Nobody has asked for less, so the third stays.
        box.device = device_facts(disk_budget_bytes=23 * MIB)
        await box.restart()
        await install(box, fleet, refs[:3])
        assert is_whole(box, refs[0])
        await install(box, fleet, refs[3:])
        assert not any("refused" in told for told in box.told())
        assert [is_whole(box, ref) for ref in refs] == [False, True, True, True]
        box.device.disk_budget_bytes = 13 * MIB  # as a class may lower it
        await box.step()
        assert [is_whole(box, ref) for ref in refs] == [False, False, True, True]
        assert ran(box) == ["1.2.0", "1.1.0"]
        await box.step()
        assert box.store.stored_bytes() <= 13 * MIB

    play(story)


@pytest.mark.slow
def test_a_device_may_keep_one_predecessor_only(play: Play, fleet: ModelFleet) -> None:
    refs = releases(fleet, 3)

    async def story(box: AgentBox) -> None:
        box.device = device_facts(keep_predecessors=1)
        await box.restart()
        await install(box, fleet, refs)
        assert [is_whole(box, ref) for ref in refs] == [False, True, True]
        assert len(box.store.digests()) == 7  # its document tells what it was

    play(story)


@pytest.mark.slow
def test_what_is_not_approved_any_more_is_not_kept(play: Play, fleet: ModelFleet) -> None:
    refs = releases(fleet, 3)

    async def story(box: AgentBox) -> None:
        await install(box, fleet, refs)
        fleet.withdraw("1.0.0")
        box.take(fleet.current(refs[2]))
        await box.until(lambda: not is_whole(box, refs[0]))
        assert box.committed("1.2.0")
        assert is_whole(box, refs[1])

    play(story)


@pytest.mark.slow
def test_a_damaged_one_is_no_damage_for_long(play: Play, fleet: ModelFleet) -> None:
    """It is told, and forgotten: nobody fetches it again, and nothing else has to be done."""
    refs = releases(fleet, 3)

    async def story(box: AgentBox) -> None:
        await install(box, fleet, refs)
        document = box.manifest.document(refs[0].digest)
        assert document is not None
        path = box.store.path(document.variants[0].model_file.sha256)
        path.chmod(0o600)
        path.write_bytes(b"something else")
        box.reconciler.drift.ask()
        await box.until(lambda: "storage_damaged 1.0.0" in box.told())
        await box.until(lambda: not box.reconciler.drift.notes)
        for _ in range(3):
            await box.step()
        assert not is_whole(box, refs[0])
        assert box.committed("1.2.0")

    play(story)


def test_the_status_says_where_the_device_can_go_back_to() -> None:
    told = ReportedModel(
        model=MODEL,
        phase=ModelPhase.COMMITTED,
        previous_version="1.1.0",
        previous_digest="b" * 64,
        spare_version="1.0.0",
        spare_digest="a" * 64,
        whole=("b" * 64, "a" * 64),
    )

    def said(model: ReportedModel) -> list[str]:
        status = {
            "connected": True,
            "trust_expires": None,
            "unconfirmed": {"events": 0, "telemetry": 0},
            "serving": {"url": ""},
            "disk": {"used": 0, "budget": None, "free": 0, "gives_way": 3 * MIB},
            "metered": None,
            "downloads": [],
            "report": {
                "device": "d",
                "fleet": "f",
                "hardware_class": "c",
                "manifest_counter": 1,
                "notes": [],
                "models": [json.loads(model.model_dump_json())],
            },
        }
        return describe(status)

    assert said(told)[-1] == KEPT + "1.1.0, 1.0.0"
    assert "          3.0 MiB more of releases that go if need be" in said(told)
    gone = told.model_copy(update={"whole": ("b" * 64,)})
    assert said(gone)[-2:] == [KEPT + "1.1.0", "          ran before, not kept: 1.0.0"]
