"""One example of every message, for the published contract and its tests.

Signatures in here are placeholders: an example shows the shape, it does not verify.
"""

from mailboat_schemas import cohort
from mailboat_schemas.class_budgets import ClassBudgets
from mailboat_schemas.codec import WireModel, encode
from mailboat_schemas.desired import (
    Assignment,
    DesiredState,
    FreshTimestamp,
    ManifestBundle,
    Offer,
    OfferWave,
    ReleaseRef,
)
from mailboat_schemas.device_orders import DeviceDesired, LogExcerpt, LogLine, LogRequest
from mailboat_schemas.documents.serving_policy import Workload
from mailboat_schemas.envelope import Envelope, EnvelopeSignature, PayloadType
from mailboat_schemas.events import Event, EventBatch, EventKind
from mailboat_schemas.host_figures import Gauge, HostFigures
from mailboat_schemas.live_figures import CounterSum, Shift, ValueSum
from mailboat_schemas.reports import (
    Ack,
    Hello,
    LatencySketch,
    ModelPhase,
    Presence,
    ReportedFacts,
    ReportedModel,
    ReportedState,
    Span,
    TelemetryBatch,
    TelemetryWindow,
)
from mailboat_schemas.site_orders import SiteHold, SiteOrder, SiteRollback
from mailboat_schemas.submission import Submission, SubmissionReply
from mailboat_schemas.tracing import trace_id

_A, _B = "a1" * 32, "b2" * 32
_EPOCH = "0f1e2d3c4b5a6978"
_NOON_MS = 1_795_262_400_000


def _sealed(payload_type: str, payload: WireModel) -> Envelope:
    placeholder = EnvelopeSignature(keyid="c3" * 32, sig=b"\x00" * 64)
    return Envelope(payload_type=payload_type, payload=encode(payload), signatures=(placeholder,))


DESIRED_STATE = DesiredState(
    fleet="demo",
    hardware_class="kiosk-x86",
    counter=7,
    issued=_NOON_MS // 1000,
    assignments=(
        Assignment(
            model="vad",
            current=ReleaseRef(version="6.0.0", digest=_A),
            offer=Offer(
                release=ReleaseRef(version="6.2.0", digest=_B),
                rollout="vad-6-2-0",
                waves=(
                    OfferWave(upto=cohort.UPTO_NONE, roster=6, pilots=("kiosk-1",)),
                    OfferWave(upto="8000000000000000", roster=6),
                ),
            ),
        ),
    ),
    budgets=ClassBudgets(
        memory_bytes=512 << 20,
        disk_bytes=2 << 30,
        model_bytes_max=256 << 20,
        latency_p95_ms_max=40,
        throughput_per_second_min=30,
    ),
)
EVENT_BATCH = EventBatch(
    device="kiosk-1",
    epoch=_EPOCH,
    first=3,
    events=(
        Event(
            event_id="vad:2:trial_started",
            sequence=3,
            kind=EventKind.TRIAL_STARTED,
            observed_at=_NOON_MS,
            model="vad",
            version="6.2.1",
            digest=_B,
            serving_version="6.2.0",
        ),
        Event(
            event_id="vad:2:trial_failed",
            sequence=4,
            kind=EventKind.TRIAL_FAILED,
            observed_at=_NOON_MS + 900,
            model="vad",
            version="6.2.1",
            digest=_B,
            serving_version="6.2.0",
            code="golden_mismatch",
            because="output stateN differs by 2.03 on sample 4, allowed is 0.001",
            evidence={"tensor": "stateN", "sample": 4, "difference": 2.03},
        ),
    ),
)
REPORTED_STATE = ReportedState(
    fleet="demo",
    device="kiosk-1",
    hardware_class="kiosk-x86",
    site="-",
    session=4,
    observed_at=_NOON_MS,
    manifest_counter=7,
    trust_versions={"root": 1, "targets": 1, "snapshot": 3, "timestamp": 9},
    models=(
        ReportedModel(
            model="vad",
            phase=ModelPhase.COMMITTED,
            serving_version="6.2.0",
            serving_digest=_A,
            because="6.2.0 is current",
            answered_at=_NOON_MS // 1000 - 12,
        ),
    ),
    failed={_B: 0},
    facts=ReportedFacts(
        agent_version="0.1.0",
        arch="x86_64",
        runtime_version="1.31.1",
        providers=("CPUExecutionProvider",),
        memory_budget_bytes=512 << 20,
        disk_free_bytes=8 << 30,
        enrolment_number=1,
        labels={"floor": "two"},
    ),
)
TELEMETRY_BATCH = TelemetryBatch(
    device="kiosk-1",
    epoch=_EPOCH,
    first=12,
    windows=(
        TelemetryWindow(
            sequence=12,
            model="vad",
            version="6.2.0",
            digest=_A,
            started_at=_NOON_MS,
            seconds=60.0,
            requests_ok=118,
            requests_error=0,
            requests_refused=2,
            workload=Workload.REAL_TIME,
            peak_memory_bytes=91_226_112,
            last_ok_at=_NOON_MS + 59_800,
            latency=LatencySketch(
                relative_accuracy=0.01,
                offset=-114,
                bins=(40, 61, 17),
                count=118,
                sum_ms=13.4,
                min_ms=0.1,
                max_ms=0.13,
            ),
            counters={"accuracy": CounterSum(good=57, total=60)},
            values={"order_eur": ValueSum(count=2, sum=31.5)},
            shifts=(Shift(tensor="output", side="output", requests=118, shift=0.04),),
            host=HostFigures(
                cpu_percent=Gauge(count=6, sum=72.6, min=9.5, max=17.0),
                memory_available_bytes=Gauge.of(3 << 30),
                memory_total_bytes=8 << 30,
                celsius=Gauge(count=6, sum=312.0, min=51.0, max=53.0),
                energy_joules=288.0,
                energy_seconds=60.0,
            ),
        ),
    ),
)
SUBMISSION_REPLY = SubmissionReply(
    status="accepted",
    submission="d4" * 32,
    releases=("vad@6.2.0",),
    rollouts=("vad-6-2-0",),
)

