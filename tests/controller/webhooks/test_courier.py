"""Outcomes reach whoever asked to be told, once he can be reached; nobody is forgotten."""

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from controller_core import Core, plan
from enrolled_fleet import FLEET, NOON, EnrolledFleet
from mailboat_controller.store import audit, trust_roles, webhooks
from mailboat_controller.store.engine import Store
from mailboat_controller.store.webhooks import DeliveryState, State, WebhookRow
from mailboat_controller.trust import expiry
from mailboat_controller.webhooks import courier as courier_module
from mailboat_controller.webhooks import expiring, retry, secrets_room, signing
from mailboat_controller.webhooks.courier import Courier
from mailboat_controller.webhooks.settings import WebhookSettings
from mailboat_schemas.events import EventKind
from mailboat_schemas.tracing import trace_id
from webhook_receiver import Receiver, webhook_receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Site:
    def __init__(self, directory: Path, receiver: Receiver, store: Store) -> None:
        self.store = store
        self.receiver = receiver
        self.now = NOON
        self.secrets = directory / "webhooks"
        self.courier = self.start()
        self.courier.take_in()

    def start(self) -> Courier:
        return Courier(
            self.store,
            WebhookSettings(),
            fleet=FLEET,
            secrets_dir=self.secrets,
            now=lambda: self.now,
            rng=random.Random(1),
        )

    def add(self, name: str = "chat", **more: object) -> None:
        row = WebhookRow(
            name=name,
            url=self.receiver.url,
            types=(),
            models=(),
            state=State.ACTIVE,
            because="",
            failures=0,
            failing_since=None,
            created_by="operator:alice",
            created_at=self.now,
        )
        for field, value in more.items():
            object.__setattr__(row, field, value)
        with self.store.transaction() as tx:
            webhooks.add(tx, row)
        secrets_room.keep(self.secrets, name, SECRET)

    def happens(self, action: str = "device.flooding", subject: str = "dev-1") -> None:
        with self.store.transaction() as tx:
            audit.append(tx, at=self.now, actor="controller", action=action, subject=subject)

    def turn(self, name: str = "chat") -> int:
        while self.courier.take_in():
            pass
        return self.courier.deliver(name)

    def types(self) -> list[str]:
        return [each.event["type"].removeprefix("io.mailboat.") for each in self.receiver.heard]

    def states(self, name: str = "chat") -> list[DeliveryState]:
        with self.store.read() as tx:
            return [row.state for row in webhooks.deliveries(tx, name, 100)]

    def hook(self, name: str = "chat") -> WebhookRow:
        with self.store.read() as tx:
            return webhooks.get(tx, name)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with webhook_receiver() as receiver:
        fleet = EnrolledFleet(tmp_path)
        yield Site(tmp_path, receiver, fleet.store)
        fleet.store.close()


@pytest.fixture
def core(site: Site, tmp_path: Path) -> Core:
    """With releases and rollouts; told by the same courier."""
    core = Core(tmp_path / "core")
    site.store = core.store
    site.courier = site.start()
    site.courier.take_in()
    return core


def test_a_halted_rollout_is_told_with_its_release_and_trace(site: Site, core: Core) -> None:
    site.add()
    digest = core.release("1.0.0", plan("first"))
    device = core.fleet.enrol("dev-1")
    core.run()
    core.tell(device, EventKind.TRIAL_STARTED, digest, version="1.0.0", model="vad")
    core.tell(device, EventKind.ROLLED_BACK, digest, version="1.0.0", model="vad")

    site.turn()

    assert site.types()[-1] == "rollout.halted"
    heard = site.receiver.heard[-1]
    event = heard.event
    assert heard.headers["content-type"].startswith("application/cloudevents+json")
    assert event["specversion"] == "1.0"
    assert event["source"] == f"/mailboat/{FLEET}"
    assert event["subject"] == "first"
    assert event["time"] == "2026-06-01T12:00:00Z"
    assert event["data"]["release"] == {"model": "vad", "version": "1.0.0", "digest": digest}
    assert event["traceparent"].split("-")[1] == trace_id(digest)
    assert heard.headers["webhook-id"] == event["id"]
    wanted = signing.headers(signing.key_of(SECRET), event["id"], heard.body, site.now)
    assert heard.headers["webhook-signature"] == wanted["webhook-signature"]


def test_what_is_on_its_way_is_told_to_nobody(site: Site) -> None:
    site.add()
    for action in ("rollout.wave", "rollout.pause", "release.accept", "device.enrol"):
        site.happens(action)

    assert site.turn() == 0
    assert site.receiver.heard == []


def test_what_happened_before_the_controller_had_webhooks_is_not_told(site: Site) -> None:
    site.happens()
    site.courier.take_in()
    site.add()

    assert site.turn() == 0


def test_a_receiver_that_is_away_gets_everything_later_in_order_and_once(site: Site) -> None:
    site.add()
    site.receiver.status = 503
    site.happens("device.flooding")
    site.happens("device.doubled")
    assert site.turn() == 0
    assert len(site.receiver.heard) == 1  # the first failure ends the turn
    assert site.turn() == 0
    assert site.types() == ["device.flooding", "device.doubled"]  # the first one waits its time

    site.now += timedelta(hours=7)
    site.receiver.heard.clear()
    site.receiver.status = 204
    assert site.turn() == 2
    assert site.types() == ["device.flooding", "device.doubled"]
    assert site.states() == [DeliveryState.DELIVERED] * 2
    assert site.turn() == 0
    assert site.hook().failures == 0


