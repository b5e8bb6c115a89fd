"""A device that fetches a release is exposed to it, also when nothing is heard of it again."""

from contextlib import AbstractContextManager
from datetime import timedelta
from itertools import permutations
from pathlib import Path

import pytest
from sqlalchemy import Connection

from delta_fleet import TUNED, DeltaFleet
from enrolled_fleet import CLASS, NOON
from mailboat_controller import rollout_facts
from mailboat_controller.releases.redemption import SEEN_LIFE, Redemptions
from mailboat_controller.rollout.evidence import Exposed, is_exposed, tally, with_redemption
from mailboat_controller.rollout.members import Member, Outcome
from mailboat_controller.store import redemptions, rollouts
from mailboat_controller.store.engine import Store
from mailboat_controller.store.redemptions import Redeemed
from mailboat_schemas.events import EventKind

OLD, SHARED, NEW = b"o" * 5000, b"s" * 5000, b"n" * 5000
MINUTE = timedelta(minutes=1)
TRIED = (EventKind.TRIAL_STARTED,)
GOOD = (*TRIED, EventKind.COMMITTED)
BACK = (*TRIED, EventKind.RETURNED)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> DeltaFleet:
    """1.1.0 is on its way; of its two files one is also of 1.0.0, which everybody runs. Each test
    has devices of its own."""
    fleet = DeltaFleet(tmp_path_factory.mktemp("redemption"))
    fleet.enrol(10)
    fleet.release("1.0.0", OLD, SHARED)
    fleet.runs("1.0.0", fleet.devices[0])
    fleet.release("1.1.0", NEW, SHARED)
    fleet.core.run()
    return fleet


def fetches(fleet: DeltaFleet, device: int, content: bytes, *, times: int = 1) -> None:
    digest = fleet.put(content)["sha256"]
    noted = Redemptions(fleet.core.store)
    for _ in range(times):
        noted.note(f"dev-{device}", digest, fleet.core.now)
        fleet.core.now += SEEN_LIFE


def redeemed(fleet: DeltaFleet, version: str = "1.1.0") -> dict[str, int]:
    with fleet.core.store.read() as tx:
        return redemptions.of_release(tx, fleet.versions[version], since_epoch=0)


def member_of(fleet: DeltaFleet, device: str) -> Member:
    """As the gate sees it in the rollout of 1.1.0."""
    with fleet.core.store.read() as tx:
        rollout = rollouts.get(tx, "r-1-1-0").rollout
        members = rollout_facts.load(tx, rollout, [CLASS], rollout_facts.Classes(tx))[CLASS]
    return next(member for member in members if member.device == device)


def counted(fleet: DeltaFleet) -> tuple[int, int, int]:
    """(waiting, in progress, ok) of the rollout of 1.1.0."""
    (found,) = fleet.core.reconciler.status("r-1-1-0")["classes"].values()
    return found["waiting"], found["in_progress"], found["ok"]


def test_a_device_that_fetched_and_vanished_is_in_progress_and_not_waiting(
    fleet: DeltaFleet,
) -> None:
    waiting, in_progress, ok = counted(fleet)

    fetches(fleet, 0, NEW)

    assert counted(fleet) == (waiting - 1, in_progress + 1, ok)


def test_many_ranges_and_tries_of_a_download_are_one_row_with_the_first_time(
    fleet: DeltaFleet,
) -> None:
    began_ms = int(fleet.core.now.timestamp() * 1000)

    fetches(fleet, 1, NEW, times=3)

    assert redeemed(fleet)["dev-1"] == began_ms


def test_the_files_of_a_release_are_one_write_to_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = DeltaFleet(tmp_path)
    fleet.enrol(2)
    fleet.release("1.0.0", NEW, OLD, SHARED)
    fleet.core.run()
    noted, begun = Redemptions(fleet.core.store), []
    transaction = fleet.core.store.device_transaction

    def counted_transaction() -> AbstractContextManager[Connection]:
        begun.append(1)
        return transaction()

    monkeypatch.setattr(fleet.core.store, "device_transaction", counted_transaction)

    for device in ("dev-0", "dev-1"):
        for content in (NEW, OLD, SHARED):
            noted.note(device, fleet.put(content)["sha256"], fleet.core.now)

    assert len(begun) == 2
    assert set(redeemed(fleet, "1.0.0")) == {"dev-0", "dev-1"}


def test_what_is_not_of_the_offered_release_alone_says_nothing(fleet: DeltaFleet) -> None:
    for content in (OLD, SHARED, b"of no release"):
        fetches(fleet, 2, content)

    assert "dev-2" not in redeemed(fleet)
    assert redeemed(fleet, "1.0.0") == {}


@pytest.mark.slow
def test_a_patch_for_a_file_of_it_is_as_good_as_the_file(tmp_path: Path) -> None:
    fleet = DeltaFleet(tmp_path)
    fleet.upgrade()
    fleet.build_all()
    (delta, *_) = [each for each in fleet.core.desired().deltas if each.base is not None]
    assert delta.target == fleet.put(TUNED)["sha256"]

    Redemptions(fleet.core.store).note("dev-0", delta.patch, fleet.core.now)

    assert set(redeemed(fleet)) == {"dev-0"}


