"""Which releases may be retired, what retiring changes, and how it is taken back."""

import pytest

from controller_core import plan
from mailboat_controller.releases.retirement import ReleaseInUse, ReleaseRetired
from mailboat_controller.releases.standing import ReleaseStanding, standings
from mailboat_controller.rollout.state import Phase, Trigger
from mailboat_controller.trust import held_trust
from mailboat_schemas.errors import Conflict
from released_files import Shop, digest_of


@pytest.fixture
def shop(corner_shop: Shop) -> Shop:
    return corner_shop


def two_releases(shop: Shop) -> None:
    """1.1.0 is current, 1.0.0 was before it."""
    for version in ("1.0.0", "1.1.0"):
        shop.publish(version, version.encode())
        shop.complete(version)


def standing_of(shop: Shop, version: str) -> ReleaseStanding:
    row = shop.row(version)
    with shop.store.read() as tx:
        return standings(tx, held_trust.read(tx), [row])[row.digest].standing


class TestIsRefused:
    @pytest.mark.parametrize("force", [pytest.param(False, marks=pytest.mark.slow), True])
    def test_while_it_is_current(self, shop: Shop, force: bool) -> None:
        two_releases(shop)

        with pytest.raises(ReleaseInUse, match="current in class"):
            shop.retire("1.1.0", force=force)

    @pytest.mark.parametrize(
        ("phase", "force"),
        [
            (Phase.RUNNING, True),
            pytest.param(Phase.PAUSED, True, marks=pytest.mark.slow),
            pytest.param(Phase.RUNNING, False, marks=pytest.mark.slow),
        ],
    )
    def test_while_it_is_offered(self, shop: Shop, phase: Phase, force: bool) -> None:
        shop.known["dev-1"] = shop.fleet.enrol("dev-1")
        shop.publish("1.0.0", b"one")
        if phase is Phase.PAUSED:
            shop.reconciler.order("to-1-0-0", Trigger.PAUSE, actor="a", reason="", now=shop.now)
        assert shop.rollout("to-1-0-0").phase is phase

        with pytest.raises(ReleaseInUse, match=f"rollout to-1-0-0 is {phase}"):
            shop.retire("1.0.0", force=force)

    def test_while_a_class_keeps_it_to_go_back_to(self, shop: Shop) -> None:
        two_releases(shop)

        with pytest.raises(ReleaseInUse, match="keeps it to go back to"):
            shop.retire("1.0.0")
        shop.retire("1.0.0", force=True)

    def test_while_a_release_that_is_kept_falls_back_to_it(self, shop: Shop) -> None:
        shop.publish("1.0.0", b"one", approved=False)
        shop.publish("1.1.0", b"two", approved=False, fallback="1.0.0")

        with pytest.raises(ReleaseInUse, match=r"1\.1\.0 declares it as its fallback"):
            shop.retire("1.0.0")

        shop.retire("1.1.0")
        shop.retire("1.0.0")

    def test_while_devices_run_it_by_their_own_word(self, shop: Shop) -> None:
        shop.publish("1.0.0", b"one", approved=False)
        for number in range(5):
            shop.runs(shop.fleet.enrol(f"edge-{number}"), "1.0.0")

        with pytest.raises(ReleaseInUse, match="edge-0, edge-1, edge-2 and 2 more run it"):
            shop.retire("1.0.0")
        shop.retire("1.0.0", force=True)

    @pytest.mark.slow
    def test_twice(self, shop: Shop) -> None:
        shop.publish("1.0.0", b"one", approved=False)
        shop.retire("1.0.0")

        with pytest.raises(ReleaseRetired):
            shop.retire("1.0.0")


class TestARetiredRelease:
    def test_says_so_with_who_and_why(self, shop: Shop) -> None:
        shop.publish("1.0.0", b"one", approved=False)

        shop.retire("1.0.0")

        assert standing_of(shop, "1.0.0") is ReleaseStanding.RETIRED
        assert shop.audited("release.retire") == ["vad@1.0.0"]

    def test_is_not_what_devices_are_sent_back_to(self, shop: Shop) -> None:
        """Its rollout is completed and it is approved; but its files may be gone."""
        two_releases(shop)
        shop.retire("1.0.0", force=True)

        shop.trust.withdraw("1.1.0")
        shop.submit("approval-vad")

        current = shop.assignment().current
        assert current is None

    @pytest.mark.slow
    def test_is_what_devices_are_sent_back_to_when_it_was_not_retired(self, shop: Shop) -> None:
        two_releases(shop)

        shop.trust.withdraw("1.1.0")
        shop.submit("approval-vad")

        current = shop.assignment().current
        assert current is not None
        assert current.version == "1.0.0"

    def test_is_not_approved_again(self, shop: Shop) -> None:
        shop.publish("1.0.0", b"one", approved=False)
        shop.retire("1.0.0")

        shop.trust.release(
            "1.0.0",
            plan("again"),
            variants=[each.model_dump(mode="json") for each in shop.row("1.0.0").parsed().variants],
        )
        reply = shop.submit("release-vad", "approval-vad")

        assert (reply.status, reply.code) == ("rejected", "E-RELEASE-RETIRED")
        assert standing_of(shop, "1.0.0") is ReleaseStanding.RETIRED

    def test_comes_back_while_its_files_are_there(self, shop: Shop) -> None:
        shop.publish("1.0.0", b"one", approved=False)
        shop.retire("1.0.0")
        shop.collect()

        shop.reinstate("1.0.0")

        assert standing_of(shop, "1.0.0") is ReleaseStanding.RELEASED
        for _ in range(2):
            shop.pass_time(days=8)
            assert shop.collect() == 0
        with pytest.raises(Conflict, match="is not retired"):
            shop.reinstate("1.0.0")

    @pytest.mark.slow
    def test_does_not_come_back_without_its_files(self, shop: Shop) -> None:
        shop.publish("1.0.0", b"one", approved=False)
        shop.retire("1.0.0")
        shop.artifacts.delete(digest_of(b"one"))

        with pytest.raises(ReleaseRetired, match="1 files of vad"):
            shop.reinstate("1.0.0")
