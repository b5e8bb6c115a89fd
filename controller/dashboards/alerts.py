"""The alert rules: what is wrong, for how long it may be, and what to do. Written by `write.py`.

Each names the first thing to look at; docs/dashboards.md says how the thresholds were chosen.
"""

from dataclasses import dataclass
from typing import Literal

from runbook import PAGE, section_of

_PAGE: Literal["page"] = "page"
_LOOK: Literal["look"] = "look"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    name: str
    expr: str
    held_for: str  # as Prometheus writes durations
    severity: Literal["page", "look"]  # wake somebody, or look in the morning
    summary: str
    next_step: str


# In seconds, by class and release.
_P99 = (
    "histogram_quantile(0.99, sum by (le, hardware_class, model, version) "
    "(rate(mailboat_request_latency_seconds_bucket{window}{offset})))"
)

# Devices of a site that is cut off as its policy expects are silent, and nobody need be told.
_CUT_AS_EXPECTED = "(mailboat_site_disconnect_expected == 1 and mailboat_site_connected == 0)"
# Devices by release; 0 before the first. The counters of events begin with their first one, which
# `increase` does not see: all devices of a site may fail between two scrapes.
_FAILED = 'mailboat_release_outcomes{outcome="failed"}'
_BEGUN = 'mailboat_release_outcomes{outcome=~"exposed|ok"}'