def test_a_download_and_the_news_of_it_come_to_the_same_in_any_order(fleet: DeltaFleet) -> None:
    """dev-3 to dev-5 fetch before they tell, dev-6 to dev-8 tell before we see them fetch."""
    digest, stories = fleet.versions["1.1.0"], (TRIED, GOOD, BACK)
    found = []
    for first, then_told in ((3, True), (6, False)):
        before = counted(fleet)
        for number, kinds in enumerate(stories, first):
            if then_told:
                fetches(fleet, number, NEW)
            for kind in kinds:
                fleet.core.tell(fleet.devices[number], kind, digest)
            fetches(fleet, number, NEW)
        found.append([new - old for old, new in zip(before, counted(fleet), strict=True)])

    assert found == [[-3, 2, 1]] * 2


def test_every_order_of_a_refusal_a_trial_and_a_download_folds_to_one_outcome() -> None:
    found = set()
    for order in permutations((Outcome.REFUSED, Outcome.EXPOSED, None)):
        outcome: Outcome | None = None
        at: int | None = None
        redeemed_at: int | None = None
        for step in order:
            if step is None:
                redeemed_at = 5
            elif outcome is not Outcome.EXPOSED:
                outcome, at = step, (9 if step is Outcome.EXPOSED else None)
        found.add(with_redemption(outcome, at, redeemed_at))

    assert found == {(Outcome.EXPOSED, 5)}


def test_who_fetched_and_then_refused_was_never_exposed() -> None:
    assert with_redemption(Outcome.REFUSED, None, 5) == (Outcome.REFUSED, None)


def test_a_good_verdict_of_an_earlier_try_is_no_exposure_in_this_one() -> None:
    assert with_redemption(Outcome.OK, None, 5) == (Outcome.OK, None)


def test_a_download_of_an_earlier_try_says_nothing_of_this_one(fleet: DeltaFleet) -> None:
    with fleet.core.store.transaction() as tx:
        redemptions.note(tx, "dev-0", [Redeemed("ee" * 32, 0)], fleet.core.now)
        assert redemptions.of_release(tx, "ee" * 32, since_epoch=0) != {}
        assert redemptions.of_release(tx, "ee" * 32, since_epoch=1) == {}


def test_who_fetched_and_says_nothing_is_overdue_in_time(fleet: DeltaFleet) -> None:
    at = fleet.core.now
    outcome, exposed_at_ms = with_redemption(None, None, int(at.timestamp() * 1000))
    member = Member(
        device="dev-0", enrolment_number=1, outcome=outcome, exposed_at_ms=exposed_at_ms
    )
    assert is_exposed(member)

    exposed = [Exposed(member, "kiosk", 0)]
    assert tally(exposed, at - timedelta(seconds=1)).overdue == 0
    assert tally(exposed, at).overdue == 1


@pytest.mark.parametrize(
    ("fetched", "seen_hours", "overdue"),
    [(True, 25, 0), (True, 1, 1), (True, None, 1), (False, 25, 1)],
    ids=["waits for its window", "vanished", "never heard of", "owes the verdict of its trial"],
)
def test_who_fetched_ahead_and_is_heard_of_has_not_vanished(
    fetched: bool, seen_hours: int | None, overdue: int
) -> None:
    """A download may come days before its window; judged 30 hours after it, a day is allowed."""
    began_ms, hour_ms = int(NOON.timestamp() * 1000), 3_600_000
    member = Member(
        device="dev-0",
        enrolment_number=1,
        outcome=Outcome.EXPOSED,
        exposed_at_ms=began_ms,
        fetched=fetched,
        seen_at_ms=None if seen_hours is None else began_ms + seen_hours * hour_ms,
    )

    found = tally([Exposed(member, "kiosk", 0)], NOON + timedelta(hours=6))

    assert (found.silent, found.overdue) == (1, overdue)


def test_only_who_told_nothing_is_known_by_its_download_alone(fleet: DeltaFleet) -> None:
    fetches(fleet, 9, NEW)
    alone = member_of(fleet, "dev-9")
    fleet.core.tell(fleet.devices[9], EventKind.TRIAL_STARTED, fleet.versions["1.1.0"])

    assert alone.fetched
    assert not member_of(fleet, "dev-9").fetched
    assert member_of(fleet, "dev-9").exposed_at_ms == alone.exposed_at_ms


def test_what_was_looked_up_is_forgotten_at_its_bound(fleet: DeltaFleet) -> None:
    noted = Redemptions(fleet.core.store, seen_max=2)

    for device in fleet.devices[:5]:
        noted.note(device.name, "ff" * 32, fleet.core.now)

    assert len(noted._seen) == 2


def test_noting_it_again_keeps_the_first_time_in_either_database(database_url: str) -> None:
    store = Store(database_url)
    store.migrate()
    for minutes, epoch in ((1, 0), (2, 0), (3, 1)):
        with store.device_transaction() as tx:
            redemptions.note(tx, "dev-0", [Redeemed("aa" * 32, epoch)], NOON + minutes * MINUTE)

    with store.read() as tx:
        first = redemptions.of_release(tx, "aa" * 32, since_epoch=0)
        later = redemptions.of_release(tx, "aa" * 32, since_epoch=1)
    store.close()

    noon_ms = int(NOON.timestamp() * 1000)
    assert (first, later) == ({"dev-0": noon_ms + 60_000}, {"dev-0": noon_ms + 180_000})
