"""Orders that a site signs for itself: the file and its successors, and what the centre hears."""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from command_line import mailboat
from enrolled_fleet import NOON, EnrolledFleet
from mailboat_controller.sites import own_orders
from mailboat_controller.store import audit, site_orders
from mailboat_schemas.errors import ConfigurationInvalid, Conflict
from mailboat_schemas.events import EventKind
from mailboat_schemas.site_orders import SiteOrder, open_site_order
from site_orders import SITE, SiteDesk, site_policy

HOUR = timedelta(hours=1)


@pytest.fixture
def desk(tmp_path: Path) -> SiteDesk:
    return SiteDesk(tmp_path)


def order(desk: SiteDesk, path: Path, *arguments: str) -> dict[str, Any]:
    told = mailboat("site", *arguments, "--key", desk.key_path, "--out", path, "--json")
    assert told.code == 0, told.err
    return dict(told.json)


def said(desk: SiteDesk, path: Path) -> SiteOrder:
    keys = site_policy(desk).spec.site_keys
    content = path.read_bytes()
    return open_site_order(content, keys, fleet="demo", site=SITE, now=datetime.now(UTC)).order


def test_each_order_says_all_that_stands_and_counts_on(desk: SiteDesk, tmp_path: Path) -> None:
    path = tmp_path / "harbour.order"
    order(desk, path, "hold", SITE, "--fleet", "demo", "--reason", "a storm")
    first = said(desk, path)
    order(desk, path, "rollback", SITE, "vad@1.0.0", "--reason", "deaf", "--hours", "5")
    second = said(desk, path)
    order(desk, path, "rollback", SITE, "vad@1.1.0", "--reason", "deaf too")
    third = said(desk, path)

    assert first.counter < second.counter < third.counter
    assert [each.reason for each in third.holds] == ["a storm"]
    assert [each.version for each in third.rollbacks] == ["1.1.0"]
    order(desk, path, "lift", SITE, "--model", "vad")
    assert (len(said(desk, path).holds), said(desk, path).rollbacks) == (1, ())
    told = order(desk, path, "lift", SITE)
    assert told["stands"] == []
    assert (said(desk, path).holds, said(desk, path).counter) == ((), told["counter"])


def test_what_has_ended_is_not_said_again_and_a_lost_file_stops_nobody(desk: SiteDesk) -> None:
    before = desk.order(5, desk.hold(hours=1), desk.rollback("1.0.0", hours=48))
    later = desk.now + 2 * HOUR

    found = own_orders.next_order(before, now=later)
    assert (found.holds, len(found.rollbacks)) == ((), 1)
    assert found.counter == int(later.timestamp())
    ahead = desk.order(1 << 40, desk.hold())
    assert own_orders.next_order(ahead, now=later).counter == (1 << 40) + 1


def test_who_lost_the_file_goes_on_after_what_a_device_says(desk: SiteDesk, tmp_path: Path) -> None:
    """Its clock was years ahead when the last one was made."""
    path, newest = tmp_path / "harbour.order", 1 << 40

    order(desk, path, "lift", SITE, "--fleet", "demo", "--after", str(newest))
    assert said(desk, path).counter == newest + 1
    order(desk, path, "hold", SITE, "--reason", "a storm", "--after", str(newest + 7))
    assert said(desk, path).counter == newest + 8


@pytest.mark.parametrize(
    "arguments",
    [
        ("hold", SITE, "--reason", "no fleet named"),
        ("hold", SITE, "--fleet", "demo", "--reason", " "),
        ("hold", "-", "--fleet", "demo", "--reason", "no site"),
        ("hold", SITE, "--fleet", "demo", "--reason", "too long", "--hours", "337"),
        ("rollback", SITE, "vad", "--fleet", "demo", "--reason", "no version"),
        ("rollback", SITE, "vad@newest", "--fleet", "demo", "--reason", "no version"),
    ],
)
def test_what_cannot_be_ordered_is_refused_and_nothing_written(
    desk: SiteDesk, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    path = tmp_path / "harbour.order"

    told = mailboat("site", *arguments, "--key", desk.key_path, "--out", path)
    assert told.code in (1, 2)
    assert not path.exists()


def test_a_file_of_another_site_is_not_gone_on_with(desk: SiteDesk, tmp_path: Path) -> None:
    path = tmp_path / "depot.order"
    path.write_bytes(desk.signed(1, desk.hold(), site="depot"))

    with pytest.raises(Conflict, match="site depot"):
        own_orders.order_before(path, "", SITE)


@pytest.mark.parametrize("content", [b"", b"no order", b"\x80" * 20_000])
def test_a_file_that_is_no_order_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "harbour.order"
    path.write_bytes(content)

    with pytest.raises(ConfigurationInvalid):
        own_orders.read_order(path)


KEYID = "a" * 64
HELD = {"model": None, "reason": "a storm", "expires": 1 << 31}
Told = Callable[..., None]


@pytest.fixture
def harbour(tmp_path: Path) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path)
    yield fleet
    fleet.store.close()


