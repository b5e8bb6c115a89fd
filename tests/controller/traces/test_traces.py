"""One release's story, in order, from what is stored; and as spans for those who collect them."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import structlog

from controller_core import Core, plan
from enrolled_fleet import CLASS, FLEET, EnrolledDevice
from mailboat_controller.ingest import failure_lines
from mailboat_controller.store import audit_readers, releases, trace_rows
from mailboat_controller.traces import export, reading
from mailboat_controller.traces.export import SpanExporter
from mailboat_schemas.errors import ConfigurationInvalid, NotFound
from mailboat_schemas.events import EventKind
from mailboat_schemas.tracing import span_id, trace_id, traceparent
from webhook_receiver import Receiver, webhook_receiver


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def story(core: Core) -> tuple[str, EnrolledDevice]:
    """Submitted, approved and offered; one device tried it and went back."""
    device = core.fleet.enrol("dev-1")
    digest = core.release("1.0.0", plan("first"))
    core.now += timedelta(seconds=30)
    core.run()
    core.now += timedelta(seconds=30)
    core.tell(device, EventKind.TRIAL_STARTED, digest, version="1.0.0")
    core.now += timedelta(seconds=30)
    core.tell(device, EventKind.ROLLED_BACK, digest, version="1.0.0", code="latency")
    return digest, device


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """With its story; only read."""
    core = Core(tmp_path_factory.mktemp("core"))
    story(core)
    yield core
    core.store.close()


def digest_of(core: Core) -> str:
    with core.store.read() as tx:
        row = releases.by_version(tx, "vad", "1.0.0")
    assert row is not None
    return row.digest


def read(core: Core, of: str, device: str | None = None) -> reading.Trace:
    with core.store.read() as tx:
        return reading.read(tx, of, device)


def test_the_chain_goes_from_the_submission_to_what_the_device_made_of_it(told: Core) -> None:
    core, digest = told, digest_of(told)

    found = read(core, "vad@1.0.0")

    assert found.trace_id == trace_id(digest)
    assert [step.what for step in found.steps] == [
        "release.accept",
        "release.approve",
        "submission.accept",
        "rollout.running",
        "rollout.wave",
        "manifest.offer",
        "device.trial_started",
        "device.rolled_back",
        "rollout.halted",
    ]
    times = [step.at for step in found.steps]
    assert times == sorted(times)
    offer = found.steps[5]
    assert (offer.subject, offer.details["counter"]) == (CLASS, core.desired().counter - 1)
    assert found.steps[-2].details["code"] == "latency"
    assert found.steps[-2].device_at is None  # its clock says 1970, which nobody believes
    assert len({step.span for step in found.steps}) == len(found.steps)


def test_every_name_leads_to_the_same_trace(told: Core) -> None:
    core, digest = told, digest_of(told)
    with core.store.read() as tx:
        event = trace_rows.events_of(tx, "dev-1", digest)[0]

    traces = {
        read(core, of).trace_id
        for of in ("vad@1.0.0", digest, trace_id(digest), f"dev-1/{event.event_id}")
    }

    assert traces == {trace_id(digest)}


@pytest.mark.parametrize(
    "of", ["vad@9.9.9", "f" * 64, "f" * 32, "dev-1/nothing", "nothing", "@", "/", "vad@1.0.0@x"]
)
def test_what_nobody_knows_is_not_found(told: Core, of: str) -> None:
    with pytest.raises(NotFound):
        read(told, of)


def test_of_a_large_fleet_those_with_the_worst_news_are_shown(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "DEVICES_SHOWN_MAX", 2)
    devices = [core.fleet.enrol(f"dev-{number}") for number in range(4)]
    digest = core.release("1.0.0", plan("first"))
    kinds = (EventKind.COMMITTED, EventKind.TRIAL_STARTED, EventKind.ROLLED_BACK)
    for device, kind in zip(devices, kinds, strict=False):
        core.tell(device, kind, digest, version="1.0.0")

    found = read(core, "vad@1.0.0")

    assert (found.devices, found.devices_shown) == (3, 2)
    told = [step.who for step in found.steps if step.what.startswith("device.")]
    assert set(told) == {"dev-2", "dev-1"}
    one = read(core, "vad@1.0.0", "dev-0")
    assert [step.who for step in one.steps if step.what.startswith("device.")] == ["dev-0"]


def test_a_trace_is_bounded_whatever_happened(told: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_rows, "EVENTS_PER_DEVICE_MAX", 1)
    monkeypatch.setattr(reading, "ENTRIES_PER_SUBJECT_MAX", 1)

    steps = [step.what for step in read(told, "vad@1.0.0").steps]

    assert [each for each in steps if each.startswith("device.")] == ["device.rolled_back"]
    assert [each for each in steps if each.startswith("rollout.")] == ["rollout.running"]


def test_a_submission_is_looked_for_among_a_few_entries_after_its_release(
    told: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [step.what for step in read(told, "vad@1.0.0").steps]
    monkeypatch.setattr(reading, "SUBMISSION_WITHIN_ENTRIES", 0)

    assert [step.what for step in read(told, "vad@1.0.0").steps] == [
        each for each in found if each != reading.SUBMITTED
    ]
    assert reading.SUBMITTED in found


def test_ids_have_the_form_of_the_w3c_and_are_the_same_everywhere() -> None:
    trace = trace_id("a1" * 32)

    assert trace == "a8b667cd61e2b30f10462660db1b6972"  # for ever: others have written it down
    assert trace != trace_id("a2" * 32)
    header = traceparent(trace, span_id(trace, "audit 1"))
    version, found, parent, flags = header.split("-")
    assert (version, found, len(parent), flags) == ("00", trace, 16, "01")
    assert int(parent, 16) > 0


# Source: OpenTelemetry Protocol 1.x, "JSON Protobuf Encoding".


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with webhook_receiver() as collector:
        yield collector


def exporter_of(
    core: Core, collector: Receiver, now: Callable[[], datetime] | None = None
) -> SpanExporter:
    url = f"http://127.0.0.1:{collector.port}"
    with core.store.transaction() as tx:
        for reader in (export.AUDIT_READER, export.EVENT_READER):
            audit_readers.set_reached(tx, reader, 0)
    return SpanExporter(core.store, url, fleet=FLEET, now=now or (lambda: core.now))


def test_a_story_arrives_as_one_trace_under_one_root(told: Core, collector: Receiver) -> None:
    core, digest = told, digest_of(told)

    exporter_of(core, collector).export()

    (heard,) = collector.heard
    assert heard.path == "/v1/traces"
    assert heard.headers["content-type"] == "application/json"
    (resource,) = json.loads(heard.body)["resourceSpans"]
    attributes = {each["key"]: each["value"] for each in resource["resource"]["attributes"]}
    assert attributes["service.namespace"] == {"stringValue": FLEET}
    spans = resource["scopeSpans"][0]["spans"]
    assert {span["traceId"] for span in spans} == {trace_id(digest)}
    (root,) = [span for span in spans if "parentSpanId" not in span]
    assert root["name"] == "release vad@1.0.0"
    assert {span.get("parentSpanId") for span in spans} == {None, root["spanId"]}
    by_name = {span["name"]: span for span in spans}
    assert by_name["device.rolled_back"]["status"]["code"] == 2
    halted = by_name["rollout.halted"]
    lasted_ns = int(halted["endTimeUnixNano"]) - int(halted["startTimeUnixNano"])
    assert lasted_ns == 90 * 10**9


def test_nothing_is_sent_twice_and_a_collector_that_is_away_loses_nothing(
    told: Core, collector: Receiver
) -> None:
    core = told
    exporter = exporter_of(core, collector)
    collector.status = 503
    with pytest.raises(ConfigurationInvalid):
        exporter.export()

    collector.status = 200
    assert exporter.export() > 0
    assert exporter.export() == 0
    assert len(collector.heard) == 2
    assert collector.heard[0].body == collector.heard[1].body


def test_what_a_collector_cannot_read_is_passed_over_and_keeps_nothing_waiting(
    told: Core, collector: Receiver
) -> None:
    exporter = exporter_of(told, collector)
    collector.status = 400

    assert exporter.export() > 0
    assert exporter.export() == 0
    assert len(collector.heard) == 1


def test_what_is_older_than_a_day_is_passed_over(told: Core, collector: Receiver) -> None:
    later = told.now + export.SKIP_OLDER + timedelta(hours=1)
    exporter = exporter_of(told, collector, lambda: later)

    assert exporter.export() > 0
    assert collector.heard == []


def test_the_controllers_log_names_the_trace_at_every_step(core: Core) -> None:
    with structlog.testing.capture_logs() as said:
        digest, _ = story(core)

    steps = {line["event"] for line in said if line.get("trace_id") == trace_id(digest)}
    assert steps == {
        "release.accept",
        "release.approve",
        "rollout moved",  # also when it is halted
        "manifest queued",
    }
    moves = [line["to"] for line in said if line["event"] == "rollout moved"]
    assert moves == ["running", "wave", "halted"]


def failures_of(count: int) -> dict[tuple[str, EventKind], int]:
    return {(f"{n:064x}", EventKind.TRIAL_FAILED): 1 for n in range(count)}


def test_of_many_releases_that_fail_at_once_a_few_lines_are_logged_and_the_others_later() -> None:
    lines = failure_lines.FailureLines()
    with structlog.testing.capture_logs() as at_once:
        lines.tell(failures_of(failure_lines.LINES_MAX + 5), 100.0)
        lines.tell(failures_of(1), 101.0)
    with structlog.testing.capture_logs() as later:
        lines.tell({}, 100.0 + failure_lines.WITHIN_SECONDS)

    assert len(at_once) == failure_lines.LINES_MAX
    assert sum(line["events"] for line in at_once + later) == failure_lines.LINES_MAX + 6
    assert all(line["trace_id"] for line in later)


def test_lines_that_wait_are_bounded() -> None:
    lines = failure_lines.FailureLines()
    with structlog.testing.capture_logs() as said:
        lines.tell(failures_of(failure_lines.NAMES_HELD_MAX * 3), 100.0)
        for turn in range(1, failure_lines.NAMES_HELD_MAX):
            lines.tell({}, 100.0 + turn * failure_lines.WITHIN_SECONDS)

    assert len(said) == failure_lines.LINES_MAX + failure_lines.NAMES_HELD_MAX