def test_the_id_is_the_same_in_every_attempt_and_the_time_is_not(site: Site) -> None:
    site.add()
    site.receiver.status = 500
    site.happens()
    site.turn()
    site.now += timedelta(hours=1)
    site.turn()

    first, second = site.receiver.heard
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]


def test_a_crash_between_taking_in_and_sending_loses_nothing(site: Site) -> None:
    site.add()
    site.happens()
    site.courier.take_in()

    site.courier = site.start()

    assert site.turn() == 1
    assert site.turn() == 0


def test_filters_leave_out_what_nobody_asked_for(site: Site) -> None:
    site.add(types=("io.mailboat.device.doubled",))
    site.happens("device.flooding")
    site.happens("device.doubled")

    assert site.turn() == 1
    assert site.types() == ["device.doubled"]


@pytest.mark.slow
def test_a_filter_for_models_passes_what_is_about_none(site: Site, core: Core) -> None:
    site.add(models=("other",))
    core.release("1.0.0", plan("first"))
    site.happens("rollout.halted", "first")
    site.happens("device.flooding")

    site.turn()

    assert site.types() == ["device.flooding"]


@pytest.mark.slow
def test_after_days_of_failures_an_event_is_given_up_and_the_webhook_disabled_and_told(
    site: Site,
) -> None:
    site.add()
    site.add("other", url=site.receiver.url + "/other")
    site.receiver.status = 500
    end = site.now + retry.DISABLE_AFTER + timedelta(days=1)
    number = 0
    while site.now < end and site.hook().state is State.ACTIVE:
        number += 1
        site.happens(subject=f"dev-{number}")
        site.turn()
        site.now += timedelta(hours=4)

    hook = site.hook()
    assert hook.state is State.DISABLED
    assert "attempts failed in a row" in hook.because
    assert DeliveryState.GIVEN_UP in site.states()
    with site.store.read() as tx:
        entry = audit.newest(tx, "chat", "webhook.disabled")
    assert entry is not None
    site.receiver.status = 200
    site.receiver.heard.clear()
    while site.turn("other"):
        pass
    assert "webhook.disabled" in site.types()
    assert site.turn("chat") == 0  # nothing more goes there


def test_a_receiver_that_says_it_is_gone_is_disabled_at_once(site: Site) -> None:
    site.add()
    site.receiver.status = 410
    site.happens()
    site.turn()

    assert site.hook().state is State.DISABLED


def test_too_many_that_wait_cost_the_oldest(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "WAITING_MAX", 3)
    site.add()
    for number in range(5):
        site.now += timedelta(seconds=1)
        site.happens(subject=f"dev-{number}")
        site.courier.take_in()

    assert sorted(site.states()) == [DeliveryState.GIVEN_UP] * 2 + [DeliveryState.WAITING] * 3
    assert site.turn() == 3
    assert [each.event["subject"] for each in site.receiver.heard] == ["dev-2", "dev-3", "dev-4"]


def test_without_its_secret_nothing_is_sent_and_it_says_why(site: Site) -> None:
    site.add()
    (site.secrets / "chat.secret").unlink()
    site.happens()

    assert site.turn() == 0
    assert site.receiver.heard == []
    with site.store.read() as tx:
        (row,) = webhooks.deliveries(tx, "chat", 10)
    assert "secret" in row.problem


def test_old_deliveries_are_forgotten_and_those_that_wait_are_not(site: Site) -> None:
    site.add()
    site.happens(subject="dev-1")
    site.turn()
    site.receiver.status = 500
    site.happens(subject="dev-2")
    site.turn()

    site.now += courier_module.KEPT_FOR + timedelta(days=1)
    site.courier._forget_old()

    assert site.states() == [DeliveryState.WAITING]


def test_trust_that_runs_out_is_told_once_for_each_urgency(site: Site, core: Core) -> None:
    told = []
    for days in (0, 690, 690, 720, 800):
        site.now = NOON + timedelta(days=days)
        with core.store.transaction() as tx:
            statuses = expiry.role_statuses(trust_roles.newest(tx), site.now)
            roots = [each for each in statuses if each.role == "root"]
            told.append((roots[0].level.value, expiring.tell(tx, roots, site.now)))

    levels = [level for level, _ in told]
    assert [count for _, count in told] == [
        int(level != "ok" and levels.index(level) == place) for place, level in enumerate(levels)
    ]
    assert sum(count for _, count in told) >= 1


class TestRetry:
    def test_the_wait_doubles_up_to_its_bound_and_half_of_it_is_jitter(self) -> None:
        rng = random.Random(3)
        for attempt in range(1, 40):
            at = retry.next_attempt(NOON, attempt, NOON, rng)
            assert at is not None
            whole = min(retry.RETRY_MAX, retry.RETRY_MIN * 2 ** min(attempt - 1, 20))
            assert whole / 2 <= at - NOON <= whole

    def test_after_three_days_no_more_is_tried(self) -> None:
        now = NOON + retry.RETRY_FOR
        assert retry.next_attempt(NOON, 5, now, random.Random(1)) is None
