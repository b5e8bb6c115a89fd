"""The dashboards: what an operator asks, one panel for each question. Written by `write.py`."""

from panels import Board, Panel, Query, Variable, prom

_CLASS = Variable(name="hardware_class", of="label_values(mailboat_devices, hardware_class)")
_MODEL = Variable(name="model", of="label_values(mailboat_model_devices_assigned, model)")
_SITE = Variable(name="site", of="label_values(mailboat_site_devices, site)")
_ROLLOUT = Variable(name="rollout", of="label_values(mailboat_rollout_devices, rollout)")
_CANARY = Variable(name="device", of="label_values(mailboat_canary_seen_timestamp_seconds, device)")
_OF = '{hardware_class=~"$hardware_class", model=~"$model"}'
_FAILED = 'kind=~"rolled_back|trial_failed"'


def _share(part: str, whole: str) -> str:
    return f"{part} / ({whole} > 0)"


def _quantile(q: float, metric: str, by: str, selector: str = _OF) -> str:
    rate = f"rate({metric}_bucket{selector}[$__rate_interval])"
    return f"histogram_quantile({q}, sum by ({by}) ({rate}))"


FLEET = Board(
    uid="mailboat-fleet",
    title="Mailboat / Fleet",
    text="How the whole fleet stands, and whether the controller can know.",
    variables=(_CLASS, _MODEL),
    panels=(
        Panel(
            title="Devices",
            text="Enrolled devices that are not revoked.",
            unit="short",
            kind="stat",
            width=4,
            queries=(prom('sum(mailboat_devices{state!="revoked"})'),),
        ),
        Panel(
            title="Online",
            text="Share of devices with a connection to the broker now. Unknown counts as not.",
            unit="percentunit",
            kind="stat",
            width=4,
            most=1,
            queries=(
                prom(
                    _share(
                        'sum(mailboat_devices{state="online"})',
                        'sum(mailboat_devices{state!="revoked"})',
                    )
                ),
            ),
        ),
        Panel(
            title="On the current release",
            text="Share of devices that serve the release which their class should.",
            unit="percentunit",
            kind="stat",
            width=4,
            most=1,
            queries=(
                prom(
                    _share(
                        f"sum(mailboat_model_devices_current{_OF})",
                        f"sum(mailboat_model_devices_assigned{_OF})",
                    )
                ),
            ),
        ),
        Panel(
            title="Not heard of for a day",
            text="Staleness breaches: devices that said nothing for 24 hours, or never did.",
            unit="short",
            kind="stat",
            width=4,
            queries=(prom('sum(mailboat_devices_unseen{seconds_min="86400"})'),),
        ),
        Panel(
            title="Broker",
            text="1 while the controller is connected. At 0 nothing on this page is news.",
            unit="bool_on_off",
            kind="stat",
            width=4,
            queries=(prom("mailboat_broker_connected"),),
        ),
        Panel(
            title="Trust ends in",
            text="Time until the first role that people sign expires; then nothing is installed.",
            unit="s",
            kind="stat",
            width=4,
            queries=(
                prom(
                    "min(mailboat_trust_role_expires_timestamp_seconds"
                    '{role!~"timestamp|snapshot"}) - time()'
                ),
            ),
        ),
        Panel(
            title="Devices by state",
            text="Unknown: never heard of, or the way to them is cut; it is not offline.",
            unit="short",
            stacked=True,
            queries=(
                prom(
                    'sum by (state) (mailboat_devices{hardware_class=~"$hardware_class"})',
                    "{{state}}",
                ),
            ),
        ),
        Panel(
            title="Releases in use",
            text="Devices by the release they serve: version drift is every line but the newest.",
            unit="short",
            stacked=True,
            queries=(
                prom(
                    f"sum by (model, version) (mailboat_release_devices{_OF})",
                    "{{model}} {{version}}",
                ),
            ),
        ),
        Panel(
            title="Manifest answered",
            text="Sync success: share of devices whose report answers their newest manifest.",
            unit="percentunit",
            most=1,
            queries=(
                prom(
                    _share(
                        "sum by (hardware_class) (mailboat_manifest_devices_current"
                        '{hardware_class=~"$hardware_class"})',
                        'sum by (hardware_class) (mailboat_devices{state!="revoked"})',
                    ),
                    "{{hardware_class}}",
                ),
            ),
        ),
        Panel(
            title="State events",
            text="What devices told of themselves, stored, by kind.",
            unit="cps",
            queries=(
                prom(
                    f"sum by (kind) (rate(mailboat_release_events_total{_OF}[$__rate_interval]))",
                    "{{kind}}",
                ),
            ),
        ),
        Panel(
            title="Manual interventions",
            text="Orders that people gave, over a day, by the audit log.",
            unit="short",
            queries=(
                prom(
                    "sum by (action) (increase(mailboat_audit_entries_total"
                    '{actor!~"controller|device|ci|site"}[1d]))',
                    "{{action}}",
                ),
            ),
        ),
        Panel(
            title="Waiting for the broker",
            text="Messages in the controller's outbox; growing: the broker takes nothing.",
            unit="short",
            queries=(prom("mailboat_outbox_messages", "outbox"),),
        ),
        Panel(
            title="Ingest, p99 of a batch",
            text="Time to store a batch of messages; devices wait for it to forget their events.",
            unit="s",
            queries=(prom(_quantile(0.99, "mailboat_ingest_batch_seconds", "le", ""), "p99"),),
        ),
        Panel(
            title="Turned away",
            text="Messages in the quarantine: somebody sends what cannot be taken.",
            unit="short",
            queries=(prom("mailboat_quarantine_messages_held", "held"),),
        ),
        Panel(
            title="Left out",
            text="Releases at sites without series: the scrape is bounded, the rows have them all.",
            unit="short",
            queries=(prom("mailboat_series_left_out", "groups"),),
        ),
    ),
)

