"""Each alert fires on what it is for and on nothing less: `promtool test rules` on real series."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

RULES = Path(__file__).parents[3] / "controller" / "dashboards" / "prometheus" / "alerts.yml"
MODEL = 'hardware_class="kiosk",model="vad"'

_CUT_SITE = {
    'mailboat_site_connected{site="ship"}': "0x60",
    'mailboat_devices_unseen{seconds_min="86400",site="ship"}': "90x60",
    'mailboat_site_devices_awaited{site="ship"}': "90x60",
    'mailboat_devices_unseen{seconds_min="86400",site="-"}': "0x60",
    'mailboat_site_devices_awaited{site="-"}': "10x60",
}

# By alert: the series (as promtool writes them, a sample each minute), the minute it is looked at,
# whether it fires there, and with which labels.
CASES: dict[str, list[tuple[dict[str, str], str, list[dict[str, str]]]]] = {
    "MailboatControllerDown": [
        ({'up{job="mailboat"}': "0x10"}, "5m", [{"job": "mailboat"}]),
        ({'up{job="mailboat"}': "1 0 1x10"}, "5m", []),
        ({"other": "1x10"}, "5m", [{"job": "mailboat"}]),
    ],
    "MailboatIngestDown": [
        (
            {'up{job="mailboat-ingest",instance="a:9464"}': "0x10"},
            "5m",
            [{"job": "mailboat-ingest", "instance": "a:9464"}],
        ),
        ({'up{job="mailboat-ingest",instance="a:9464"}': "1x10"}, "5m", []),
        ({'up{job="mailboat"}': "1x10"}, "5m", []),  # there are none
    ],
    "MailboatBrokerDisconnected": [
        (
            {'mailboat_broker_connected{job="mailboat-ingest"}': "0x10"},
            "5m",
            [{"job": "mailboat-ingest"}],
        ),
        ({"mailboat_broker_connected": "1x10"}, "5m", []),
    ],
    "MailboatOutboxStuck": [
        ({"mailboat_outbox_messages": "3x30"}, "20m", [{}]),
        ({"mailboat_outbox_messages": "3 0 3 0 3 0 3 0 3 0 3x5"}, "15m", []),
    ],
    "MailboatPublishRefused": [
        ({"mailboat_publishes_refused_total": "0x5 2x10"}, "10m", [{}]),
        ({"mailboat_publishes_refused_total": "2x20"}, "10m", []),
    ],
    "MailboatWebhookStuck": [
        (
            {'mailboat_webhook_oldest_waiting_timestamp_seconds{webhook="chat"}': "0x100"},
            "70m",
            [{"webhook": "chat"}],
        ),
        # Always something, and nothing for long.
        (
            {'mailboat_webhook_oldest_waiting_timestamp_seconds{webhook="chat"}': "0+60x100"},
            "90m",
            [],
        ),
    ],
    "MailboatWebhookDisabled": [
        ({'mailboat_webhook_active{webhook="chat"}': "1 0x10"}, "5m", [{"webhook": "chat"}]),
        ({'mailboat_webhook_active{webhook="chat"}': "1x10"}, "5m", []),
    ],
    "MailboatTimestampOld": [
        ({"mailboat_trust_timestamp_signed_timestamp_seconds": "0x4000"}, "3000m", [{}]),
        ({"mailboat_trust_timestamp_signed_timestamp_seconds": "0x4000"}, "2000m", []),
    ],
    "MailboatTrustExpiring": [
        (
            {'mailboat_trust_role_expires_timestamp_seconds{role="root"}': "432000x100"},
            "90m",
            [{"role": "root"}],
        ),
        ({'mailboat_trust_role_expires_timestamp_seconds{role="root"}': "8640000x100"}, "90m", []),
        # Signed by the controller itself, daily: another alert.
        ({'mailboat_trust_role_expires_timestamp_seconds{role="timestamp"}': "1x100"}, "90m", []),
    ],
    "MailboatFleetStale": [
        (
            {
                'mailboat_devices_unseen{seconds_min="86400",site="a"}': "2x60",
                'mailboat_site_devices_awaited{site="a"}': "10x60",
                # Nobody misses the others: they sleep for weeks, or are revoked.
                'mailboat_site_devices{site="a",state="offline"}': "90x60",
                'mailboat_site_devices{site="a",state="revoked"}': "90x60",
            },
            "45m",
            [{}],
        ),
        (
            {
                'mailboat_devices_unseen{seconds_min="86400",site="a"}': "1x60",
                'mailboat_devices_unseen{seconds_min="3600",site="a"}': "9x60",
                'mailboat_site_devices_awaited{site="a"}': "10x60",
            },
            "45m",
            [],
        ),
        # A fleet of which nobody misses anybody.
        (
            {
                'mailboat_devices_unseen{seconds_min="86400",site="a"}': "0x60",
                'mailboat_site_devices_awaited{site="a"}': "0x60",
            },
            "45m",
            [],
        ),
        # A ship's site, cut off as expected, has most devices of the fleet; another one is well.
        ({**_CUT_SITE, 'mailboat_site_disconnect_expected{site="ship"}': "1x60"}, "45m", []),
        ({**_CUT_SITE, 'mailboat_site_disconnect_expected{site="ship"}': "0x60"}, "45m", [{}]),
    ],
    "MailboatManifestNotAnswered": [
        (
            {
                'mailboat_manifest_devices_current{hardware_class="kiosk",state="online"}': "1x500",
                # They answered and went away: they say nothing of those that are here.
                'mailboat_manifest_devices_current{hardware_class="kiosk",state="offline"}': (
                    "9x500"
                ),
                'mailboat_devices{hardware_class="kiosk",state="online"}': "10x500",
            },
            "400m",
            [{"hardware_class": "kiosk"}],
        ),
        (
            {
                'mailboat_manifest_devices_current{hardware_class="kiosk",state="online"}': "9x500",
                'mailboat_devices{hardware_class="kiosk",state="online"}': "10x500",
            },
            "400m",
            [],
        ),
    ],
    "MailboatRollbacks": [
        (
            # All at once, between two scrapes.
            {f'mailboat_release_outcomes{{{MODEL},version="2",outcome="failed"}}': "0x70 5x50"},
            "100m",
            [{"model": "vad", "version": "2"}],
        ),
        (
            {f'mailboat_release_outcomes{{{MODEL},version="2",outcome="ok"}}': "0+9x30"},
            "20m",
            [],
        ),
        # They failed long ago.
        ({f'mailboat_release_outcomes{{{MODEL},version="2",outcome="failed"}}': "5x90"}, "80m", []),
    ],
    "MailboatReleaseFailing": [
        (
            {
                f'mailboat_release_outcomes{{{MODEL},version="2",outcome="failed"}}': "0x2 1x20",
                f'mailboat_release_outcomes{{{MODEL},version="2",outcome="ok"}}': "9x30",
            },
            "15m",
            [{"model": "vad", "version": "2"}],
        ),
        # It was taken back days ago, and what it did stays in the counts.
        (
            {
                f'mailboat_release_outcomes{{{MODEL},version="2",outcome="failed"}}': "1x2000",
                f'mailboat_release_outcomes{{{MODEL},version="2",outcome="ok"}}': "9x2000",
            },
            "1900m",
            [],
        ),
        (
            {
                f'mailboat_release_outcomes{{{MODEL},version="2",outcome="failed"}}': "0x2 1x20",
                f'mailboat_release_outcomes{{{MODEL},version="2",outcome="ok"}}': "99x30",
            },
            "15m",
            [],
        ),
    ],
    "MailboatQuarantineGrowing": [
        ({'mailboat_quarantined_messages_total{code="E-X"}': "0+1x60"}, "50m", [{"code": "E-X"}]),
        ({'mailboat_quarantined_messages_total{code="E-X"}': "0x30 1x30"}, "50m", []),
        # The first ones, all at once: there was no series before.
        (
            {'mailboat_quarantined_messages_total{code="E-X"}': "_x30 99x20"},
            "40m",
            [{"code": "E-X"}],
        ),
        ({'mailboat_quarantined_messages_total{code="E-X"}': "99x200"}, "150m", []),
    ],
    "MailboatDeviceFloods": [
        ({"mailboat_device_messages_ignored_total": "0x5 9x10"}, "10m", [{}]),
        ({"mailboat_device_messages_ignored_total": "9x20"}, "10m", []),
    ],
    "MailboatDeviceDoubled": [
        ({"mailboat_devices_doubled_total": "0x5 1x10"}, "10m", [{}]),
        ({"mailboat_devices_doubled_total": "1x20"}, "10m", []),
    ],
    "MailboatSiteCut": [
        (
            {
                'mailboat_site_connected{site="a"}': "0x20",
                'mailboat_site_disconnect_expected{site="a"}': "0x20",
            },
            "10m",
            [{"site": "a"}],
        ),
        (
            {
                'mailboat_site_connected{site="a"}': "0x20",
                'mailboat_site_disconnect_expected{site="a"}': "1x20",
            },
            "10m",
            [],
        ),
    ],
    "MailboatSiteCertificateEnds": [
        (
            {
                'mailboat_site_certificate_expires_timestamp_seconds{site="a"}': "5180400x70",
                'mailboat_site_certificate_expires_timestamp_seconds{site="b"}': "6000000x70",
            },
            "65m",
            [{"site": "a"}],
        ),
        (
            {'mailboat_site_certificate_expires_timestamp_seconds{site="b"}': "6000000x70"},
            "65m",
            [],
        ),
    ],
    "MailboatLatencyRegression": [
        (
            {
                f'mailboat_request_latency_seconds_bucket{{{MODEL},version="1",le="0.01"}}': (
                    "0+10x60 600x180"
                ),
                f'mailboat_request_latency_seconds_bucket{{{MODEL},version="1",le="+Inf"}}': (
                    "0+10x60 600x180"
                ),
                f'mailboat_request_latency_seconds_bucket{{{MODEL},version="2",le="0.01"}}': (
                    "0x240"
                ),
                f'mailboat_request_latency_seconds_bucket{{{MODEL},version="2",le="0.1"}}': (
                    "0x60 0+10x180"
                ),
                f'mailboat_request_latency_seconds_bucket{{{MODEL},version="2",le="+Inf"}}': (
                    "0x60 0+10x180"
                ),
                # One device, and all that it tells between two scrapes.
                f'mailboat_release_outcomes{{{MODEL},version="2",outcome="ok"}}': "0x60 1x180",
            },
            "110m",
            [{"hardware_class": "kiosk", "model": "vad"}],
        ),
        # As slow, and no release began lately: the load, or the weather.
        (
            {
                f'mailboat_request_latency_seconds_bucket{{{MODEL},version="1",le="0.01"}}': (
                    "0+10x60 600x180"
                ),
                f'mailboat_request_latency_seconds_bucket{{{MODEL},version="1",le="0.1"}}': (
                    "0+10x240"
                ),
                f'mailboat_request_latency_seconds_bucket{{{MODEL},version="1",le="+Inf"}}': (
                    "0+10x240"
                ),
                f'mailboat_release_outcomes{{{MODEL},version="1",outcome="ok"}}': "9x240",
            },
            "110m",
            [],
        ),
    ],
    "MailboatModelErrors": [
        (
            {
                f'mailboat_requests_total{{{MODEL},version="2",result="error"}}': "0+1x60",
                f'mailboat_requests_total{{{MODEL},version="2",result="ok"}}': "0+9x60",
            },
            "40m",
            [{"model": "vad", "version": "2"}],
        ),
        (
            {
                f'mailboat_requests_total{{{MODEL},version="2",result="error"}}': "0x60",
                f'mailboat_requests_total{{{MODEL},version="2",result="ok"}}': "0+9x60",
            },
            "40m",
            [],
        ),
    ],
    "MailboatDrillFailed": [
        (
            {
                f'mailboat_drill_devices{{{MODEL},outcome="failed"}}': "2x5",
                f'mailboat_drill_devices{{{MODEL},outcome="passed"}}': "9x5",
            },
            "2m",
            [{"hardware_class": "kiosk", "model": "vad", "outcome": "failed"}],
        ),
        (
            {
                f'mailboat_drill_devices{{{MODEL},outcome="failed"}}': "0x5",
                f'mailboat_drill_devices{{{MODEL},outcome="skipped"}}': "3x5",
            },
            "2m",
            [],
        ),
    ],
    "MailboatDevicesGone": [
        (
            {
                'mailboat_devices{hardware_class="gate",state="offline"}': "1x30",
                'mailboat_class_disconnect_policy{hardware_class="gate",policy="error"}': "1x30",
                'mailboat_devices{hardware_class="ship",state="offline"}': "9x30",
                'mailboat_class_disconnect_policy{hardware_class="ship",policy="error"}': "0x30",
            },
            "20m",
            [{"hardware_class": "gate", "state": "offline"}],
        ),
        (
            {
                'mailboat_devices{hardware_class="gate",state="offline"}': "0x30",
                'mailboat_devices{hardware_class="gate",state="unknown"}': "9x30",
                'mailboat_class_disconnect_policy{hardware_class="gate",policy="error"}': "1x30",
            },
            "20m",
            [],
        ),
    ],
    "MailboatModelsStopped": [
        (
            {'mailboat_devices_stale{hardware_class="gate",action="stopped"}': "1x30"},
            "20m",
            [{"hardware_class": "gate", "action": "stopped"}],
        ),
        ({'mailboat_devices_stale{hardware_class="gate",action="told"}': "5x30"}, "20m", []),
    ],
    "MailboatDevicesDiskLow": [
        ({'mailboat_devices_disk_low{site="a"}': "1x60"}, "40m", [{"site": "a"}]),
        ({'mailboat_devices_disk_low{site="a"}': "0x60"}, "40m", []),
    ],
    "MailboatDevicesClockWrong": [
        ({'mailboat_devices_clock_wrong{site="a"}': "1x90"}, "80m", [{"site": "a"}]),
        ({'mailboat_devices_clock_wrong{site="a"}': "0x90"}, "80m", []),
    ],
    "MailboatArtifactsDamaged": [
        ({"mailboat_artifacts_damaged": "1x30"}, "20m", [{}]),
        ({"mailboat_artifacts_damaged": "0x30", "mailboat_artifacts_missing": "0x30"}, "20m", []),
    ],
    "MailboatIngestSlow": [
        (
            {
                'mailboat_ingest_batch_seconds_bucket{le="3.0"}': "0x60",
                'mailboat_ingest_batch_seconds_bucket{le="10.0"}': "0+5x60",
                'mailboat_ingest_batch_seconds_bucket{le="+Inf"}': "0+5x60",
            },
            "40m",
            [{}],
        ),
        (
            {
                'mailboat_ingest_batch_seconds_bucket{le="0.1"}': "0+5x60",
                'mailboat_ingest_batch_seconds_bucket{le="+Inf"}': "0+5x60",
            },
            "40m",
            [],
        ),
    ],
}


def rules() -> dict[str, dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_every_alert_is_tried() -> None:
    assert CASES.keys() == rules().keys()
    for name, cases in CASES.items():
        assert {bool(fires) for *_, fires in cases} == {True, False}, name


LONG_MINUTES = 400  # from here on promtool looks every ten minutes: each look is at every rule


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)
def test_each_alert_fires_on_what_it_is_for_and_on_nothing_less(tmp_path: Path) -> None:
    known = rules()
    tests: dict[str, list[dict[str, Any]]] = {"1m": [], "10m": []}
    for name, cases in CASES.items():
        for series, at, fires in cases:
            expected = []
            for labels in fires:
                rule = known[name]
                summary = rule["annotations"]["summary"]
                step = rule["annotations"]["next_step"]
                for label, value in labels.items():
                    summary = summary.replace(f"{{{{ $labels.{label} }}}}", value)
                    step = step.replace(f"{{{{ $labels.{label} }}}}", value)
                expected.append(
                    {
                        "exp_labels": {**labels, "severity": rule["labels"]["severity"]},
                        "exp_annotations": {
                            "summary": summary,
                            "next_step": step,
                            "runbook_url": rule["annotations"]["runbook_url"],
                        },
                    }
                )
            minutes = int(at.removesuffix("m"))
            tests["10m" if minutes >= LONG_MINUTES else "1m"].append(
                {
                    "interval": "1m",
                    "input_series": [{"series": s, "values": v} for s, v in series.items()],
                    "alert_rule_test": [
                        {"eval_time": at, "alertname": name, "exp_alerts": expected}
                    ],
                }
            )
    paths = []
    for interval, cases_of_it in tests.items():
        paths.append(tmp_path / f"every-{interval}.yml")
        content = {
            "rule_files": [str(RULES)],
            "evaluation_interval": interval,
            "tests": cases_of_it,
        }
        paths[-1].write_text(yaml.safe_dump(content))

    done = subprocess.run(
        ["promtool", "test", "rules", *map(str, paths)], check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr
