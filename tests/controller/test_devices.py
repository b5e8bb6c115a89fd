from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enrolled_fleet import migrated_store
from mailboat_controller.store import credentials, device_signs, devices, tokens
from mailboat_controller.store.engine import Store
from mailboat_schemas.errors import Conflict, NotFound, NotPermitted
from mailboat_schemas.reports import ReportedState

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TOKEN = "secret-token"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return migrated_store(tmp_path)


def enrol(store: Store, device: str, **changes: Any) -> int:
    values: dict[str, Any] = {
        "hardware_class": "kiosk",
        "site": "-",
        "labels": {"ring": "early"},
        "public_key": device.encode(),
        "at": NOON,
    }
    with store.transaction() as tx:
        return devices.enrol(tx, device=device, **(values | changes))


def report(session: int, observed_at: int, counter: int = 1) -> ReportedState:
    return ReportedState(
        fleet="demo",
        device="dev-1",
        hardware_class="kiosk",
        site="-",
        session=session,
        observed_at=observed_at,
        manifest_counter=counter,
    )


def row(store: Store, device: str = "dev-1") -> devices.DeviceRow:
    with store.read() as tx:
        return devices.get(tx, device)


class TestEnrolment:
    def test_numbers_count_up_and_are_never_given_twice(self, store: Store) -> None:
        assert [enrol(store, f"dev-{n}") for n in (1, 2, 3)] == [1, 2, 3]

    def test_a_device_that_enrols_again_with_its_key_keeps_its_number_and_moves(
        self, store: Store
    ) -> None:
        enrol(store, "dev-1")
        enrol(store, "dev-2")

        assert enrol(store, "dev-1", site="harbour", labels={}) == 1
        assert (row(store).site, row(store).labels) == ("harbour", {})

    def test_a_name_is_not_given_to_another_key(self, store: Store) -> None:
        enrol(store, "dev-1")

        with pytest.raises(Conflict, match="another key"):
            enrol(store, "dev-1", public_key=b"other")

    def test_a_revoked_device_does_not_come_back_by_enrolling(self, store: Store) -> None:
        enrol(store, "dev-1")
        with store.transaction() as tx:
            assert devices.revoke(tx, "dev-1") is True
            assert devices.revoke(tx, "dev-1") is False

        with pytest.raises(Conflict, match="revoked"):
            enrol(store, "dev-1")

    def test_an_unknown_device_cannot_be_revoked(self, store: Store) -> None:
        with pytest.raises(NotFound), store.transaction() as tx:
            devices.revoke(tx, "dev-9")


class TestPresence:
    def test_the_will_of_an_older_session_changes_nothing(self, store: Store) -> None:
        enrol(store, "dev-1")
        assert row(store).online is None
        with store.transaction() as tx:
            assert device_signs.set_presence(tx, "dev-1", session=7, online=True, at=NOON)
            assert not device_signs.set_presence(tx, "dev-1", session=6, online=False, at=NOON)

        assert row(store).online is True

    def test_the_will_of_the_same_session_counts(self, store: Store) -> None:
        enrol(store, "dev-1")
        with store.transaction() as tx:
            device_signs.set_presence(tx, "dev-1", session=7, online=True, at=NOON)
            assert device_signs.set_presence(tx, "dev-1", session=7, online=False, at=NOON)

        assert row(store).online is False

    def test_last_seen_never_moves_backwards(self, store: Store) -> None:
        enrol(store, "dev-1")
        with store.transaction() as tx:
            device_signs.mark_seen(tx, "dev-1", NOON)
            device_signs.mark_seen(tx, "dev-1", NOON - timedelta(hours=1))
            device_signs.mark_seen_many(tx, {})

        assert row(store).last_seen_at == NOON


class TestReports:
    def test_the_newest_by_session_and_time_wins_in_whatever_order(self, store: Store) -> None:
        enrol(store, "dev-1")
        with store.transaction() as tx:
            assert device_signs.set_report(tx, report(session=2, observed_at=50), at=NOON)
            # A clock that was set back does not make an old session's report newer.
            assert not device_signs.set_report(tx, report(session=1, observed_at=99), at=NOON)
            assert not device_signs.set_report(tx, report(session=2, observed_at=49), at=NOON)
            assert device_signs.set_report(tx, report(session=3, observed_at=1), at=NOON)

        held = row(store).report
        assert held is not None
        assert (held["session"], held["observed_at"]) == (3, 1)

    def test_the_manifest_a_device_has_seen_never_counts_down(self, store: Store) -> None:
        enrol(store, "dev-1")
        with store.transaction() as tx:
            device_signs.set_report(tx, report(session=1, observed_at=1, counter=9), at=NOON)
            device_signs.set_report(tx, report(session=2, observed_at=2, counter=4), at=NOON)

        assert row(store).manifest_counter == 9

    def test_nobody_reports_for_a_device_that_is_not_enrolled(self, store: Store) -> None:
        with store.transaction() as tx:
            assert not device_signs.set_report(tx, report(session=1, observed_at=1), at=NOON)


