"""Outcomes reach whoever asked to be told, once he can be reached; nobody is forgotten."""

import asyncio
import os
import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from controller_core import Core, plan
from enrolled_fleet import FLEET, NOON, EnrolledFleet
from mailboat_controller.metrics.outreach_metrics import OutreachMetrics
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.store import (
    audit,
    audit_readers,
    trust_roles,
    webhook_deliveries,
    webhooks,
)
from mailboat_controller.store.engine import Store
from mailboat_controller.store.webhook_deliveries import DeliveryState
from mailboat_controller.store.webhooks import State, WebhookRow
from mailboat_controller.trust import expiry
from mailboat_controller.webhooks import courier as courier_module
from mailboat_controller.webhooks import expiring, retry, secrets_room, signing
from mailboat_controller.webhooks.courier import Courier
from mailboat_controller.webhooks.settings import WebhookSettings
from mailboat_schemas.errors import Conflict
from mailboat_schemas.events import EventKind
from mailboat_schemas.tracing import trace_id
from webhook_receiver import Receiver, webhook_receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Site:
    def __init__(self, directory: Path, receiver: Receiver, store: Store, ca: Path) -> None:
        self.store = store
        self.settings = WebhookSettings(ca=ca)
        self.receiver = receiver
        self.now = NOON
        self.secrets = directory / "webhooks"
        self.courier = self.start()
        self.courier.take_in()

    def start(self) -> Courier:
        return Courier(
            self.store,
            self.settings,
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
            secret_file=secrets_room.keep(self.secrets, name, SECRET),
        )
        for field, value in more.items():
            object.__setattr__(row, field, value)
        with self.store.transaction() as tx:
            webhooks.add(tx, row)

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
            return [row.state for row in webhook_deliveries.deliveries(tx, name, 100)]

    def hook(self, name: str = "chat") -> WebhookRow:
        with self.store.read() as tx:
            return webhooks.get(tx, name)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The system's many take fifty times as long to read."""
    directory = tmp_path_factory.mktemp("authority")
    return Authority.create(directory, FLEET, now=datetime.now(UTC)).ca_path


@pytest.fixture
def site(tmp_path: Path, ca: Path) -> Iterator[Site]:
    with webhook_receiver() as receiver:
        fleet = EnrolledFleet(tmp_path)
        yield Site(tmp_path, receiver, fleet.store, ca)
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
    wanted = signing.headers([signing.key_of(SECRET)], event["id"], heard.body, site.now)
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
    site.happens("device.revoke")
    assert site.turn() == 0
    assert site.types() == ["device.flooding"]  # he is away: the others wait with the first

    site.now += timedelta(hours=7)
    site.receiver.heard.clear()
    site.receiver.status = 204
    assert site.turn() == 3
    assert site.types() == ["device.flooding", "device.doubled", "device.revoked"]
    assert site.states() == [DeliveryState.DELIVERED] * 3
    assert site.turn() == 0
    assert site.hook().failures == 0


def test_a_receiver_that_is_away_is_asked_ever_less_however_much_waits(site: Site) -> None:
    site.add()
    site.receiver.status = 503
    for number in range(10):
        site.happens(subject=f"dev-{number}")
    for _ in range(20):
        site.turn()
        site.now += timedelta(seconds=10)

    assert 3 <= len(site.receiver.heard) <= 8  # and not one each time
    assert {each.event["subject"] for each in site.receiver.heard} == {"dev-0"}


def test_an_event_that_is_refused_keeps_no_other_waiting(site: Site) -> None:
    site.add()
    site.happens("device.flooding")
    site.receiver.status = 422
    site.turn()
    site.receiver.heard.clear()
    site.receiver.status = 200
    site.happens("device.doubled")

    assert site.turn() == 1
    assert site.types() == ["device.doubled"]
    assert sorted(site.states()) == [DeliveryState.DELIVERED, DeliveryState.WAITING]


def test_what_waited_for_too_long_is_given_up_with_the_next_failure(site: Site) -> None:
    site.add()
    site.receiver.status = 503
    for number in range(3):
        site.happens(subject=f"dev-{number}")
    site.turn()
    site.now += retry.RETRY_FOR
    site.happens(subject="dev-9")
    site.turn()

    assert sorted(site.states()) == [DeliveryState.GIVEN_UP] * 3 + [DeliveryState.WAITING]


