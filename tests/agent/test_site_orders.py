"""The order of a device's own site: taken, kept, gone by, and everything that is not."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from agent_box import AgentBox, Play, device_facts
from mailboat_agent.kept_site_order import FILE_NAME, PAYLOAD_BYTES_MAX, read_kept
from mailboat_agent.link.correspondence import subscriptions
from mailboat_agent.site_order_handover import HANDED_NAME, hand_over
from mailboat_agent.site_orders import SiteOrders
from mailboat_schemas.desired import ReleaseRef
from mailboat_schemas.device_orders import DeviceDesired, Hold
from mailboat_schemas.errors import MailboatError, PayloadTooLarge, WrongFleet
from mailboat_schemas.events import EventKind
from mailboat_schemas.site_orders import (
    LASTS_DAYS_MAX,
    SiteOrderElsewhere,
    SiteOrderKey,
    SiteOrderOld,
)
from model_fleet import FLEET, MODEL, ModelFleet
from signed_policies import policy_document, sign_policy
from site_island import NOW, Island
from site_orders import SITE, SiteDesk, site_policy


@pytest.fixture
def island(tmp_path: Path) -> Island:
    return Island(tmp_path)


def test_a_site_holds_its_devices_and_tells_it_once(island: Island) -> None:
    payload = island.desk.signed(5, island.desk.hold())

    assert island.orders.take(payload, NOW)
    assert not island.orders.take(payload, NOW)
    assert island.notes == ["site_held"]
    said = island.device.reported_site_order
    assert said is not None
    assert (said.by, said.counter) == ("site harbour (harbour master)", 5)
    assert island.told() == [
        ("ordered", "order 5 of site harbour by harbour master: hold every model: a storm")
    ]


def test_an_order_outlives_a_restart_and_is_lifted_by_the_next(island: Island) -> None:
    island.orders.take(island.desk.signed(5, island.desk.hold(MODEL)), NOW)
    island.restart()
    assert island.notes == [f"site_held:{MODEL}"]

    island.orders.take(island.desk.signed(6), NOW)
    island.restart()
    assert island.notes == []
    assert island.device.reported_site_order is None
    assert [code for code, _ in island.told()] == ["ordered", "lifted"]


def test_what_was_taken_back_does_not_come_again_by_a_replay(island: Island) -> None:
    held = island.desk.signed(5, island.desk.hold())
    island.orders.take(held, NOW)
    island.orders.take(island.desk.signed(6), NOW)
    island.restart()

    island.orders.hear(held, NOW)  # by a broker that remembers it: nobody is troubled
    assert island.notes == []
    with pytest.raises(SiteOrderOld):
        island.orders.take(held, NOW)


def test_another_order_under_the_counter_of_the_newest_is_none(island: Island) -> None:
    island.orders.take(island.desk.signed(5, island.desk.hold()), NOW)

    with pytest.raises(SiteOrderOld):
        island.orders.take(island.desk.signed(5), NOW)
    assert island.notes == ["site_held"]


def test_a_second_key_goes_on_where_the_first_one_was(island: Island, tmp_path: Path) -> None:
    deputy = SiteDesk(tmp_path, "deputy")
    island.hears_policy(site_policy(island.desk, deputy, version="1.1.0"))
    island.orders.take(island.desk.signed(7, island.desk.hold()), NOW)

    with pytest.raises(SiteOrderOld):
        island.orders.take(deputy.signed(7), NOW)
    assert island.orders.take(deputy.signed(8), NOW)
    assert island.notes == []


def test_a_key_that_is_named_no_more_orders_nothing_and_keeps_nobody_from_ordering(
    island: Island, tmp_path: Path
) -> None:
    heir = SiteDesk(tmp_path, "heir")
    stolen = island.desk.signed((1 << 63) - 1, island.desk.hold())
    island.orders.take(stolen, NOW)
    island.hears_policy(site_policy(heir, version="1.1.0"))

    island.orders.look(NOW)
    assert island.notes == []
    island.restart()
    assert island.notes == []
    with pytest.raises(SiteOrderKey):
        island.orders.take(stolen, NOW)
    assert island.orders.take(heir.signed(1, heir.hold(MODEL)), NOW)
    assert island.notes == [f"site_held:{MODEL}"]


def test_an_order_that_comes_before_its_policy_counts_once_that_has_come(
    island: Island, tmp_path: Path
) -> None:
    deputy = SiteDesk(tmp_path, "deputy")
    with pytest.raises(SiteOrderKey):
        island.orders.hear(deputy.signed(1, deputy.hold()), NOW)
    island.orders.look(NOW)
    assert island.notes == []

    island.hears_policy(site_policy(island.desk, deputy, version="1.1.0"))
    island.orders.look(NOW)
    assert island.notes == ["site_held"]


def test_an_order_ends_by_itself_at_the_latest_so_long_after_it_was_taken(island: Island) -> None:
    ahead = int((NOW + timedelta(days=400)).timestamp())
    hold = island.desk.hold().model_copy(update={"expires": ahead + 86_400})
    island.orders.take(island.desk.signed(5, hold, issued=ahead), NOW)
    island.restart()

    island.orders.look(NOW + timedelta(days=LASTS_DAYS_MAX, seconds=-2))
    assert island.device.reported_site_order is not None
    island.orders.look(NOW + timedelta(days=LASTS_DAYS_MAX, seconds=2))
    assert island.device.reported_site_order is None


def test_a_key_that_ends_takes_its_order_along(island: Island) -> None:
    island.hears_policy(site_policy(island.desk, version="1.1.0", days=1))
    island.orders.take(island.desk.signed(5, island.desk.hold(hours=72)), NOW)

    island.orders.look(NOW + timedelta(days=1, minutes=1))
    assert island.device.site_order is None


@pytest.mark.parametrize(
    ("make", "refused"),
    [
        (lambda desk: desk.signed(9, desk.hold(), site="depot"), SiteOrderElsewhere),
        (lambda desk: desk.signed(9, desk.hold(), fleet="other"), WrongFleet),
        (lambda desk: desk.signed(9, desk.hold())[:-9], MailboatError),
        (lambda _desk: b"\xc1" * 100, MailboatError),
        (lambda _desk: b"\x80" * (1 << 20), PayloadTooLarge),
    ],
    ids=["another site", "another fleet", "cut off", "noise", "too large"],
)
def test_what_is_no_order_for_this_site_changes_nothing(
    island: Island, make: Callable[[SiteDesk], bytes], refused: type[MailboatError]
) -> None:
    island.orders.take(island.desk.signed(5, island.desk.hold(MODEL)), NOW)
    before = (island.data / FILE_NAME).read_bytes()

    with pytest.raises(refused):
        island.orders.hear(make(island.desk), NOW)
    assert island.notes == [f"site_held:{MODEL}"]
    assert (island.data / FILE_NAME).read_bytes() == before


def test_keys_in_a_policy_for_another_site_or_in_none_order_nothing(tmp_path: Path) -> None:
    island = Island(tmp_path)
    island.hears_policy(site_policy(island.desk, version="1.0.0", target="depot"))
    island.hears_policy(
        policy_document({"days_between": 1}, version="1.1.0", level="site", target=SITE)
    )

    with pytest.raises(SiteOrderKey):
        island.orders.take(island.desk.signed(5, island.desk.hold()), NOW)


def test_a_device_of_no_site_hears_none(island: Island) -> None:
    assert any(topic.endswith("/dn/order") for topic, _ in subscriptions(device_facts(site=SITE)))
    assert not any(topic.endswith("/dn/order") for topic, _ in subscriptions(device_facts()))
    island.journal.close()
    island.start(site="-")

    with pytest.raises(MailboatError, match="belongs to no site"):
        island.orders.take(island.desk.signed(5, island.desk.hold()), NOW)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"{}", b"x" * (1 << 20), b'{"envelope":"!"}'])
def test_a_damaged_file_keeps_nobody_from_starting(island: Island, content: bytes) -> None:
    (island.data / FILE_NAME).write_bytes(content)
    island.restart()

    assert island.device.site_order is None
    assert island.orders.take(island.desk.signed(1, island.desk.hold()), NOW)


def test_what_was_handed_over_is_taken_at_the_next_look(island: Island) -> None:
    hand_over(island.data, island.desk.signed(5, island.desk.hold()))
    island.orders.look(NOW)

    assert island.notes == ["site_held"]
    assert not (island.data / HANDED_NAME).exists()
    (island.data / HANDED_NAME).write_bytes(b"x" * (PAYLOAD_BYTES_MAX + 1))
    island.orders.look(NOW)
    assert not (island.data / HANDED_NAME).exists()


def test_counters_of_keys_are_remembered_up_to_a_bound(island: Island, tmp_path: Path) -> None:
    for number in range(20):
        other = SiteDesk(tmp_path, f"other {number}")
        island.hears_policy(site_policy(other, version=f"2.{number}.0"))
        assert island.orders.take(other.signed(1, other.hold()), NOW)

    kept = read_kept(island.data).counters
    assert len(kept) == 16
    assert f"{SITE}/{other.signer.public_key.keyid}" in kept


# --- what an agent does ---------------------------------------------------------------------------


def site_box(box: AgentBox) -> SiteOrders:
    orders = SiteOrders(box.directory, box.device, box.manifest, box.ledger)
    orders.open(box.now())
    return orders


async def run_both(
    box: AgentBox, fleet: ModelFleet, desk: SiteDesk, before: ReleaseRef, now: ReleaseRef
) -> None:
    """A device of the site that runs a release and could go back to the one before."""
    box.device.site = SITE
    sign_policy(fleet, site_policy(desk))
    for release in (before, now):
        await box.install(fleet.current(release), release.version)


async def stays(box: AgentBox, version: str) -> None:
    for _ in range(5):
        await box.step()
    assert box.serving == version


@pytest.mark.slow
def test_a_site_rolls_back_and_what_it_lifts_comes_again(
    play: Play, fleet: ModelFleet, tmp_path: Path
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)
    c = fleet.model_release("1.2.0", factor=4.0)
    desk = SiteDesk(tmp_path)

    async def story(box: AgentBox) -> None:
        await run_both(box, fleet, desk, a, b)
        orders = site_box(box)
        loop = box.reconciler.loops[MODEL]

        # Not forward, not to what is not here: these only hold.
        for counter, version in ((1, "1.2.0"), (2, "0.9.0")):
            orders.take(desk.signed(counter, desk.rollback(version)), box.now())
            box.take(fleet.current(c))
            said = f"roll back to {version}: it is deaf"
            await box.until(lambda said=said: said in loop.because)
            assert box.serving == "1.1.0"

        orders.take(desk.signed(3, desk.hold(), desk.rollback("1.0.0")), box.now())
        await box.until(lambda: box.serving == "1.0.0" and box.committed("1.0.0"))
        returned = next(e for e in reversed(box.events()) if e.kind is EventKind.RETURNED)
        assert (returned.code, returned.version) == ("site_order", "1.1.0")
        assert "site harbour (harbour master)" in returned.because
        for _ in range(3):
            await box.step()
        assert box.serving == "1.0.0"

        orders.take(desk.signed(4), box.now())
        await box.until(lambda: box.committed("1.2.0"))

    play(story)


@pytest.mark.slow
def test_a_site_does_not_go_back_to_what_was_withdrawn(
    play: Play, fleet: ModelFleet, tmp_path: Path
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)
    desk = SiteDesk(tmp_path)

    async def story(box: AgentBox) -> None:
        await run_both(box, fleet, desk, a, b)
        fleet.withdraw("1.0.0")
        box.take(fleet.current(b))
        site_box(box).take(desk.signed(1, desk.rollback("1.0.0")), box.now())

        await stays(box, "1.1.0")

    play(story)


@pytest.mark.slow
def test_what_the_centre_ordered_for_the_device_goes_before_its_site(
    play: Play, fleet: ModelFleet, tmp_path: Path
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)
    desk = SiteDesk(tmp_path)

    async def story(box: AgentBox) -> None:
        await run_both(box, fleet, desk, a, b)
        hold = Hold(by="operator:ana", reason="as it is", expires=desk.until())
        box.device.order = DeviceDesired(
            fleet=FLEET, device=box.device.device, counter=1, issued=0, holds=(hold,)
        )
        site_box(box).take(desk.signed(9, desk.rollback("1.0.0")), box.now())

        await stays(box, "1.1.0")

    play(story)


@pytest.mark.slow
def test_a_site_does_not_go_back_below_a_security_version(
    play: Play, fleet: ModelFleet, tmp_path: Path
) -> None:
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", factor=3.0, security_version=1)
    desk = SiteDesk(tmp_path)

    async def story(box: AgentBox) -> None:
        await run_both(box, fleet, desk, a, b)
        site_box(box).take(desk.signed(1, desk.rollback("1.0.0")), box.now())

        await stays(box, "1.1.0")

    play(story)