class TestLists:
    def test_pages_go_by_number_and_filter_by_class_and_site(self, store: Store) -> None:
        for number in range(1, 6):
            enrol(store, f"dev-{number}", site="a" if number % 2 else "b")
        enrol(store, "cam-1", hardware_class="camera")

        with store.read() as tx:
            page = devices.list_page(tx, after=1, limit=2)
            at_b = devices.list_page(tx, site="b")
            cameras = devices.list_page(tx, hardware_class="camera")
            members = devices.members(tx, "kiosk")

        assert [each.device for each in page] == ["dev-2", "dev-3"]
        assert [each.device for each in at_b] == ["dev-2", "dev-4"]
        assert [each.device for each in cameras] == ["cam-1"]
        assert [each.enrolment_number for each in members] == [1, 2, 3, 4, 5]

    def test_counts_of_a_class_add_up_and_unknown_is_not_offline(self, store: Store) -> None:
        for number in range(1, 5):
            enrol(store, f"dev-{number}")
        with store.transaction() as tx:
            device_signs.set_presence(tx, "dev-1", session=1, online=True, at=NOON)
            device_signs.set_presence(tx, "dev-2", session=1, online=False, at=NOON)
            devices.revoke(tx, "dev-4")
        with store.read() as tx:
            (count,) = devices.count_by_class(tx)

        assert count == devices.ClassCount(
            hardware_class="kiosk", enrolled=4, revoked=1, online=1, offline=1, unknown=1
        )


class TestTokens:
    def add(self, store: Store, uses: int) -> None:
        with store.transaction() as tx:
            tokens.add_token(
                tx,
                TOKEN,
                hardware_class="kiosk",
                site="harbour",
                labels={"ring": "early"},
                uses=uses,
                expires_at=NOON + timedelta(hours=1),
                at=NOON,
                created_by="operator:alice",
            )

    def use(self, store: Store, token: str = TOKEN, now: datetime = NOON) -> tokens.Grant:
        with store.transaction() as tx:
            return tokens.use_token(tx, token, now)

    def test_a_token_is_good_for_as_many_uses_as_it_was_made_for(self, store: Store) -> None:
        self.add(store, uses=2)

        assert self.use(store).labels == {"ring": "early"}
        assert self.use(store).site == "harbour"
        with pytest.raises(NotPermitted):
            self.use(store)

    def test_a_token_ends_at_its_hour(self, store: Store) -> None:
        self.add(store, uses=1)

        with pytest.raises(NotPermitted):
            self.use(store, now=NOON + timedelta(hours=1))
        self.use(store, now=NOON + timedelta(minutes=59))

    def test_a_refusal_does_not_tell_why(self, store: Store) -> None:
        self.add(store, uses=1)
        self.use(store)

        with pytest.raises(NotPermitted) as used:
            self.use(store)
        with pytest.raises(NotPermitted) as unknown:
            self.use(store, token="another-token")
        assert str(used.value) == str(unknown.value)

    def test_a_use_in_a_transaction_that_fails_is_given_back(self, store: Store) -> None:
        self.add(store, uses=1)
        with pytest.raises(NotFound), store.transaction() as tx:
            devices.revoke(tx, tokens.use_token(tx, TOKEN, NOON).hardware_class)

        self.use(store)

    def test_the_token_itself_is_nowhere_on_disk(self, store: Store, tmp_path: Path) -> None:
        self.add(store, uses=1)
        store.close()

        for path in tmp_path.iterdir():
            assert TOKEN.encode() not in path.read_bytes()


def test_revoking_a_holder_revokes_all_of_its_certificates_and_nobody_elses(store: Store) -> None:
    with store.transaction() as tx:
        for serial, name, kind in (("a", "x", "ci"), ("b", "x", "ci"), ("c", "y", "ci")):
            credentials.add(tx, serial=serial, name=name, kind=kind, expires_at=NOON, at=NOON)
        assert credentials.revoke(tx, name="x", kind="ci") == 2
        assert credentials.revoke(tx, name="x", kind="ci") == 0
        assert credentials.has_name(tx, "y")
        assert not credentials.has_name(tx, "z")
        revoked = {row.certificate_serial: row.revoked for row in credentials.every(tx)}

    assert revoked == {"a": True, "b": True, "c": False}
