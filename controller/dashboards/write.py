"""Write what Prometheus, Alertmanager and Grafana are provisioned with, and docs/metrics.md.

``python controller/dashboards/write.py``; a test proves that what is committed is what it would
write. Where files with secrets stand is for whoever deploys it: docs/dashboards.md.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from alerts import ALERTS, rules  # noqa: E402  beside this script
from boards import BOARDS  # noqa: E402
from panels import rendered  # noqa: E402
from runbook import section_of  # noqa: E402

from mailboat_controller.metrics import described  # noqa: E402
from mailboat_controller.metrics.latency_buckets import BOUNDS_SECONDS  # noqa: E402

DOCS = HERE.parents[1] / "docs"
_NOTE = "# Written by controller/dashboards/write.py.\n"
# What `mailboat credential issue prometheus --kind dashboard` writes, as Grafana sees it.
_CREDENTIAL = "/etc/grafana/credential/prometheus"


def pages() -> Iterator[tuple[Path, str]]:
    """Every generated file with its content."""
    yield HERE / "prometheus" / "prometheus.yml", _NOTE + _yaml(_prometheus())
    yield HERE / "prometheus" / "alerts.yml", _NOTE + _yaml(rules())
    # None: the directory must be there, or Prometheus complains of it every five minutes.
    yield HERE / "prometheus" / "targets" / "ingest.yml", _NOTE + _yaml([])
    yield HERE / "alertmanager" / "alertmanager.yml", _NOTE + _yaml(_alertmanager())
    provisioning = HERE / "grafana" / "provisioning"
    yield provisioning / "datasources" / "mailboat.yaml", _NOTE + _yaml(_sources())
    yield provisioning / "dashboards" / "mailboat.yaml", _NOTE + _yaml(_providers())
    for board in BOARDS:
        path = HERE / "grafana" / "dashboards" / f"{board.uid}.json"
        yield path, json.dumps(rendered(board), indent=2) + "\n"
    yield DOCS / "metrics.md", _metrics_page()


def _prometheus() -> dict[str, object]:
    credential = "/etc/prometheus/credential/prometheus"
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["/etc/prometheus/rules/*.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["alertmanager:9093"]}]}]},
        "scrape_configs": [
            {
                "job_name": "mailboat",
                "scheme": "https",
                "tls_config": {
                    "ca_file": f"{credential}/ca.pem",
                    "cert_file": f"{credential}/prometheus.pem",
                    "key_file": f"{credential}/prometheus.key",
                },
                "static_configs": [{"targets": ["controller:8443"]}],
            },
            {
                # Processes of `mailboat ingest`: a list of targets that you write, or none.
                "job_name": "mailboat-ingest",
                "file_sd_configs": [{"files": ["/etc/prometheus/targets/ingest*.yml"]}],
            },
            {
                "job_name": "prometheus",
                "static_configs": [{"targets": ["127.0.0.1:9090"]}],
            },
            {
                "job_name": "alertmanager",
                "static_configs": [{"targets": ["alertmanager:9093"]}],
            },
        ],
    }


def _alertmanager() -> dict[str, object]:
    return {
        "route": {
            "receiver": "nobody-yet",
            "group_by": ["alertname"],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": "12h",
        },
        # While the controller cannot be heard, nothing else it says is news.
        "inhibit_rules": [
            {
                "source_matchers": [
                    'alertname=~"MailboatControllerDown|MailboatBrokerDisconnected"'
                ],
                "target_matchers": ['alertname=~"MailboatFleetStale|MailboatManifestNotAnswered"'],
            }
        ],
        "receivers": [{"name": "nobody-yet"}],
    }


def _sources() -> dict[str, object]:
    """Passwords and keys come from the environment and from files: Grafana expands both."""
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "uid": "mailboat-prometheus",
                "name": "Mailboat Prometheus",
                "type": "prometheus",
                "access": "proxy",
                "url": "http://prometheus:9090",
                "isDefault": True,
                "jsonData": {"timeInterval": "15s", "httpMethod": "POST"},
            },
            {
                "uid": "mailboat-mqtt",
                "name": "Mailboat broker",
                "type": "grafana-mqtt-datasource",
                "access": "proxy",
                "jsonData": {
                    "uri": "tls://broker:8883",
                    # Without one each restart would leave a session at the broker.
                    "clientID": "grafana",
                    "tlsAuth": True,
                    "tlsAuthWithCACert": True,
                },
                "secureJsonData": {
                    "tlsCACert": f"$__file{{{_CREDENTIAL}/ca.pem}}",
                    "tlsClientCert": f"$__file{{{_CREDENTIAL}/prometheus.pem}}",
                    "tlsClientKey": f"$__file{{{_CREDENTIAL}/prometheus.key}}",
                },
            },
            {
                "uid": "mailboat-database",
                "name": "Mailboat database",
                "type": "grafana-postgresql-datasource",
                "access": "proxy",
                "url": "${MAILBOAT_VIEWS_HOST}",
                "user": "mailboat_views",
                "jsonData": {"database": "mailboat", "sslmode": "verify-full"},
                "secureJsonData": {"password": "$__file{/run/secrets/mailboat_views}"},
            },
        ],
    }


def _providers() -> dict[str, object]:
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "mailboat",
                "type": "file",
                "folder": "Mailboat",
                "allowUiUpdates": False,
                "updateIntervalSeconds": 60,
                "options": {"path": "/etc/grafana/dashboards"},
            }
        ],
    }


_METRICS_INTRODUCTION = """\
# Metrics