# By the name of its heading in docs/protocol.md; envelopes beside what is inside them.
EXAMPLES: dict[str, WireModel] = {
    "ManifestBundle": ManifestBundle(
        fleet="demo",
        hardware_class="kiosk-x86",
        counter=7,
        trust={"timestamp.json": b"{}", "3.snapshot.json": b"{}"},
        documents={_B: b"{}\n"},
        desired=encode(_sealed(PayloadType.DESIRED_STATE, DESIRED_STATE)),
    ),
    "DesiredState": DESIRED_STATE,
    "FreshTimestamp": FreshTimestamp(
        fleet="demo", hardware_class="kiosk-x86", timestamp=b'{"signatures":[],"signed":{}}'
    ),
    "Ack": Ack(
        device="kiosk-1", manifest_counter=7, epoch=_EPOCH, events_acked=4, telemetry_acked=12
    ),
    "Hello": Hello(
        device="kiosk-1",
        epoch=_EPOCH,
        events=Span(first=3, last=4),
        telemetry=Span(first=12, last=12),
    ),
    "ReportedState": REPORTED_STATE,
    "EventBatch": EVENT_BATCH,
    "TelemetryBatch": TELEMETRY_BATCH,
    "Presence": Presence(device="kiosk-1", session=4, online=True),
    "DeviceDesired": DeviceDesired(
        fleet="demo",
        device="kiosk-1",
        counter=_NOON_MS,
        issued=_NOON_MS // 1000,
        logs=LogRequest(
            request="5a6978879605f4e3",
            expires=_NOON_MS // 1000 + 86_400,
            since=_NOON_MS - 600_000,
        ),
    ),
    "SiteOrder": SiteOrder(
        fleet="demo",
        site="harbour",
        counter=_NOON_MS // 1000,
        issued=_NOON_MS // 1000,
        holds=(SiteHold(reason="a storm", expires=_NOON_MS // 1000 + 86_400),),
        rollbacks=(
            SiteRollback(
                model="vad",
                version="6.0.0",
                reason="6.2.0 is deaf here",
                expires=_NOON_MS // 1000 + 86_400,
            ),
        ),
    ),
    "LogExcerpt": LogExcerpt(
        device="kiosk-1",
        request="5a6978879605f4e3",
        lines=(
            LogLine(
                number=4711,
                at=_NOON_MS - 1500,
                level="warning",
                logger="mailboat_agent.model_loop",
                message="vad: the trial of 6.2.0 failed: latency",
                trace=trace_id(_B),
            ),
        ),
        last=True,
    ),
    "Submission": Submission(
        fleet="demo", roles={"release-vad": b"{}", "approval-vad": b"{}"}, documents={_B: b"{}\n"}
    ),
    "Envelope": _sealed(PayloadType.EVENT_BATCH, EVENT_BATCH),
}