ROLLOUT = Board(
    uid="mailboat-rollout",
    title="Mailboat / Rollout",
    text="How far a release has come, what it cost, and what went wrong.",
    variables=(_ROLLOUT, _CLASS, _MODEL),
    panels=(
        Panel(
            title="Where devices stand",
            text="Every eligible device is in one of these; excluded ones are counted beside.",
            unit="short",
            width=12,
            stacked=True,
            queries=(
                prom(
                    'sum by (outcome) (mailboat_rollout_devices{rollout=~"$rollout"})',
                    "{{outcome}}",
                ),
            ),
        ),
        Panel(
            title="Success rate",
            text="Devices that finished the soak, of those with a verdict, by release.",
            unit="percentunit",
            most=1,
            width=6,
            kind="bargauge",
            queries=(
                prom(
                    'sum by (model, version) (mailboat_release_outcomes{outcome="ok", '
                    'hardware_class=~"$hardware_class", model=~"$model"}) / sum by (model, '
                    'version) (mailboat_release_outcomes{outcome=~"ok|failed"})',
                    "{{model}} {{version}}",
                ),
            ),
        ),
        Panel(
            title="Time to recover",
            text="From a release's failure until its predecessor served again; median and p90.",
            unit="s",
            width=6,
            kind="stat",
            queries=tuple(
                prom(
                    f"histogram_quantile({q}, sum by (le) "
                    f"(mailboat_release_recovery_seconds_bucket{_OF}))",
                    f"p{q * 100:.0f}",
                )
                for q in (0.5, 0.9)
            ),
        ),
        Panel(
            title="Outcomes by release",
            text="Devices by what became of each release on them, of their newest try.",
            unit="short",
            width=12,
            queries=(
                prom(
                    f"sum by (model, version, outcome) (mailboat_release_outcomes{_OF})",
                    "{{model}} {{version}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            title="Failures in an hour",
            text="Rollback frequency: trials that failed and releases that were rolled back.",
            unit="short",
            width=12,
            queries=(
                prom(
                    "sum by (model, version) (increase(mailboat_release_events_total{"
                    f'{_FAILED}, model=~"$model"}}[1h]))',
                    "{{model}} {{version}}",
                ),
            ),
        ),
        Panel(
            title="Cost of a release",
            text="Payload that devices fetched for it, in all.",
            unit="bytes",
            kind="bargauge",
            queries=(
                prom(
                    f"sum by (model, version) (mailboat_release_fetched_bytes_total{_OF})",
                    "{{model}} {{version}}",
                ),
            ),
        ),
        Panel(
            title="How releases came",
            text="Full, as a delta, or full after a delta had failed.",
            unit="short",
            kind="bargauge",
            queries=(
                prom(f"sum by (outcome) (mailboat_release_deliveries_total{_OF})", "{{outcome}}"),
            ),
        ),
        Panel(
            title="Bytes by source",
            text="Cache hits are what did not come from the controller.",
            unit="bytes",
            kind="bargauge",
            queries=(
                prom(f"sum by (source) (mailboat_delivery_source_bytes_total{_OF})", "{{source}}"),
            ),
        ),
        Panel(
            title="Reviews and exceptions",
            text="What people decided about releases and rollouts, by the audit log, in all.",
            unit="short",
            kind="bargauge",
            width=24,
            queries=(
                prom(
                    "sum by (action, actor) (mailboat_audit_entries_total"
                    '{action=~"(submission|rollout|release|trust|assignment)[.].+"})',
                    "{{action}} by {{actor}}",
                ),
            ),
        ),
    ),
)

DEVICE = Board(
    uid="mailboat-device",
    title="Mailboat / Device",
    text="One device: canaries by metrics, any device by the read-only views of the database.",
    variables=(_CANARY, Variable(name="name", label="Device in the database")),
    panels=(
        Panel(
            title="What canaries run",
            text="Devices that `metrics_canaries` names: release and phase, by their report.",
            unit="short",
            kind="table",
            width=12,
            queries=(prom('mailboat_canary_info{device=~"$device"}'),),
        ),
        Panel(
            title="Last heard of",
            text="Time since a canary said anything.",
            unit="s",
            width=12,
            queries=(
                prom(
                    'time() - mailboat_canary_seen_timestamp_seconds{device=~"$device"}',
                    "{{device}}",
                ),
            ),
        ),
        Panel(
            title="The device",
            text="Registry entry and presence; times in milliseconds since 1970, by our clock.",
            unit="none",
            source="sql",
            kind="table",
            width=24,
            queries=(Query(sql="SELECT * FROM v_devices WHERE device = '$name'"),),
        ),
        Panel(
            title="Its events",
            text="The newest state events, in the order the device told them.",
            unit="none",
            source="sql",
            kind="table",
            width=12,
            queries=(
                Query(
                    sql="SELECT id, kind, model, version, observed_at, received_at FROM v_events "
                    "WHERE device = '$name' ORDER BY id DESC LIMIT 100"
                ),
            ),
        ),
        Panel(
            title="Its windows",
            text="Requests by telemetry window; level 0 as sent, 1 hours merged, 2 days.",
            unit="none",
            source="sql",
            kind="table",
            width=12,
            queries=(
                Query(
                    sql="SELECT began_at, level, model, version, seconds, requests_ok, "
                    "requests_error, requests_refused FROM v_windows WHERE device = '$name' "
                    "ORDER BY began_at DESC LIMIT 100"
                ),
            ),
        ),
    ),
)

SITES = Board(
    uid="mailboat-sites",
    title="Mailboat / Sites",
    text="Where devices are: links, presence, traffic and what they fetch, by site.",
    variables=(_SITE, _CLASS, _MODEL),
    panels=(
        Panel(
            title="Links",
            text="1 while a site's bridge is connected to the central broker.",
            unit="bool_on_off",
            kind="bargauge",
            most=1,
            queries=(prom('mailboat_site_connected{site=~"$site"}', "{{site}}"),),
        ),
        Panel(
            title="Cut for",
            text="How long a site has been away; its policy says whether that is expected.",
            unit="s",
            queries=(prom('mailboat_site_disconnected_seconds{site=~"$site"}', "{{site}}"),),
        ),
        Panel(
            title="A cut is expected",
            text="1 while the site's policy expects to be cut off; alerts keep silent then.",
            unit="bool_on_off",
            kind="bargauge",
            most=1,
            queries=(prom('mailboat_site_disconnect_expected{site=~"$site"}', "{{site}}"),),
        ),
        Panel(
            title="Devices by site and state",
            text="Revoked devices are in a state of their own.",
            unit="short",
            stacked=True,
            queries=(
                prom(
                    'sum by (site, state) (mailboat_site_devices{site=~"$site"})',
                    "{{site}} {{state}}",
                ),
            ),
        ),
        Panel(
            title="Not heard of",
            text="Devices that said nothing for at least an hour, a day, a week.",
            unit="short",
            queries=(
                prom(
                    'sum by (site, seconds_min) (mailboat_devices_unseen{site=~"$site"})',
                    "{{site}} {{seconds_min}} s",
                ),
            ),
        ),
        Panel(
            title="Disks and clocks",
            text="Devices with less than 512 MiB left, and those whose clock is a minute off.",
            unit="short",
            queries=(
                prom('mailboat_devices_disk_low{site=~"$site"}', "{{site}} disk"),
                prom('mailboat_devices_clock_wrong{site=~"$site"}', "{{site}} clock"),
            ),
        ),
        Panel(
            title="Requests",
            text="Requests to models at a site, counted when the device's window came here.",
            unit="reqps",
            width=12,
            queries=(
                prom(
                    'sum by (site) (rate(mailboat_requests_total{site=~"$site"}'
                    "[$__rate_interval]))",
                    "{{site}}",
                ),
            ),
        ),
        Panel(
            title="Latency, p95",
            text="On the devices; the network to them is not in it.",
            unit="s",
            width=12,
            queries=(
                prom(
                    _quantile(
                        0.95,
                        "mailboat_request_latency_seconds",
                        "le, site",
                        '{site=~"$site"}',
                    ),
                    "{{site}}",
                ),
            ),
        ),
    ),
)

QUALITY = Board(
    uid="mailboat-quality",
    title="Mailboat / Model quality",
    text="How releases answer on devices: latency, errors, feedback, drift, agreement.",
    variables=(_CLASS, _MODEL),
    panels=(
        Panel(
            title="Requests by result",
            text="Refused requests were not run: no room, or their time was over.",
            unit="reqps",
            queries=(
                prom(
                    "sum by (model, version, result) "
                    f"(rate(mailboat_requests_total{_OF}[$__rate_interval]))",
                    "{{model}} {{version}} {{result}}",
                ),
            ),
        ),
        Panel(
            title="Local availability",
            text="Share of requests that were answered, on the device, network or not.",
            unit="percentunit",
            most=1,
            queries=(
                prom(
                    "sum by (model, version) (rate(mailboat_requests_total"
                    '{result="ok", hardware_class=~"$hardware_class", model=~"$model"}'
                    "[$__rate_interval])) / sum by (model, version) "
                    f"(rate(mailboat_requests_total{_OF}[$__rate_interval]))",
                    "{{model}} {{version}}",
                ),
            ),
        ),
        Panel(
            title="Worker restarts",
            text="Times a model's process ended on a device, over an hour.",
            unit="short",
            queries=(
                prom(
                    f"sum by (model, version) (increase(mailboat_worker_restarts_total{_OF}[1h]))",
                    "{{model}} {{version}}",
                ),
            ),
        ),
        *(
            Panel(
                title=f"Latency, {name}",
                text="By release, on the device; at most one bucket (a factor of 1.6) off.",
                unit="s",
                width=6,
                queries=(
                    prom(
                        _quantile(q, "mailboat_request_latency_seconds", "le, model, version"),
                        "{{model}} {{version}}",
                    ),
                ),
            )
            for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"), (0.999, "p99.9"))
        ),
        Panel(
            title="Feedback",
            text="Share of good ones among what applications posted, by counter.",
            unit="percentunit",
            most=1,
            queries=(
                prom(
                    "sum by (model, version, counter) "
                    f"(increase(mailboat_feedback_good_total{_OF}[1h])) / sum by "
                    "(model, version, counter) "
                    f"(increase(mailboat_feedback_counted_total{_OF}[1h]))",
                    "{{model}} {{version}} {{counter}}",
                ),
            ),
        ),
        Panel(
            title="Values posted",
            text="Mean of what applications posted, by name, since a release began.",
            unit="short",
            queries=(
                prom(
                    f"sum by (model, version, value) (mailboat_feedback_values_added_up{_OF}) / "
                    f"sum by (model, version, value) (mailboat_feedback_values_total{_OF})",
                    "{{model}} {{version}} {{value}}",
                ),
            ),
        ),
        Panel(
            title="Drift, p90",
            text="Population stability index of the furthest tensor: 0.1 is the same population.",
            unit="short",
            queries=(
                prom(
                    "histogram_quantile(0.9, sum by (le, model, version, side) "
                    f"(increase(mailboat_drift_shift_ratio_bucket{_OF}[1h])))",
                    "{{model}} {{version}} {{side}}",
                ),
            ),
        ),
        Panel(
            title="Shadow",
            text="Live requests mirrored to candidates, by what came of them.",
            unit="reqps",
            queries=(
                prom(
                    "sum by (model, version, outcome) "
                    f"(rate(mailboat_shadow_requests_total{_OF}[$__rate_interval]))",
                    "{{model}} {{version}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            title="Degraded answers",
            text="Not the release's own at its best, by how they came about.",
            unit="reqps",
            queries=(
                prom(
                    "sum by (model, version, mode) "
                    f"(rate(mailboat_degraded_answers_total{_OF}[$__rate_interval]))",
                    "{{model}} {{version}} {{mode}}",
                ),
            ),
        ),
        Panel(
            title="Inferences per joule",
            text="Of devices that know what energy they use, by class.",
            unit="short",
            queries=(
                prom(
                    "sum by (hardware_class) (increase(mailboat_energy_inferences_total[1h])) / "
                    "sum by (hardware_class) (increase(mailboat_energy_joules_total[1h]))",
                    "{{hardware_class}}",
                ),
            ),
        ),
    ),
)


def _live(title: str, text: str, topic: str, *fields: str, unit: str = "short") -> Panel:
    return Panel(
        title=title,
        text=text,
        unit=unit,
        source="mqtt",
        kind="stat",
        width=12,
        queries=(Query(topic=topic, fields=fields),),
    )


LIVE = Board(
    uid="mailboat-live",
    title="Mailboat / Live",
    text="Straight from the broker, as the controller publishes it; no history. Type the names.",
    variables=(
        Variable(name="fleet", default="main"),
        Variable(name="hardware_class"),
        Variable(name="model"),
        Variable(name="rollout"),
        Variable(name="site"),
    ),
    since="now-5m",
    refresh="",
    panels=(
        _live(
            "Fleet",
            "Devices by state; unknown is not offline.",
            "fleet/${fleet}",
            "devices",
            "online",
            "offline",
            "unknown",
        ),
        _live(
            "Class",
            "Devices of one class, and the newest manifest's number.",
            "class/${hardware_class}",
            "devices",
            "online",
            "offline",
            "unknown",
            "manifest_counter",
        ),
        _live(
            "Rollout",
            "Where the devices of one rollout stand.",
            "rollout/${rollout}",
            "waiting",
            "in_progress",
            "ok",
            "failed",
            "wave",
        ),
        _live(
            "Model",
            "Devices on the current release, and how many releases are in use.",
            "model/${model}",
            "devices",
            "current",
            "current_percent",
            "releases",
        ),
        _live(
            "Model, requests",
            "Of the last five minutes, as devices told them.",
            "model/${model}",
            "requests_per_second",
            "errors_per_second",
            unit="reqps",
        ),
        _live(
            "Model, latency",
            "Of the last five minutes, on the devices.",
            "model/${model}",
            "latency_p50_ms",
            "latency_p95_ms",
            "latency_p99_ms",
            unit="ms",
        ),
        _live(
            "Devices without a site",
            "Those that connect to the centre directly.",
            "direct/${fleet}",
            "devices",
            "online",
            "offline",
            "unknown",
            "unseen_24h",
            "disk_low",
        ),
        _live(
            "Site",
            "Devices of one site.",
            "site/${site}",
            "devices",
            "online",
            "offline",
            "unknown",
            "unseen_24h",
            "disk_low",
        ),
    ),
)

BOARDS = (FLEET, ROLLOUT, DEVICE, SITES, QUALITY, LIVE)
