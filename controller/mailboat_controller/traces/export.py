"""Spans to an OpenTelemetry collector, if one is named (`otlp_endpoint`): from the audit log and
the devices' events, in order, each once acknowledged. A collector that is away costs nothing but
the wait; what is older than `SKIP_OLDER` by then is passed over.
"""

import asyncio
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from mailboat_controller.store import audit, audit_readers, events, releases, rollouts
from mailboat_controller.store.audit import AuditRow
from mailboat_controller.store.engine import Store
from mailboat_controller.store.events import EventRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.traces.about import ReleaseName, release_of
from mailboat_controller.traces.otlp import Span, export_request
from mailboat_controller.webhooks import target
from mailboat_controller.worker_threads import WorkerThreads
from mailboat_schemas.errors import ConfigurationInvalid, MailboatError
from mailboat_schemas.tracing import span_id, trace_id

AUDIT_READER, EVENT_READER = "otlp-audit", "otlp-events"
LOOK_SECONDS = 5.0
RETRY_SECONDS = 30.0
ROWS_AT_ONCE = 200
SKIP_OLDER = timedelta(days=1)  # a collector's storage would refuse it anyway
PATH = "/v1/traces"
REFUSED = (400, 413, 415, 422)  # of OTLP/HTTP: "the client MUST NOT retry" a bad request
_ENDED = ("rollout.completed", "rollout.halted", "rollout.aborted", "rollout.superseded")
_BAD = ("rollout.halted", "release.withdraw", "submission.refuse")
_BAD_EVENTS = ("trial_failed", "rolled_back", "release_refused")

_log = structlog.get_logger(__name__)


class SpanExporter:
    """`run` for ever; `export` is one turn."""

    def __init__(
        self, store: Store, endpoint: str, *, fleet: str, now: Callable[[], datetime]
    ) -> None:
        """
        Raises:
            ConfigurationInvalid: the endpoint is no http or https address.
        """
        self._store = store
        self._fleet = fleet
        self._now = now
        self._context = ssl.create_default_context()
        # Named in the settings file by whoever owns this machine: it may be any host.
        url = endpoint.rstrip("/") + PATH
        host = target.host_of(url)
        self._http_hosts = (host,)
        self._target = target.parse(url, self._http_hosts)
        self._posts = target.OpenPosts()

    async def run(self) -> None:
        self._posts = target.OpenPosts()
        threads = WorkerThreads("spans", 1)  # a collector may take its time
        try:
            while True:
                seconds = LOOK_SECONDS
                try:
                    while await threads.run(self.export):
                        pass
                except MailboatError as error:
                    _log.warning("spans wait", problem=str(error))
                    seconds = RETRY_SECONDS
                await asyncio.sleep(seconds)
        finally:
            self._posts.stop()
            threads.close()

    def export(self) -> int:
        """Send the next spans; how many rows they came from.

        What the collector cannot read is passed over: it would be no better the next time.

        Raises:
            ConfigurationInvalid: the collector is away or lets nobody in; they are sent again.
        """
        with self._store.read() as tx:
            marks = {name: audit_readers.reached(tx, name) for name in (AUDIT_READER, EVENT_READER)}
            first = any(mark is None for mark in marks.values())
            entries = audit.page(tx, after=marks[AUDIT_READER] or 0, limit=ROWS_AT_ONCE)
            rows = events.page(tx, after=marks[EVENT_READER] or 0, limit=ROWS_AT_ONCE)
            since = self._now() - SKIP_OLDER
            spans = [s for row in entries if row.at >= since for s in _of_entry(tx, row)]
            spans += [s for row in rows if row.received_at >= since for s in _of_event(row)]
        if spans:
            self._post(export_request(spans, fleet=self._fleet))
        if entries or rows or first:
            reached = {
                AUDIT_READER: entries[-1].sequence if entries else marks[AUDIT_READER] or 0,
                EVENT_READER: rows[-1].id if rows else marks[EVENT_READER] or 0,
            }
            with self._store.transaction() as tx:
                for name, mark in reached.items():
                    audit_readers.set_reached(tx, name, mark)
        return len(entries) + len(rows)

    def _post(self, body: bytes) -> None:
        answer = target.post(
            self._target,
            body,
            {"Content-Type": "application/json", "User-Agent": "mailboat"},
            context=self._context,
            http_hosts=self._http_hosts,
            running=self._posts,
        )
        if answer.status in REFUSED:
            _log.warning("spans were refused and are passed over", problem=answer.problem)
        elif not answer.delivered:
            raise ConfigurationInvalid(
                f"The collector of otlp_endpoint did not take spans: {answer.problem}.",
                next_step="see that it runs and takes OTLP over HTTP with JSON.",
            )


def _of_entry(tx: Transaction, row: AuditRow) -> list[Span]:
    release = release_of(tx, row)
    if release is None:
        return []
    trace = trace_id(release.digest)
    root = span_id(trace, "release")
    begins = row.at
    spans: list[Span] = []
    if row.action == "release.accept":
        spans.append(_root(tx, trace, root, release, row.at))
    if row.action in _ENDED:
        begins = rollouts.get(tx, row.subject).started_at or row.at
    spans.append(
        Span(
            trace=trace,
            span=span_id(trace, f"audit {row.sequence}"),
            parent=root,
            name=row.action,
            begins=begins,
            ends=row.at,
            attributes={
                "mailboat.actor": row.actor,
                "mailboat.subject": row.subject,
                "mailboat.reason": row.reason,
                "mailboat.audit_sequence": row.sequence,
            },
            problem=row.reason if row.action in _BAD else "",
        )
    )
    return spans


def _root(tx: Transaction, trace: str, root: str, release: ReleaseName, at: datetime) -> Span:
    found = releases.by_digest(tx, release.digest)
    return Span(
        trace=trace,
        span=root,
        parent="",
        name=f"release {release.model}@{release.version}",
        begins=at if found is None else found.accepted_at,
        ends=at,
        attributes={f"mailboat.{name}": value for name, value in release.as_dict().items()},
    )


def _of_event(row: EventRow) -> list[Span]:
    if row.digest is None:
        return []
    trace = trace_id(row.digest)
    because = str(row.content.get("because") or "")
    return [
        Span(
            trace=trace,
            span=span_id(trace, f"event {row.device} {row.event_id}"),
            parent=span_id(trace, "release"),
            name=f"device.{row.kind}",
            begins=row.received_at,
            ends=row.received_at,
            attributes={
                "device.id": row.device,
                "mailboat.event_id": row.event_id,
                "mailboat.because": because,
                "mailboat.observed_at_ms": row.observed_at_ms,
                "mailboat.model": row.model or "",
                "mailboat.version": row.version or "",
            },
            problem=(because or row.kind) if row.kind in _BAD_EVENTS else "",
        )
    ]