def test_one_that_is_removed_or_switched_off_in_a_turn_hears_no_more(site: Site) -> None:
    site.add()
    for number in range(5):
        site.happens(subject=f"dev-{number}")

    def remove() -> None:
        with site.store.transaction() as tx:
            webhooks.remove(tx, "chat")

    site.receiver.meanwhile = remove
    site.turn()

    assert len(site.receiver.heard) == 1
    with site.store.read() as tx:
        assert webhook_deliveries.deliveries(tx, "chat", 10) == ()


def test_nobody_is_told_of_what_was_before_him_however_late_it_is_read(site: Site) -> None:
    site.happens("device.flooding")
    site.add()
    with site.store.transaction() as tx:
        audit.append(tx, at=site.now, actor="x", action="webhook.add", subject="chat")
    site.happens("device.doubled")

    site.turn()

    assert site.types() == ["device.doubled"]


def _threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("webhooks")]


def test_slow_receivers_keep_no_thread_of_others_and_stopping_does_not_wait_for_them(
    site: Site,
) -> None:
    """More of them than asyncio has threads; the leader needs those for everything else."""
    hold = threading.Event()
    site.receiver.meanwhile = lambda: hold.wait(60)
    count = min(32, (os.cpu_count() or 1) + 4) + 1
    for number in range(count):
        site.add(f"slow-{number}")
    site.happens()

    async def scenario() -> float:
        run = asyncio.create_task(site.courier.run())
        while len(site.receiver.heard) < count:  # noqa: ASYNC110  of other threads
            await asyncio.sleep(0.01)
        await asyncio.to_thread(lambda: None)  # hangs where they have taken every thread
        run.cancel()
        started = time.monotonic()
        await asyncio.gather(run, return_exceptions=True)
        while _threads():  # noqa: ASYNC110  they end by themselves
            await asyncio.sleep(0.01)
        return time.monotonic() - started

    try:
        assert asyncio.run(asyncio.wait_for(scenario(), 60)) < 8
        # All were called before one took his ten seconds, and then we left, not they.
        assert [site.hook(f"slow-{number}").failures for number in range(count)] == [0] * count
    finally:
        hold.set()


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
    monkeypatch.setattr(webhook_deliveries, "WAITING_MAX", 3)
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
    (site.secrets / site.hook().secret_file).unlink()
    site.happens()

    assert site.turn() == 0
    assert site.receiver.heard == []
    with site.store.read() as tx:
        (row,) = webhook_deliveries.deliveries(tx, "chat", 10)
    assert "secret" in row.problem


def keys(site: Site) -> tuple[bytes, ...]:
    return secrets_room.read(site.secrets, "chat", site.hook().secret_file, site.now)


def files(site: Site) -> set[str]:
    return {path.name for path in site.secrets.iterdir()}


def written_at(site: Site, ago: timedelta) -> None:
    for path in site.secrets.iterdir():
        os.utime(path, ((site.now - ago).timestamp(),) * 2)


class Crash(Exception):
    """The power fails here."""


def test_a_new_secret_whose_commit_fails_leaves_the_one_before_in_force(site: Site) -> None:
    site.add()
    before = site.hook().secret_file

    def renew() -> None:
        with site.store.transaction() as tx:
            secret = signing.new_secret()
            file, _ = secrets_room.renew(site.secrets, "chat", before, secret, site.now)
            webhooks.set_secret_file(tx, "chat", before, file)
            raise Crash

    with pytest.raises(Crash):
        renew()
    assert keys(site) == (signing.key_of(SECRET),)
    written_at(site, secrets_room.LEFT_OVER_AFTER)
    site.courier._forget_old()
    assert files(site) == {before}
    assert keys(site) == (signing.key_of(SECRET),)


def test_what_a_crash_left_of_one_that_was_not_added_or_is_removed_is_swept(site: Site) -> None:
    site.add()
    site.add("other")
    secrets_room.keep(site.secrets, "never", SECRET)  # and no commit
    (site.secrets / "half.0123.secret.new").write_bytes(b"whs")
    with site.store.transaction() as tx:
        webhooks.remove(tx, "other")  # and nobody removes its file
    assert len(files(site)) == 4

    written_at(site, secrets_room.LEFT_OVER_AFTER)
    site.courier._forget_old()

    assert files(site) == {site.hook().secret_file}


def test_a_secret_whose_commit_is_still_to_come_is_not_swept(site: Site) -> None:
    file = secrets_room.keep(site.secrets, "chat", SECRET)
    written_at(site, secrets_room.LEFT_OVER_AFTER - timedelta(seconds=1))

    site.courier._forget_old()

    assert files(site) == {file}