Everything that `/metrics` shows, written from the code by `controller/dashboards/write.py`. How to
scrape it: [configuration.md](configuration.md#watch-it); what to draw and when to wake somebody:
[dashboards.md](dashboards.md).

No series has a device's name, but for the canaries that the setting `metrics_canaries` lists (50 at
most). Figures of the fleet are sums that the controller adds to as it stores what devices tell:
they survive its restart, are the same whoever took the messages in, and count a window when it
came, be that a week late. Of releases at sites the 1000 told of last have series;
`mailboat_series_left_out` says how many have none.

Latencies come from the devices' own sketches (one per cent accurate), as classic buckets from
{first:g} s to {last:g} s, five to a decade. A quantile from `histogram_quantile` is therefore off
by less than a factor of 1.6, usually by a few per cent; merging devices, sites or releases adds
nothing to that.

Figures of this process (batches, messages ignored, quarantined or acknowledged, events and windows
stored) begin at nothing when it starts. Where [ingest partitions](scale-out.md#what-they-show)
take messages in, each shows its own, and those alone: sum over the jobs. The fleet's figures are
shown by `mailboat serve` alone and are whole.

A counter of something told apart by a label, such as the kind of an event, has no series until the
first of it: `increase` does not see that one. `mailboat_release_outcomes` begins with 0 for the
releases that it counts, so ask it for failures.

Devices without a site are those of `site="-"`. Of more than 1000 sites the 999 with most devices
have series, and the devices of all others are those of `site="(others)"`.

How the fleet stands is read from the database every five seconds at most, and never for more than a
twentieth of the time: in a fleet of 100,000 devices it may be a minute old.
With 100,000 devices at 200 sites on SQLite that took 1.5 s of processor time, and a scrape (one
megabyte) 0.2 s; with each of them at a site of its own 2.1 s, and a scrape (five megabytes) 0.6 s.
"""


def _metrics_page() -> str:
    lines = [
        _METRICS_INTRODUCTION.format(first=BOUNDS_SECONDS[0], last=BOUNDS_SECONDS[-1]),
        "| metric | kind | labels | meaning |",
        "|---|---|---|---|",
    ]
    for name, told in sorted(described.METRICS.items()):
        shown = f"{name}_total" if told.kind == "counter" else name
        labels = ", ".join(f"`{label}`" for label in told.labels)
        lines.append(f"| `{shown}` | {told.kind} | {labels} | {told.text} |")
    lines += [
        "",
        "## Alerts",
        "",
        "| alert | severity | after | what | next step |",
        "|---|---|---|---|---|",
    ]
    for alert in ALERTS:
        what, step = (_plain(text) for text in (alert.summary, alert.next_step))
        after = "at once" if alert.held_for == "0m" else alert.held_for
        name = f"[`{alert.name}`](runbook.md#{section_of(alert.name)})"
        lines.append(f"| {name} | {alert.severity} | {after} | {what} | {step} |")
    return "\n".join([*lines, ""])


def _plain(text: str) -> str:
    """Labels by their name, as in "*model*"."""
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", text)


def _yaml(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=100)


if __name__ == "__main__":
    for path, content in pages():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
