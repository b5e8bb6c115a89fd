"""How the whole fleet stands."""

from panels import Board, chart, prom, stat

from boards.queries import (
    CLASS,
    MODEL,
    OF,
    OF_CLASS,
    RELEASE,
    RELEASE_NAME,
    per_second,
    quantile,
    share,
    summed,
)

_LIVE = f'{OF_CLASS}, state!="revoked"'
_PEOPLE = 'actor!~"controller|device|ci|site"'
_ENTRIES = f"mailboat_audit_entries_total{{{_PEOPLE}}}"

_NOW = (
    stat(
        "Devices",
        "Enrolled devices that are not revoked.",
        "short",
        prom(summed("mailboat_devices", _LIVE)),
    ),
    stat(
        "Online",
        "Share of devices with a connection to the broker now. Unknown counts as not.",
        "percentunit",
        prom(
            share(
                summed("mailboat_devices", f'{OF_CLASS}, state="online"'),
                summed("mailboat_devices", _LIVE),
            )
        ),
        most=1,
    ),
    stat(
        "On the current release",
        "Share of devices that serve the release which their class should, by what each last "
        "reported; one that is offline, or never spoke, is among all of them.",
        "percentunit",
        prom(
            share(
                summed("mailboat_model_devices_current", OF),
                summed("mailboat_model_devices_assigned", OF),
            )
        ),
        most=1,
    ),
    stat(
        "Staleness breaches",
        "Staleness breaches: devices that said nothing for 24 hours, or since they were enrolled; "
        "and those with a model further behind than policy allows.",
        "short",
        prom(summed("mailboat_devices_unseen", 'seconds_min="86400"'), "not heard of"),
        prom(summed("mailboat_devices_stale"), "models behind"),
    ),
    stat(
        "Broker",
        "On while the controller is connected. While it is off nothing on this page is news.",
        "bool_on_off",
        prom('min(mailboat_broker_connected{job="mailboat"})'),
    ),
    stat(
        "Trust ends in",
        "Time until the first role that people sign expires; then nothing is installed.",
        "s",
        prom(
            "min(mailboat_trust_role_expires_timestamp_seconds"
            '{role!~"timestamp|snapshot"}) - time()'
        ),
    ),
)

_LATELY = (
    chart(
        "Devices by state",
        "Unknown: never heard of, or the way to them is cut; it is not offline.",
        "short",
        prom(summed("mailboat_devices", OF_CLASS, "state"), "{{state}}"),
        stacked=True,
    ),
    chart(
        "Releases in use",
        "Devices by the release they serve: version drift is every line but the newest.",
        "short",
        prom(summed("mailboat_release_devices", OF, RELEASE), RELEASE_NAME),
        stacked=True,
    ),
    chart(
        "Manifest answered",
        "Sync success: share of devices whose report answers their newest manifest.",
        "percentunit",
        prom(
            share(
                summed("mailboat_manifest_devices_current", OF_CLASS, "hardware_class"),
                summed("mailboat_devices", _LIVE, "hardware_class"),
            ),
            "{{hardware_class}}",
        ),
        most=1,
    ),
    chart(
        "State events",
        "What devices told of themselves, stored, by kind.",
        "cps",
        prom(per_second("mailboat_release_events_total", OF, "kind"), "{{kind}}"),
    ),
    chart(
        "A way back that was proven",
        "Share of devices on which a rollback drill passed in the last thirty days.",
        "percentunit",
        prom(
            share(
                summed("mailboat_drill_devices_passed_lately", OF, "hardware_class, model"),
                summed("mailboat_model_devices_assigned", OF, "hardware_class, model"),
            ),
            "{{model}} {{hardware_class}}",
        ),
        most=1,
    ),
    chart(
        "A return would take",
        "On nine of ten devices, by their last drill that passed.",
        "s",
        prom(
            f"max by (hardware_class, model) (mailboat_drill_return_p90_seconds{{{OF}}})",
            "{{model}} {{hardware_class}}",
        ),
    ),
    chart(
        "Manual interventions",
        "Orders that people gave in the last day, by the audit log.",
        "short",
        # Not `increase`, which misses the first of a kind: no entry was there before it.
        prom(
            f"sum by (action) ({_ENTRIES} - ({_ENTRIES} offset 1d or {_ENTRIES} * 0))",
            "{{action}}",
        ),
    ),
    chart(
        "Waiting for the broker",
        "Messages in the controller's outbox; growing: the broker takes nothing.",
        "short",
        prom("mailboat_outbox_messages", "outbox"),
    ),
    chart(
        "Ingest, p99 of a batch",
        "Time to store a batch of messages; devices wait for it to forget their events.",
        "s",
        prom(quantile(0.99, "mailboat_ingest_batch_seconds", ""), "p99"),
    ),
    chart(
        "Turned away",
        "Messages in the quarantine: somebody sends what cannot be taken.",
        "short",
        prom("mailboat_quarantine_messages_held", "held"),
    ),
    chart(
        "Left out",
        "Releases at sites without series: the scrape is bounded, the rows have them all.",
        "short",
        prom("mailboat_series_left_out", "groups"),
    ),
)

FLEET = Board(
    uid="mailboat-fleet",
    title="Mailboat / Fleet",
    text="How the whole fleet stands, and whether the controller can know.",
    variables=(CLASS, MODEL),
    panels=(*_NOW, *_LATELY),
)