def teller(fleet: EnrolledFleet, name: str) -> Told:
    """A device of the site, as it tells of an order of its site."""
    device, sequence = fleet.enrol(name, site=SITE), itertools.count(1)

    def tell(counter: Any, because: str, now: datetime = NOON, **more: Any) -> None:
        event = device.tells(
            next(sequence),
            EventKind.SITE_ORDERED,
            code="ordered",
            because=because,
            evidence={"counter": counter, "keyid": KEYID, "key": "desk", "site": "elsewhere"}
            | more,
            digest=None,
            model=None,
            version=None,
        )
        assert not fleet.take(event, now=now).quarantined

    return tell


def entries(fleet: EnrolledFleet) -> list[audit.AuditRow]:
    with fleet.store.read() as tx:
        found = audit.newest_page(tx, limit=1000, wanted=audit.Wanted(action=site_orders.ACTION))
    return list(found)


def test_an_order_that_many_devices_tell_of_is_one_entry(harbour: EnrolledFleet) -> None:
    tells = [teller(harbour, f"dev-{n}") for n in range(3)]

    for tell in tells:
        tell(7, "hold: a storm", holds=[HELD], rollbacks=[])
    tells[0](8, "nothing any more", NOON + HOUR)
    tells[1](7, "hold: a storm", NOON + HOUR, holds=[HELD])

    found = entries(harbour)
    assert [(each.actor, each.subject, each.reason) for each in found] == [
        (f"site:{SITE}", f"site:{SITE}", "hold: a storm"),
        (f"site:{SITE}", f"site:{SITE}", "nothing any more"),
    ]
    assert found[0].details["told_by"] == "dev-0"
    assert found[0].details["holds"] == [HELD]
    with harbour.store.read() as tx:
        assert site_orders.newest(tx, SITE) == found[-1]


def test_a_device_that_makes_orders_up_fills_no_log_and_keeps_no_other_out(
    harbour: EnrolledFleet,
) -> None:
    liar, honest = teller(harbour, "dev-1"), teller(harbour, "dev-2")

    for number in range(site_orders.OF_ONE_DEVICE_PER_HOUR_MAX + 2):
        liar(100 + number, "made up")
    assert len(entries(harbour)) == site_orders.OF_ONE_DEVICE_PER_HOUR_MAX
    honest(7, "hold: a storm")
    assert entries(harbour)[-1].reason == "hold: a storm"
    liar(1000, "made up later", NOON + HOUR + timedelta(seconds=1))
    assert len(entries(harbour)) == site_orders.OF_ONE_DEVICE_PER_HOUR_MAX + 2


def test_many_devices_that_make_orders_up_fill_no_log_either(
    harbour: EnrolledFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_orders, "OF_ONE_SITE_PER_HOUR_MAX", 5)
    tells = [teller(harbour, f"dev-{n}") for n in range(7)]

    for number, tell in enumerate(tells):
        tell(number + 1, "made up")
    assert len(entries(harbour)) == 5


@pytest.mark.parametrize(
    ("counter", "more"),
    [
        ({"a": 1}, {}),
        (float("nan"), {}),
        (1 << 63, {}),
        (7, {"keyid": ["x"]}),
        (7, {"key": "\x1b[2J"}),
        (7, {"holds": [{"reason": "r" * 5000, "expires": 1}]}),
        (7, {"holds": [HELD] * 17}),
        (7, {"rollbacks": {"a": "b"}}),
    ],
)
def test_what_is_no_order_is_no_entry_and_holds_nothing_up(
    harbour: EnrolledFleet, counter: Any, more: dict[str, Any]
) -> None:
    tell = teller(harbour, "dev-1")

    tell(counter, "made up", **more)
    tell(8, "nothing any more")
    assert [each.reason for each in entries(harbour)] == ["nothing any more"]
