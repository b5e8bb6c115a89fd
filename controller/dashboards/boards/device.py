"""One device: canaries by metrics, any device by the read-only views of the database."""

from panels import Board, Variable, chart, prom, sql_table, table

_CANARY = Variable(name="device", of="label_values(mailboat_canary_seen_timestamp_seconds, device)")

DEVICE = Board(
    uid="mailboat-device",
    title="Mailboat / Device",
    text="One device: canaries by metrics, any device by the read-only views of the database.",
    variables=(_CANARY, Variable(name="name", label="Device in the database")),
    panels=(
        table(
            "What canaries run",
            "Devices that `metrics_canaries` names: release and phase, by their report.",
            prom('mailboat_canary_info{device=~"$device"}'),
        ),
        chart(
            "Last heard of",
            "Time since a canary said anything.",
            "s",
            prom(
                'time() - mailboat_canary_seen_timestamp_seconds{device=~"$device"}', "{{device}}"
            ),
            width=12,
        ),
        sql_table(
            "The device",
            "Registry entry and presence; times in milliseconds since 1970, by our clock.",
            "SELECT * FROM v_devices WHERE device = '$name'",
            width=24,
        ),
        sql_table(
            "Its events",
            "The newest state events, in the order the device told them.",
            "SELECT id, kind, model, version, observed_at, received_at FROM v_events "
            "WHERE device = '$name' ORDER BY id DESC LIMIT 100",
        ),
        sql_table(
            "Its windows",
            "Requests by telemetry window; level 0 as sent, 1 hours merged, 2 days.",
            "SELECT began_at, level, model, version, seconds, requests_ok, "
            "requests_error, requests_refused FROM v_windows WHERE device = '$name' "
            "ORDER BY began_at DESC LIMIT 100",
        ),
    ),
)