def test_of_two_new_secrets_at_once_the_second_is_refused(site: Site) -> None:
    site.add()
    before = site.hook().secret_file
    with site.store.transaction() as tx:
        webhooks.set_secret_file(tx, "chat", before, "chat.1.secret")

    with pytest.raises(Conflict), site.store.transaction() as tx:
        webhooks.set_secret_file(tx, "chat", before, "chat.2.secret")

    assert site.hook().secret_file == "chat.1.secret"


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


def test_the_wait_doubles_up_to_its_bound_and_half_of_it_is_jitter() -> None:
    rng = random.Random(3)
    for attempt in range(1, 40):
        whole = min(retry.RETRY_MAX, retry.RETRY_MIN * 2 ** min(attempt - 1, 20))
        assert whole / 2 <= retry.delay(attempt, rng) <= whole


@pytest.mark.parametrize(
    ("status", "said", "wait"),
    [
        (503, "120", timedelta(minutes=2)),
        (429, "Mon, 01 Jun 2026 12:05:00 GMT", timedelta(minutes=5)),
        (429, "Mon, 01 Jun 2026 11:00:00 GMT", timedelta()),  # it is past
        (503, "86401", retry.RETRY_AFTER_MAX),
        (503, "Sun, 01 Jun 2036 12:00:00 GMT", retry.RETRY_AFTER_MAX),
        (500, "120", timedelta()),
        (None, "120", timedelta()),
        *((503, each, timedelta()) for each in ("", "-1", "soon", "²", "9" * 40, "Mon, 01 Jun 0")),
    ],
)
def test_a_receiver_may_ask_to_be_left_alone_for_a_while(
    status: int | None, said: str, wait: timedelta
) -> None:
    assert retry.asked(status, said, NOON) == wait


def test_a_receiver_that_asks_for_a_while_gets_nothing_before_it_is_over(site: Site) -> None:
    site.add()
    site.receiver.status = 429
    site.receiver.headers["Retry-After"] = "600"
    site.happens("device.flooding")
    site.happens("device.doubled")
    site.turn()
    site.receiver.status = 200
    site.receiver.headers.clear()

    site.now += timedelta(seconds=599)
    assert site.turn() == 0
    assert site.types() == ["device.flooding"]
    site.now += timedelta(seconds=1)
    assert site.turn() == 2


def test_prometheus_is_told_what_waits_since_when_and_what_was_lost(site: Site) -> None:
    site.add()
    site.add("idle")
    site.receiver.status = 503
    site.happens(subject="dev-1")
    site.turn()
    site.now += retry.RETRY_FOR
    site.happens(subject="dev-2")
    site.turn()
    registry = CollectorRegistry()
    registry.register(OutreachMetrics(site.store, ("otlp-audit", "otlp-events")))

    def value(name: str, webhook: str = "chat") -> float | None:
        return registry.get_sample_value(f"mailboat_webhook_{name}", {"webhook": webhook})

    assert (value("active"), value("failures_in_a_row")) == (1, 2)
    assert (value("events_waiting"), value("events_given_up")) == (1, 1)
    assert value("oldest_waiting_timestamp_seconds") == site.now.timestamp()
    assert value("oldest_waiting_timestamp_seconds", "idle") is not None
    assert registry.get_sample_value("mailboat_span_rows_waiting") == 0
    with site.store.transaction() as tx:
        audit_readers.set_reached(tx, "otlp-audit", audit.head(tx)[0] - 2)
        webhooks.set_state(tx, "chat", State.DISABLED, "by alice")
    assert registry.get_sample_value("mailboat_span_rows_waiting") == 2
    assert value("active") == 0


def test_so_many_webhooks_there_may_be_and_no_more(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "WEBHOOKS_MAX", 1)
    site.add()

    with pytest.raises(Conflict):
        site.add("other")


def test_a_turn_reads_and_sends_so_many_and_the_next_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "ENTRIES_AT_ONCE", 2)
    monkeypatch.setattr(courier_module, "DELIVERIES_AT_ONCE", 2)
    site.add()
    for number in range(3):
        site.happens(subject=f"dev-{number}")

    assert [site.courier.take_in() for _ in range(3)] == [2, 1, 0]
    assert [site.courier.deliver("chat") for _ in range(3)] == [2, 1, 0]
