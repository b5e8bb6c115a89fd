"""Every metric that `/metrics` shows: its name, kind, labels and meaning, in one table.

Whoever shows one makes it by its name from here; docs/metrics.md is written from here; and the
dashboards and alert rules may name no other. Names follow Prometheus: base units, ``_total`` for
counters alone (which this table leaves out, as the client library does).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

Kind = Literal["counter", "gauge", "histogram"]
CLASS, SITE, MODEL, VERSION = "hardware_class", "site", "model", "version"
WEBHOOK = "webhook"
SET = "set"
RELEASE = (CLASS, MODEL, VERSION)
RELEASE_AT_SITE = (*RELEASE, SITE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()


def _counter(text: str, *labels: str) -> Described:
    return Described(kind="counter", text=text, labels=labels)


def _gauge(text: str, *labels: str) -> Described:
    return Described(kind="gauge", text=text, labels=labels)


def _histogram(text: str, *labels: str) -> Described:
    return Described(kind="histogram", text=text, labels=labels)


_PROCESS = {
    "mailboat_events_ingested": _counter("State events stored, by kind.", "kind"),
    "mailboat_telemetry_windows_ingested": _counter("Telemetry windows stored."),
    "mailboat_model_last_inference_timestamp_seconds": _gauge(
        "The newest good inference that devices of a class have told of in their telemetry.",
        MODEL,
        CLASS,
    ),
    "mailboat_quarantined_messages": _counter(
        "Messages that could not be taken, by error code.", "code"
    ),
    "mailboat_quarantine_messages_dropped": _counter(
        "Messages pushed out of the quarantine by newer ones."
    ),
    "mailboat_device_messages_ignored": _counter(
        "Messages of devices that say more than they may; events come again."
    ),
    "mailboat_devices_doubled": _counter("Times it was told that two devices seem to have one id."),
    "mailboat_acks_sent": _counter("Acknowledgements sent to devices."),
    "mailboat_rewinds_requested": _counter("Acknowledgements that asked a device to send again."),
    "mailboat_manifest_publishes": _counter("Manifests decided on and queued, by class.", CLASS),
    "mailboat_publishes_refused": _counter(
        "Messages that the broker refused: look at its access rules."
    ),
    "mailboat_requests_refused": _counter(
        "Requests to the API that were turned away at the door, by error code.", "code"
    ),
    "mailboat_ingest_batch_seconds": _histogram(
        "Time to take a batch of messages into the database."
    ),
    "mailboat_broker_connected": _gauge("1 while connected."),
    "mailboat_controller_info": _gauge("1, with the name of the fleet.", "fleet"),
}

_STORE = {
    "mailboat_outbox_messages": _gauge("Messages not yet with the broker."),
    "mailboat_quarantine_messages_held": _gauge("Messages kept for a look."),
    "mailboat_trust_timestamp_signed_timestamp_seconds": _gauge(
        "When the timestamp role was last signed; daily, or devices install nothing."
    ),
    "mailboat_trust_role_expires_timestamp_seconds": _gauge(
        "When the newest version of a role expires; devices install nothing after that.", "role"
    ),
    "mailboat_devices": _gauge("Enrolled devices by class and state.", CLASS, "state"),
    "mailboat_manifest_number": _gauge("The counter in the newest manifest of a class.", CLASS),
    "mailboat_rollout_devices": _gauge(
        "Devices of a rollout by where they stand; they add up.", "rollout", "outcome"
    ),
    "mailboat_deliveries": _counter("Releases that came to devices, by how.", "outcome"),
    "mailboat_delivery_fetched_bytes": _counter("Payload that devices fetched.", "outcome"),
    # A gauge: it falls when patches fail and the files come whole after them.
    "mailboat_delivery_saved_bytes": _gauge(
        "Size of the same releases, less what was fetched.", "outcome"
    ),
    "mailboat_deltas": _gauge("Deltas in the controller's queue, by state.", "state"),
    "mailboat_artifacts_damaged": _gauge(
        "Artifacts that were found damaged and not uploaded again."
    ),
    "mailboat_artifacts": _gauge("Artifacts held, at the last collection."),
    "mailboat_artifacts_bytes": _gauge("Their size."),
    "mailboat_artifacts_missing": _gauge(
        "Artifacts that a release names and that were not there, at the last collection."
    ),
    "mailboat_artifact_scrub_checked_bytes": _gauge("What the newest check of everything read."),
    "mailboat_artifact_scrub_finished_timestamp_seconds": _gauge(
        "When everything was last read again and compared with its name."
    ),
}

# Sums of what devices tell (`store.fleet_sums`): they outlive this process.
_FLEET = {
    "mailboat_requests": _counter(
        "Requests to models on devices, by result: ok, error, refused (not run: no room or time).",
        *RELEASE_AT_SITE,
        "workload",
        "result",
    ),
    "mailboat_request_latency_seconds": _histogram(
        "Time to answer on the device, from the devices' own sketches.",
        *RELEASE_AT_SITE,
        "workload",
    ),
    "mailboat_worker_restarts": _counter(
        "Times a model's process on a device ended and was started again.", *RELEASE_AT_SITE
    ),
    "mailboat_release_events": _counter(
        "State events about a release, by kind.", *RELEASE_AT_SITE, "kind"
    ),
    "mailboat_release_recovery_seconds": _histogram(
        "From a release's failure on a device until its predecessor served again.", *RELEASE
    ),
    "mailboat_delivery_source_bytes": _counter(
        "Payload of releases that devices fetched, by where it came from.", *RELEASE, "source"
    ),
    "mailboat_shadow_requests": _counter(
        "Requests mirrored to candidates, by outcome.", *RELEASE, "outcome"
    ),
    "mailboat_shadow_pauses": _counter("Times that mirroring gave way to live answers.", *RELEASE),
    "mailboat_feedback_counted": _counter("Posted by applications.", *RELEASE, "counter"),
    "mailboat_feedback_good": _counter("The good ones of those.", *RELEASE, "counter"),
    "mailboat_feedback_values": _counter("Values posted by applications.", *RELEASE, "value"),
    # A gauge: values may be below zero.
    "mailboat_feedback_values_added_up": _gauge("Their sum.", *RELEASE, "value"),
    "mailboat_degraded_answers": _counter(
        "Answers that were not the release's own at its best, by mode.", *RELEASE, "mode"
    ),
    "mailboat_drift_shift_ratio": _histogram(
        "Telemetry windows by their furthest tensor's shift from the reference (PSI).",
        *RELEASE,
        "side",
    ),
    "mailboat_energy_joules": _counter(
        "Energy that devices used, of those that know it.", CLASS, SITE
    ),
    "mailboat_energy_inferences": _counter(
        "Answers of those devices in the same time.", CLASS, SITE
    ),
    "mailboat_series_left_out": _gauge(
        "Releases at sites that have no series: others were told of later."
    ),
}

_KPIS = {
    "mailboat_release_devices": _gauge("Devices that serve a release, as they report.", *RELEASE),
    "mailboat_model_devices_current": _gauge(
        "Devices that serve the release which their class should.", CLASS, MODEL
    ),
    "mailboat_model_devices_assigned": _gauge(
        "Devices of the class that should serve a release of the model.", CLASS, MODEL
    ),
    "mailboat_release_outcomes": _gauge(
        "Devices by what became of a release on them: refused, exposed, ok, failed, returned.",
        *RELEASE,
        "outcome",
    ),
    "mailboat_release_fetched_bytes": _counter(
        "Payload that devices fetched for a release.", *RELEASE
    ),
    "mailboat_release_deliveries": _counter(
        "Times a release came to a device, by how.", *RELEASE, "outcome"
    ),
    "mailboat_manifest_devices_current": _gauge(
        "Devices whose report answers the newest manifest of their class, by presence.",
        CLASS,
        "state",
    ),
    "mailboat_site_devices": _gauge("Enrolled devices by site and state.", SITE, "state"),
    "mailboat_site_devices_awaited": _gauge(
        "Enrolled devices that are missed once they fall silent: not of classes whose silence is "
        "expected.",
        SITE,
    ),
    "mailboat_devices_unseen": _gauge(
        "Devices not heard of for at least so many seconds, since enrolment if never; not of "
        "classes whose silence is expected.",
        SITE,
        "seconds_min",
    ),
    "mailboat_devices_disk_low": _gauge(
        "Devices heard of in a week that report less free disk than 512 MiB.", SITE
    ),
    "mailboat_devices_clock_wrong": _gauge(
        "Devices heard of in a week whose clock is more than a minute away from ours.", SITE
    ),
    "mailboat_devices_stale": _gauge(
        "Devices heard of in a week that say a model is further behind than policy allows: told "
        "of, or stopped for it.",
        CLASS,
        "action",
    ),
    "mailboat_class_disconnect_policy": _gauge(
        "1 for what a silent device of a class means: normal, expected, or an error.",
        CLASS,
        "policy",
    ),
    "mailboat_drill_devices": _gauge(
        "Devices by how their newest rollback drill ended: passed, failed, skipped.",
        CLASS,
        MODEL,
        "outcome",
    ),
    "mailboat_drill_devices_passed_lately": _gauge(
        "Devices on which a rollback drill passed in the last thirty days.", CLASS, MODEL
    ),
    "mailboat_drill_oldest_pass_timestamp_seconds": _gauge(
        "When a drill last passed on the device where that is longest ago; of those that ever "
        "passed one.",
        CLASS,
        MODEL,
    ),
    "mailboat_drill_return_p90_seconds": _gauge(
        "That a return would take on nine of ten devices, by their last drill that passed.",
        CLASS,
        MODEL,
    ),
    "mailboat_audit_entries": _counter(
        "Entries of the audit log, by action and kind of actor.", "action", "actor"
    ),
    "mailboat_canary_info": _gauge(
        "1: what a device runs that the settings name.", "device", MODEL, VERSION, "phase"
    ),
    "mailboat_canary_seen_timestamp_seconds": _gauge("When it was last heard of.", "device"),
}

_SITES = {
    "mailboat_site_connected": _gauge("1 while its bridge is connected to our broker.", SITE),
    "mailboat_site_disconnected_seconds": _gauge(
        "For how long a site has been cut off; 0 while it is not.", SITE
    ),
    "mailboat_site_disconnect_expected": _gauge(
        "1 while a site's policy says that a cut is nothing to look at.", SITE
    ),
    "mailboat_site_disconnect_policy": _gauge(
        "1 for what a cut of a site means: normal, expected at times, or an error.", SITE, "policy"
    ),
    "mailboat_site_certificate_expires_timestamp_seconds": _gauge(
        "When a site's newest bridge certificate ends.", SITE
    ),
}

_OUTREACH = {
    "mailboat_gitops_differences": _gauge(
        "Documents of a set that differ from the fleet, as the loop that pulls it told.", SET
    ),
    "mailboat_gitops_in_step": _gauge(
        "1 while a set is as its branch says; nothing without a loop that pulls it.", SET
    ),
    "mailboat_gitops_pulled_timestamp_seconds": _gauge(
        "When the loop that pulls a set last told of itself.", SET
    ),
    "mailboat_webhook_active": _gauge("1, or 0 while a webhook is disabled.", WEBHOOK),
    "mailboat_webhook_failures_in_a_row": _gauge(
        "Attempts to reach it that failed since the last that did not.", WEBHOOK
    ),
    "mailboat_webhook_events_waiting": _gauge("Events that it has not been told yet.", WEBHOOK),
    "mailboat_webhook_oldest_waiting_timestamp_seconds": _gauge(
        "Since when the oldest of them waits; nothing while none does.", WEBHOOK
    ),
    "mailboat_webhook_events_given_up": _gauge(
        "Events of the last thirty days that it was never told.", WEBHOOK
    ),
    "mailboat_span_rows_waiting": _gauge(
        "Rows that the collector of otlp_endpoint was not told of yet; nothing without one."
    ),
}

METRICS: Mapping[str, Described] = MappingProxyType(
    {**_PROCESS, **_STORE, **_FLEET, **_KPIS, **_SITES, **_OUTREACH}
)


def counter(name: str, registry: CollectorRegistry) -> Counter:
    told = _of(name, "counter")
    return Counter(name, told.text, told.labels, registry=registry)


def gauge(name: str, registry: CollectorRegistry) -> Gauge:
    told = _of(name, "gauge")
    return Gauge(name, told.text, told.labels, registry=registry)


def histogram(name: str, registry: CollectorRegistry, bounds: Sequence[float]) -> Histogram:
    told = _of(name, "histogram")
    return Histogram(name, told.text, told.labels, buckets=bounds, registry=registry)


def counters(name: str) -> CounterMetricFamily:
    told = _of(name, "counter")
    return CounterMetricFamily(name, told.text, labels=told.labels)


def gauges(name: str) -> GaugeMetricFamily:
    told = _of(name, "gauge")
    return GaugeMetricFamily(name, told.text, labels=told.labels)


def histograms(name: str) -> HistogramMetricFamily:
    told = _of(name, "histogram")
    return HistogramMetricFamily(name, told.text, labels=told.labels)


def _of(name: str, kind: Kind) -> Described:
    told = METRICS[name]
    if told.kind != kind:
        raise TypeError(f"{name} is a {told.kind}, not a {kind}")
    return told


def shown_names() -> dict[str, Described]:
    """By every name that may stand in a query."""
    found: dict[str, Described] = {}
    for name, told in METRICS.items():
        match told.kind:
            case "counter":
                found[f"{name}_total"] = told
            case "gauge":
                found[name] = told
            case "histogram":
                found |= {f"{name}{part}": told for part in ("_bucket", "_sum", "_count")}
    return found