ALERTS = (
    Alert(
        name="MailboatControllerDown",
        expr='up{job="mailboat"} == 0 or absent(up{job="mailboat"})',
        held_for="2m",
        severity=_PAGE,
        summary="Prometheus cannot scrape the controller. Devices go on with what they have.",
        next_step="look whether `mailboat serve` runs, and at its log.",
    ),
    Alert(
        name="MailboatIngestDown",
        expr='up{job="mailboat-ingest"} == 0',
        held_for="2m",
        severity=_PAGE,
        summary="Nobody takes in what one share of the devices says; they keep it meanwhile.",
        next_step="look whether `mailboat ingest` runs at {{ $labels.instance }}, and at its log.",
    ),
    Alert(
        name="MailboatBrokerDisconnected",
        expr="mailboat_broker_connected == 0",
        held_for="2m",
        severity=_PAGE,
        summary="The controller is not connected to the broker: it hears nothing of the fleet.",
        next_step="look at mosquitto, and at the log of {{ $labels.job }} for the reason.",
    ),
    Alert(
        name="MailboatOutboxStuck",
        expr="min_over_time(mailboat_outbox_messages[10m]) > 0",
        held_for="5m",
        severity=_LOOK,
        summary="Messages have waited for the broker for more than ten minutes.",
        next_step="look at mailboat_broker_connected and mailboat_publishes_refused_total.",
    ),
    Alert(
        name="MailboatPublishRefused",
        expr="increase(mailboat_publishes_refused_total[15m]) > 0",
        held_for="0m",
        severity=_LOOK,
        summary="The broker refused what the controller published.",
        next_step="look at the broker's access rules.",
    ),
    Alert(
        name="MailboatTimestampOld",
        expr="time() - mailboat_trust_timestamp_signed_timestamp_seconds > 2 * 86400",
        held_for="10m",
        severity=_PAGE,
        summary="The timestamp role was not signed for two days; at seven devices stop installing.",
        next_step="see that `mailboat serve` runs and holds the timestamp key: docs/trust.md.",
    ),
    Alert(
        name="MailboatTrustExpiring",
        expr=(
            'mailboat_trust_role_expires_timestamp_seconds{role!~"timestamp|snapshot"} - time() '
            "< 10 * 86400"
        ),
        held_for="1h",
        severity=_LOOK,
        summary="The trust role {{ $labels.role }} ends in less than ten days.",
        next_step="sign it again: docs/trust.md, knowing in time.",
    ),
    Alert(
        name="MailboatFleetStale",
        expr=(
            'sum(mailboat_devices_unseen{seconds_min="86400"} '
            f"unless on (site) {_CUT_AS_EXPECTED}) "
            "/ sum(mailboat_site_devices_awaited "
            f"unless on (site) {_CUT_AS_EXPECTED}) > 0.1"
        ),
        held_for="30m",
        severity=_LOOK,
        summary="More than a tenth of the fleet was not heard of for a day.",
        next_step="see which: `mailboat device list --selector condition=silent`.",
    ),
    Alert(
        name="MailboatDevicesGone",
        expr=(
            '(mailboat_devices{state="offline"} > 0) and on (hardware_class) '
            '(mailboat_class_disconnect_policy{policy="error"} == 1)'
        ),
        held_for="10m",
        severity=_PAGE,
        summary="Devices of {{ $labels.hardware_class }} are offline, which its class never is.",
        next_step="`mailboat get devices -l presence=offline` names them: docs/devices.md.",
    ),
    Alert(
        name="MailboatModelsStopped",
        expr='mailboat_devices_stale{action="stopped"} > 0',
        held_for="10m",
        severity=_LOOK,
        summary="Devices of {{ $labels.hardware_class }} serve a model no more: too far behind.",
        next_step="`mailboat get devices --stale`, then `mailboat explain DEVICE`: docs/policy.md.",
    ),
    Alert(
        name="MailboatManifestNotAnswered",
        expr=(
            'sum by (hardware_class) (mailboat_manifest_devices_current{state="online"}) / '
            'sum by (hardware_class) (mailboat_devices{state="online"}) < 0.5'
        ),
        held_for="6h",
        severity=_LOOK,
        summary="Few devices of {{ $labels.hardware_class }} answer the newest manifest.",
        next_step="see what they report: `mailboat device list`, docs/devices.md.",
    ),
    Alert(
        name="MailboatRollbacks",
        expr=f"sum by (model, version) (delta({_FAILED}[1h])) > 3",
        held_for="0m",
        severity=_PAGE,
        summary="{{ $labels.model }} {{ $labels.version }} failed on several devices this hour.",
        next_step="`mailboat rollout status` says why; `mailboat rollout abort` takes it back.",
    ),
    Alert(
        name="MailboatReleaseFailing",
        expr=(
            f"sum by (model, version) ({_FAILED}) / sum by "
            '(model, version) (mailboat_release_outcomes{outcome=~"ok|failed"}) > 0.05 '
            # What failed is halted or taken back; its count stays, and is no news after a day.
            f"and on (model, version) sum by (model, version) (delta({_FAILED}[1d])) > 0"
        ),
        held_for="5m",
        severity=_LOOK,
        summary="More than one in twenty devices failed {{ $labels.model }} {{ $labels.version }}.",
        next_step="`mailboat rollout status` says on which and why.",
    ),
    Alert(
        name="MailboatQuarantineGrowing",
        expr=(
            "sum by (code) (increase(mailboat_quarantined_messages_total[1h])) > 20 or "
            # The first of a code come all at once: there is no sample before them.
            "sum by (code) (mailboat_quarantined_messages_total unless "
            "mailboat_quarantined_messages_total offset 1h) > 20"
        ),
        held_for="0m",
        severity=_LOOK,
        summary="Somebody sends what cannot be taken ({{ $labels.code }}).",
        next_step="docs/errors.md says what the code means.",
    ),
    Alert(
        name="MailboatDeviceFloods",
        expr="increase(mailboat_device_messages_ignored_total[15m]) > 0",
        held_for="0m",
        severity=_LOOK,
        summary="A device says more than it may.",
        next_step="the audit log names it (device.flooding): docs/scale-out.md.",
    ),
    Alert(
        name="MailboatDeviceDoubled",
        expr="increase(mailboat_devices_doubled_total[1h]) > 0",
        held_for="0m",
        severity=_PAGE,
        summary="Two devices seem to have one id.",
        next_step="the audit log names it; docs/devices.md, a key on two machines.",
    ),
    Alert(
        name="MailboatSiteCut",
        expr=(
            "(mailboat_site_connected == 0) and on (site) (mailboat_site_disconnect_expected == 0)"
        ),
        held_for="5m",
        severity=_PAGE,
        summary="Site {{ $labels.site }} is cut off, which its policy does not expect.",
        next_step="look at its uplink: docs/sites.md. Its devices go on alone.",
    ),
    Alert(
        name="MailboatSiteCertificateEnds",
        expr="mailboat_site_certificate_expires_timestamp_seconds - time() < 60 * 86400",
        held_for="1h",
        severity=_LOOK,
        summary="The certificate of site {{ $labels.site }} ends within 60 days, not renewed.",
        next_step="run `refresh` at the site: it renews it, or prints why not; docs/sites.md.",
    ),
    Alert(
        name="MailboatLatencyRegression",
        # After a release: against the one that served this class and model before, an hour ago.
        expr=(
            f"max by (hardware_class, model) ({_P99.format(window='[15m]', offset='')}) > 1.5 * "
            f"max by (hardware_class, model) ({_P99.format(window='[1h]', offset=' offset 1h')}) "
            "and on (hardware_class, model) sum by (hardware_class, model) "
            f"(delta({_BEGUN}[2h])) > 0"
        ),
        held_for="10m",
        severity=_LOOK,
        summary="{{ $labels.model }} on {{ $labels.hardware_class }} is slower since a release.",
        next_step="compare the releases on the dashboard Model quality.",
    ),
    Alert(
        name="MailboatModelErrors",
        expr=(
            'sum by (model, version) (rate(mailboat_requests_total{result="error"}[15m])) / '
            "sum by (model, version) (rate(mailboat_requests_total[15m])) > 0.02"
        ),
        held_for="10m",
        severity=_LOOK,
        summary="{{ $labels.model }} {{ $labels.version }} errs on more than 2 % of requests.",
        next_step="look at the dashboard Model quality, and at a device's log.",
    ),
    Alert(
        name="MailboatDevicesDiskLow",
        expr="mailboat_devices_disk_low > 0",
        held_for="30m",
        severity=_LOOK,
        summary="Devices of site {{ $labels.site }} have less than 512 MiB of disk left.",
        next_step="see which: `mailboat device list --selector condition=disk-low`; "
        "docs/artifacts.md says what they keep.",
    ),
    Alert(
        name="MailboatDevicesClockWrong",
        expr="mailboat_devices_clock_wrong > 0",
        held_for="1h",
        severity=_LOOK,
        summary="Devices of site {{ $labels.site }} have a wrong clock.",
        next_step="`mailboat device list --selector condition=clock-wrong` says which; give the "
        "site a time server. Expiries go by the signed time meanwhile.",
    ),
    Alert(
        name="MailboatDrillFailed",
        expr='mailboat_drill_devices{outcome="failed"} > 0',
        held_for="0m",
        severity=_LOOK,
        summary=(
            "Devices of {{ $labels.hardware_class }} could not go back from their release of "
            "{{ $labels.model }} to the one before."
        ),
        next_step="`mailboat drill list --outcome failed` names them and says why: docs/drills.md.",
    ),
    Alert(
        name="MailboatWebhookStuck",
        expr="time() - mailboat_webhook_oldest_waiting_timestamp_seconds > 3600",
        held_for="5m",
        severity=_LOOK,
        summary="What webhook {{ $labels.webhook }} should be told has waited for an hour.",
        next_step="`mailboat webhook deliveries` says why: docs/webhooks.md.",
    ),
    Alert(
        name="MailboatWebhookDisabled",
        expr="mailboat_webhook_active == 0",
        held_for="0m",
        severity=_LOOK,
        summary="Webhook {{ $labels.webhook }} is disabled: nobody is told there.",
        next_step="mend the receiver, `mailboat webhook enable`; or remove it: docs/webhooks.md.",
    ),
    Alert(
        name="MailboatArtifactsDamaged",
        expr="mailboat_artifacts_damaged > 0 or mailboat_artifacts_missing > 0",
        held_for="10m",
        severity=_LOOK,
        summary="The artifact store lost or damaged files that releases need.",
        next_step="upload them again: docs/artifacts.md.",
    ),
    Alert(
        name="MailboatIngestSlow",
        expr=(
            "histogram_quantile(0.99, sum by (le) "
            "(rate(mailboat_ingest_batch_seconds_bucket[10m]))) > 3"
        ),
        held_for="15m",
        severity=_LOOK,
        summary="Batches of messages take seconds to store.",
        next_step="look at the database's disk; docs/scale-out.md.",
    ),
)


def rules() -> dict[str, object]:
    """As Prometheus reads them."""
    return {
        "groups": [
            {
                "name": "mailboat",
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": alert.expr,
                        **({} if alert.held_for == "0m" else {"for": alert.held_for}),
                        "labels": {"severity": alert.severity},
                        "annotations": {
                            "summary": alert.summary,
                            "next_step": alert.next_step,
                            "runbook_url": f"{PAGE}#{section_of(alert.name)}",
                        },
                    }
                    for alert in ALERTS
                ],
            }
        ]
    }
