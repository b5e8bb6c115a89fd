"""Nothing is lost and nothing is counted twice, whatever the broker does with the messages."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import msgpack
import pytest
from sqlalchemy import select, update

from enrolled_fleet import CLASS, DIGEST, EPOCH, NOON, EnrolledDevice, EnrolledFleet
from mailboat_controller.ingest import batch_reading, watermark_rule
from mailboat_controller.ingest.batch import Ingested
from mailboat_controller.ingest.watermark_rule import EPOCH_NEW_ACTION, ROWS_LOST_ACTION
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.rollout.members import Outcome
from mailboat_controller.store import (
    audit,
    devices,
    events,
    manifests,
    outcomes,
    quarantine,
    tables,
    telemetry,
    watermarks,
)
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.envelope import Envelope, PayloadType, sign_as_device
from mailboat_schemas.events import Event, EventBatch, EventKind
from mailboat_schemas.reports import Ack, Hello, Presence, Span
from mailboat_schemas.topics import Channel


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path, database_url)
    yield fleet
    fleet.store.close()


@pytest.fixture
def device(fleet: EnrolledFleet) -> EnrolledDevice:
    return fleet.enrol("dev-1")


def stored(fleet: EnrolledFleet) -> list[int]:
    with fleet.store.read() as tx:
        return [row.sequence for row in events.page(tx, limit=10_000)]


def quarantined(fleet: EnrolledFleet) -> list[str]:
    with fleet.store.read() as tx:
        return [row["code"] for row in quarantine.page(tx)]


def poison(device: EnrolledDevice, count: int) -> list[Incoming]:
    topic = device.topic(Channel.EVENTS)
    return [Incoming(topic=topic, payload=bytes([n])) for n in range(count)]


def actions(fleet: EnrolledFleet) -> list[str]:
    with fleet.store.read() as tx:
        return [row.action for row in audit.page(tx)]


def the_ack(result: Ingested) -> Ack:
    ((_topic, ack),) = result.acks
    return ack


class TestWatermark:
    def test_events_are_stored_and_acknowledged_up_to_the_last(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        result = fleet.take(device.numbered(1, 3))

        assert stored(fleet) == [1, 2, 3]
        assert result.acks == (
            (
                "mb/1/demo/site/-/dev/dev-1/dn/ack",
                Ack(device="dev-1", epoch=EPOCH, events_acked=3, telemetry_acked=0),
            ),
        )

    def test_a_batch_delivered_twice_is_stored_once_and_acknowledged_again(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.numbered(1, 3))

        result = fleet.take(device.numbered(1, 3))

        assert stored(fleet) == [1, 2, 3]
        assert the_ack(result).events_acked == 3
        assert not the_ack(result).rewind

    def test_an_overlapping_batch_adds_only_what_is_new(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.numbered(1, 3), device.numbered(2, 5))

        assert stored(fleet) == [1, 2, 3, 4, 5]

    def test_a_gap_stores_nothing_and_asks_the_device_to_go_back(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.numbered(1, 2))

        ack = the_ack(fleet.take(device.numbered(4, 6)))

        assert stored(fleet) == [1, 2]
        assert (ack.events_acked, ack.rewind) == (2, True)

    def test_one_ack_answers_a_whole_batch_of_messages(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        result = fleet.take(*(device.numbered(n, n) for n in range(1, 51)))

        assert the_ack(result).events_acked == 50

    def test_the_two_streams_do_not_wait_for_each_other(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        result = fleet.take(device.numbered(5, 6), device.telemetry(1, 4))

        ack = the_ack(result)
        assert (ack.events_acked, ack.telemetry_acked, ack.rewind) == (0, 4, True)
        with fleet.store.read() as tx:
            assert telemetry.count(tx) == 4

    @pytest.mark.parametrize("seed", range(5))
    def test_loss_repetition_and_disorder_end_in_every_row_once_and_in_order(
        self, fleet: EnrolledFleet, device: EnrolledDevice, seed: int
    ) -> None:
        rng, acked = random.Random(seed), 0
        for _ in range(200):
            window = [device.numbered(n, n + 2) for n in range(acked + 1, acked + 13, 3)]
            sent = [m for m in window * 2 if rng.random() > 0.4]
            rng.shuffle(sent)
            for _topic, ack in fleet.take(*sent).acks:
                acked = ack.events_acked
            if acked >= 60:
                break

        assert stored(fleet) == list(range(1, acked + 1))
        assert acked >= 60


class TestHello:
    def test_a_hello_is_answered_with_the_watermark(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.numbered(1, 7))

        assert the_ack(fleet.take(device.hello(5, 9))).events_acked == 7

    def test_rows_that_the_device_lost_are_passed_over_but_never_silently(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.numbered(1, 2))

        ack = the_ack(fleet.take(device.hello(6, 9)))
        fleet.take(device.numbered(6, 9))

        assert ack.events_acked == 5
        assert stored(fleet) == [1, 2, 6, 7, 8, 9]
        with fleet.store.read() as tx:
            (entry,) = audit.page(tx)
        assert entry.action == ROWS_LOST_ACTION
        assert entry.details == {"epoch": EPOCH, "stream": "events", "from": 3, "to": 5}

    def test_the_same_hello_again_is_no_second_loss(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.hello(6, 9), device.hello(6, 9))
        fleet.take(device.hello(6, 9))

        assert actions(fleet) == [ROWS_LOST_ACTION]

    def test_a_new_database_goes_on_where_the_outbox_begins(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.hello(5001, 5003, telemetry=(70, 69)), device.numbered(5001, 5003))

        assert stored(fleet) == [5001, 5002, 5003]

    def test_a_sequence_no_database_can_hold_is_refused(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        far = Hello(
            device=device.name,
            epoch=EPOCH,
            events=Span(first=1 << 63, last=0),
            telemetry=Span(first=1, last=0),
        )

        fleet.take(
            Incoming(
                topic=device.topic(Channel.HELLO),
                payload=device.sealed(PayloadType.HELLO, far),
            )
        )

        assert quarantined(fleet) == ["E-PAYLOAD-MALFORMED"]


class TestEpochs:
    def test_after_a_lost_journal_events_told_before_are_not_counted_twice(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        told = [device.event(n) for n in (1, 2, 3)]
        fleet.take(device.events(told))
        device.epoch = "b" * 16
        again = [told[2].model_copy(update={"sequence": 1}), device.event(2, event_id="new:2")]

        ack = the_ack(fleet.take(device.events(again)))

        assert (ack.epoch, ack.events_acked) == ("b" * 16, 2)
        with fleet.store.read() as tx:
            assert [row.event_id for row in events.page(tx)] == [
                "vad:1:trust_stale",
                "vad:2:trust_stale",
                "vad:3:trust_stale",
                "new:2",
            ]
        assert actions(fleet) == [EPOCH_NEW_ACTION]

    def test_the_first_epoch_of_a_device_is_nothing_to_report(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.numbered(1, 1))

        assert actions(fleet) == []

    @pytest.mark.parametrize("epoch", ["A" * 16, "g" * 16])
    def test_what_is_no_epoch_is_set_aside(
        self, fleet: EnrolledFleet, device: EnrolledDevice, epoch: str
    ) -> None:
        batch = EventBatch(device=device.name, epoch=EPOCH, first=1, events=(device.event(1),))
        packed = encode(batch).replace(EPOCH.encode(), epoch.encode())
        assert packed != encode(batch)
        sealed = sign_as_device(PayloadType.EVENT_BATCH, packed, device.key, device.name)

        fleet.take(Incoming(topic=device.topic(Channel.EVENTS), payload=encode(sealed)))

        assert quarantined(fleet) == ["E-PAYLOAD-MALFORMED"]
        with fleet.store.read() as tx:
            assert watermarks.of_device(tx, device.name) == {}

    def test_a_device_that_keeps_losing_its_journal_does_not_fill_the_table(
        self, fleet: EnrolledFleet, device: EnrolledDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watermarks, "EPOCHS_PER_DEVICE_MAX", 3)
        for n in range(5):
            device.epoch = f"{n:016x}"
            fleet.take(device.numbered(1, 1), now=NOON + timedelta(minutes=n))

        with fleet.store.read() as tx:
            held = watermarks.of_device(tx, device.name)
        assert sorted(held) == [f"{n:016x}" for n in (2, 3, 4)]


class TestRefusals:
    def test_poison_is_set_aside_and_what_follows_is_taken(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        poison = Incoming(topic=device.topic(Channel.EVENTS), payload=b"\xff\x00 not msgpack")

        result = fleet.take(poison, device.numbered(1, 2))

        assert result.quarantined == {"E-PAYLOAD-MALFORMED": 1}
        assert stored(fleet) == [1, 2]

    def test_events_signed_with_another_key_are_forged(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        thief = EnrolledDevice(device.name)

        result = fleet.take(thief.tells(1, EventKind.COMMITTED))

        assert quarantined(fleet) == ["E-SIGNATURE"]
        assert result.acks == ()
        assert not result.changed

    def test_an_event_batch_does_not_pass_for_a_report(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        batch = device.numbered(1, 1)

        fleet.take(replace(batch, topic=device.topic(Channel.REPORT)))

        assert quarantined(fleet) == ["E-SIGNATURE"]

    def test_a_device_speaks_for_itself_only(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.enrol("dev-2")

        fleet.take(device.events([device.event(1)], of="dev-2"))

        assert quarantined(fleet) == ["E-TOPIC-MISMATCH"]

    def test_a_device_speaks_from_its_own_site_only(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        device.site = "elsewhere"

        fleet.take(device.numbered(1, 1))

        assert quarantined(fleet) == ["E-TOPIC-MISMATCH"]

    def test_a_device_nobody_enrolled_is_not_heard(self, fleet: EnrolledFleet) -> None:
        fleet.take(EnrolledDevice("stranger").numbered(1, 1))

        assert quarantined(fleet) == ["E-NOT-PERMITTED"]

    def test_a_revoked_device_is_not_heard(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        with fleet.store.transaction() as tx:
            devices.revoke(tx, device.name)

        result = fleet.take(device.tells(1, EventKind.TRIAL_FAILED))

        assert quarantined(fleet) == ["E-NOT-PERMITTED"]
        assert result.acks == ()

    def test_a_payload_over_its_bound_is_not_even_read(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        huge = Incoming(topic=device.topic(Channel.EVENTS), payload=b"x" * (128 * 1024 + 1))

        fleet.take(huge)

        assert quarantined(fleet) == ["E-PAYLOAD-TOO-LARGE"]
        with fleet.store.read() as tx:
            (row,) = quarantine.page(tx)
        assert len(row["payload"]) == quarantine.PAYLOAD_KEPT_BYTES_MAX

    def test_a_batch_whose_numbers_skip_is_malformed(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.events([device.event(1), device.event(3)]))

        assert stored(fleet) == []
        assert quarantined(fleet) == ["E-PAYLOAD-MALFORMED"]

    def test_a_number_no_column_holds_spoils_only_its_own_message(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        far = Presence(device=device.name, session=(1 << 64) - 1, online=True)
        message = Incoming(
            topic=device.topic(Channel.STATUS),
            payload=device.sealed(PayloadType.PRESENCE, far),
        )

        fleet.take(device.numbered(1, 1), message, device.numbered(2, 2))

        assert stored(fleet) == [1, 2]
        assert quarantined(fleet) == ["E-PAYLOAD-MALFORMED"]

    def test_a_retry_epoch_that_no_column_holds_blocks_nothing(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        far = device.tells(1, EventKind.COMMITTED, retry_epoch=(1 << 64) - 1, because="a\0b")

        assert the_ack(fleet.take(far)).events_acked == 1
        assert outcomes_of(fleet) == [Outcome.OK]

    def test_whatever_evidence_a_device_sends_can_be_stored(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        odd = {"nan": float("nan"), "raw": b"\xff\0", "far": 1 << 63, "zero": "a\0b", "n": [{}]}

        fleet.take(device.events([device.event(1, evidence=odd, observed_at=1 << 63)]))

        with fleet.store.read() as tx:
            (row,) = events.page(tx)
        assert row.content["evidence"] == {
            "nan": "nan",
            "raw": "ff00",
            "far": str(1 << 63),
            "zero": "ab",
            "n": [{}],
        }
        assert row.observed_at_ms == events.OBSERVED_MS_MAX

    def test_a_flood_of_poison_pushes_out_its_own_oldest_and_nobody_elses(
        self, fleet: EnrolledFleet, device: EnrolledDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quarantine, "MESSAGES_PER_TOPIC_MAX", 3)
        other = fleet.enrol("dev-2")
        fleet.take(Incoming(topic=other.topic(Channel.EVENTS), payload=b"x"))

        result = fleet.take(*poison(device, 5))

        with fleet.store.read() as tx:
            kept = [row["payload"] for row in quarantine.page(tx)]
        assert kept == [b"x", b"\2", b"\3", b"\4"]
        assert (result.dropped, result.quarantined) == (2, {"E-PAYLOAD-MALFORMED": 5})

    def test_all_poison_together_is_bounded_too(
        self, fleet: EnrolledFleet, device: EnrolledDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quarantine, "MESSAGES_MAX", 4)
        fleet.take(*poison(device, 3))

        result = fleet.take(*poison(fleet.enrol("dev-2"), 3))

        with fleet.store.read() as tx:
            assert quarantine.count(tx) == 4
        assert result.dropped == 2

    def test_the_quarantine_stays_under_sixty_megabytes_whatever_comes(self) -> None:
        row_bytes_max = (
            quarantine.PAYLOAD_KEPT_BYTES_MAX
            + quarantine.PROBLEM_LENGTH_MAX
            + quarantine.TOPIC_LENGTH_MAX
        )

        assert quarantine.MESSAGES_MAX * row_bytes_max < 60_000_000

    def test_a_device_that_begins_outbox_after_outbox_fills_no_log(
        self, fleet: EnrolledFleet, device: EnrolledDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watermark_rule, "LOSSES_PER_DAY_MAX", 3)
        for n in range(10):
            device.epoch = f"{n:016x}"
            fleet.take(device.hello(1, 1))
        assert actions(fleet) == [EPOCH_NEW_ACTION] * 3
        assert quarantined(fleet) == ["E-NOT-PERMITTED"] * 6

        tomorrow = NOON + timedelta(days=1, seconds=1)
        assert the_ack(fleet.take(device.numbered(1, 1), now=tomorrow)).events_acked == 1

    def test_what_a_refused_message_began_is_undone_with_it(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.numbered(1, 1))
        device.epoch = "b" * 16
        first = watermark_rule.SEQUENCE_MAX + 1

        fleet.take(device.hello(first, first))
        fleet.take(device.numbered(1, 1))

        assert actions(fleet) == [EPOCH_NEW_ACTION]  # at the message that was taken


class TestRowsFromANewerAgent:
    """A row that this program cannot read is kept, and holds up nothing behind it."""

    def batch(self, device: EnrolledDevice, *changes: dict[str, object]) -> Incoming:
        """Consecutive events of one signed batch, each changed as a newer agent might have."""
        rows = [
            {**device.event(n).model_dump(mode="python"), **each}
            for n, each in enumerate(changes, start=1)
        ]
        content = {"v": 1, "device": device.name, "epoch": device.epoch, "first": 1, "events": rows}
        envelope = sign_as_device(
            PayloadType.EVENT_BATCH, msgpack.packb(content), device.key, device.name
        )
        return Incoming(topic=device.topic(Channel.EVENTS), payload=encode(envelope))

    NEWER: ClassVar[dict[str, object]] = {
        "kind": "of_a_newer_agent",
        "event_id": "vad:7:drill",
        "drill": {"a": 1},
    }

    def test_an_event_of_an_unknown_kind_is_stored_raw_and_acknowledged(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        result = fleet.take(self.batch(device, {}, self.NEWER, {}))

        assert the_ack(result).events_acked == 3
        assert result.events == {"trust_stale": 2, "unknown": 1}
        with fleet.store.read() as tx:
            rows = events.page(tx)
        assert [row.kind for row in rows] == ["trust_stale", "unknown", "trust_stale"]
        assert rows[1].event_id == "vad:7:drill"
        assert rows[1].content["drill"] == {"a": 1}

    def test_it_leaves_a_note_in_the_quarantine_once(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        message = self.batch(device, {}, self.NEWER)

        fleet.take(message, message)

        with fleet.store.read() as tx:
            (note,) = quarantine.page(tx)
        assert note["code"] == batch_reading.UNREAD_CODE
        assert note["problem"].startswith("1 rows cannot be read here, the first is 2 (kind: ")

    def test_a_row_that_is_no_map_keeps_its_place(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        content = {"v": 1, "device": device.name, "epoch": EPOCH, "first": 1, "events": [7, None]}
        payload = msgpack.packb(content)
        envelope = sign_as_device(PayloadType.EVENT_BATCH, payload, device.key, device.name)
        message = Incoming(topic=device.topic(Channel.EVENTS), payload=encode(envelope))

        assert the_ack(fleet.take(message)).events_acked == 2
        with fleet.store.read() as tx:
            rows = events.page(tx)
        assert [(row.sequence, row.content) for row in rows] == [
            (1, {"row": 7}),
            (2, {"row": None}),
        ]
        assert {row.event_id for row in rows} == {f"unread:{EPOCH}:1", f"unread:{EPOCH}:2"}

    def test_a_gap_among_rows_that_cannot_be_read_is_a_gap(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(self.batch(device, {}, {**self.NEWER, "sequence": 9}))

        assert stored(fleet) == []
        assert quarantined(fleet) == ["E-PAYLOAD-MALFORMED"]

    def test_a_batch_nobody_signed_is_not_read_at_all(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(self.batch(EnrolledDevice(device.name), self.NEWER))

        assert stored(fleet) == []
        assert quarantined(fleet) == ["E-SIGNATURE"]

    def test_a_newer_program_reads_it_and_acts_on_it(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        failed = {"kind": "trial_failed", "digest": DIGEST, "code": "p95"}
        fleet.take(self.batch(device, {**failed, "code": "x" * 65}, {"kind": "still_unknown"}))
        assert outcomes_of(fleet) == []
        with fleet.store.transaction() as tx:  # what was too long is not, from this version on
            ours = tx.execute(select(tables.events.c.content).limit(1)).scalar_one()
            tx.execute(
                update(tables.events)
                .where(tables.events.c.sequence == 1)
                .values(content={**ours, "code": "p95"})
            )

        with fleet.store.transaction() as tx:
            assert batch_reading.reread(tx, NOON) == 1
            assert batch_reading.reread(tx, NOON) == 0

        assert outcomes_of(fleet) == [Outcome.FAILED]
        with fleet.store.read() as tx:
            assert [row.kind for row in events.page(tx)] == ["trial_failed", "unknown"]

    def test_a_window_that_cannot_be_read_is_passed_over(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        message = device.telemetry(1, 3)
        content = msgpack.unpackb(decode(Envelope, message.payload).payload)
        content["windows"][1]["seconds"] = -1.0
        kind = PayloadType.TELEMETRY_BATCH
        newer = sign_as_device(kind, msgpack.packb(content), device.key, device.name)

        result = fleet.take(replace(message, payload=encode(newer)))

        assert (the_ack(result).telemetry_acked, result.windows) == (3, 2)
        assert quarantined(fleet) == [batch_reading.UNREAD_CODE]


def outcomes_of(fleet: EnrolledFleet) -> list[Outcome]:
    with fleet.store.read() as tx:
        return [row.outcome for row in outcomes.of_release(tx, DIGEST)]


class TestOutcomes:
    STORY = (
        (EventKind.TRIAL_STARTED, Outcome.EXPOSED),
        (EventKind.SOAK_STARTED, Outcome.EXPOSED),
        (EventKind.COMMITTED, Outcome.OK),
    )

    def outcome(self, fleet: EnrolledFleet) -> outcomes.OutcomeRow:
        with fleet.store.read() as tx:
            (row,) = outcomes.of_release(tx, DIGEST)
        return row

    def test_an_outcome_follows_the_events(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        for sequence, (kind, expected) in enumerate(self.STORY, start=1):
            fleet.take(device.tells(sequence, kind))
            assert self.outcome(fleet).outcome is expected

    def test_a_failure_keeps_its_words(self, fleet: EnrolledFleet, device: EnrolledDevice) -> None:
        result = fleet.take(
            device.tells(1, EventKind.ROLLED_BACK, code="p95", because="p95 was 80 ms")
        )

        assert result.changed
        assert (self.outcome(fleet).code, self.outcome(fleet).because) == ("p95", "p95 was 80 ms")

    def test_a_retry_is_another_outcome(self, fleet: EnrolledFleet, device: EnrolledDevice) -> None:
        fleet.take(device.tells(1, EventKind.TRIAL_FAILED))
        fleet.take(device.tells(2, EventKind.COMMITTED, retry_epoch=1))

        with fleet.store.read() as tx:
            rows = outcomes.of_release(tx, DIGEST)
            assert outcomes.highest_failed_epoch(tx, DIGEST, offered=9) == 0
        assert [(row.retry_epoch, row.outcome) for row in rows] == [
            (0, Outcome.FAILED),
            (1, Outcome.OK),
        ]

    def test_every_order_of_the_same_events_gives_the_same_outcome(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        kinds = (EventKind.RETURNED, EventKind.TRIAL_STARTED, EventKind.ROLLED_BACK)
        told = set()
        for n, order in enumerate(itertools.permutations(kinds)):
            digest = f"{n:064x}"
            news = [
                Event(
                    event_id=f"{n}:{kind}",
                    sequence=1,
                    kind=kind,
                    observed_at=0,
                    digest=digest,
                    code=kind.value,
                )
                for kind in order
            ]
            with fleet.store.transaction() as tx:
                outcomes.fold(tx, device.name, [*news, *news], NOON)
                (row,) = outcomes.of_release(tx, digest)
            told.add((row.outcome, row.code))

        assert told == {(Outcome.FAILED, "rolled_back")}


class TestReportsAndPresence:
    def test_a_report_is_kept_and_is_a_sign_of_life(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        result = fleet.take(device.report(manifest_counter=4), now=NOON)

        row = fleet.row(device)
        assert result.changed
        assert (row.manifest_counter, row.last_seen_at) == (4, NOON)
        assert row.report is not None

    def test_a_retained_report_is_old_news_about_life(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.report(manifest_counter=4, retain=True))

        row = fleet.row(device)
        assert row.report is not None
        assert row.last_seen_at is None

    def test_the_same_report_again_changes_nothing(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.report())

        result = fleet.take(device.report(), now=NOON + timedelta(hours=1))

        assert not result.changed
        assert fleet.row(device).last_seen_at == NOON

    def test_a_report_of_another_class_is_refused(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.report(hardware_class=f"{CLASS}-2"))

        assert quarantined(fleet) == ["E-TOPIC-MISMATCH"]

    def test_a_late_will_of_an_older_session_changes_nothing(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.presence(7, online=True), device.presence(6, online=False))

        assert fleet.row(device).online is True

    def test_a_will_is_no_sign_of_life(self, fleet: EnrolledFleet, device: EnrolledDevice) -> None:
        fleet.take(device.presence(7, online=False))

        row = fleet.row(device)
        assert (row.online, row.last_seen_at) == (False, None)

    def test_events_are_a_sign_of_life(self, fleet: EnrolledFleet, device: EnrolledDevice) -> None:
        fleet.take(device.numbered(1, 1))

        assert fleet.row(device).last_seen_at == NOON


class TestForgedMessages:
    """A broker, or a device with another's topic, can withhold what a device says; not say it."""

    def forged(self, device: EnrolledDevice) -> list[Incoming]:
        thief = EnrolledDevice(device.name)  # the same name, another key
        return [
            thief.hello(6, 9),
            thief.telemetry(1, 1),
            thief.presence(99, online=False),
            thief.numbered(1, 1),
            thief.report(session=99),
        ]

    def test_what_another_key_signed_is_set_aside(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        result = fleet.take(*self.forged(device))

        assert quarantined(fleet) == ["E-SIGNATURE"] * 5
        assert result.acks == ()
        assert actions(fleet) == []
        assert fleet.row(device).last_seen_at is None

    def test_a_hello_nobody_signed_passes_over_no_rows(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        span = Span(first=100, last=99)
        hello = Hello(device=device.name, epoch=EPOCH, events=span, telemetry=span)

        fleet.take(Incoming(topic=device.topic(Channel.HELLO), payload=encode(hello)))
        fleet.take(device.numbered(1, 2))

        assert quarantined(fleet) == ["E-PAYLOAD-MALFORMED"]
        assert stored(fleet) == [1, 2]

    def test_one_kind_of_message_does_not_pass_for_another(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        presence = device.presence(1, online=True)

        fleet.take(replace(presence, topic=device.topic(Channel.HELLO)))

        assert quarantined(fleet) == ["E-SIGNATURE"]

    def test_an_acknowledgement_names_the_newest_manifest_of_the_class(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        row = manifests.ManifestRow(
            hardware_class=CLASS,
            counter=41,
            bundle=b"",
            etag="0" * 64,
            content_digest="0" * 64,
            published_at=NOON,
        )
        with fleet.store.transaction() as tx:
            manifests.put(tx, row)

        assert the_ack(fleet.take(device.hello(1, 0))).manifest_counter == 41
