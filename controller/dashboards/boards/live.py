"""Straight from the broker. The names to choose from are Prometheus's: the broker has no list."""

from dataclasses import replace

from panels import Board, Panel, Variable, live

from boards.queries import CLASS, MODEL, ROLLOUT

_FLEET = Variable(name="fleet", of="label_values(mailboat_controller_info, fleet)", one=True)
_SITE = Variable(
    name="site",
    # Neither devices without a site nor what is added up of many is a topic.
    of='label_values(mailboat_site_devices{site!~"-|[(]others[)]"}, site)',
    one=True,
)
_PRESENCE = ("devices", "online", "offline", "unknown")


def _of_model(title: str, text: str, *fields: str, unit: str = "short") -> Panel:
    return live(title, text, "model/${model}", *fields, unit=unit)


LIVE = Board(
    uid="mailboat-live",
    title="Mailboat / Live",
    text="Straight from the broker, as the controller publishes it; no history.",
    variables=(_FLEET, *(replace(each, one=True) for each in (CLASS, MODEL, ROLLOUT)), _SITE),
    since="now-5m",
    refresh="",
    panels=(
        live("Fleet", "Devices by state; unknown is not offline.", "fleet/${fleet}", *_PRESENCE),
        live(
            "Class",
            "Devices of one class, and the newest manifest's number.",
            "class/${hardware_class}",
            *_PRESENCE,
            "manifest_counter",
        ),
        live(
            "Rollout",
            "Where the devices of one rollout stand.",
            "rollout/${rollout}",
            *("waiting", "in_progress", "ok", "failed", "wave"),
        ),
        _of_model(
            "Model",
            "Devices on the current release, and how many releases are in use.",
            *("devices", "current", "current_percent", "releases"),
        ),
        _of_model(
            "Model, requests",
            "Of the last five minutes, as devices told them.",
            *("requests_per_second", "errors_per_second"),
            unit="reqps",
        ),
        _of_model(
            "Model, latency",
            "Of the last five minutes, on the devices.",
            *("latency_p50_ms", "latency_p95_ms", "latency_p99_ms"),
            unit="ms",
        ),
        live(
            "Devices without a site",
            "Those that connect to the centre directly.",
            "direct/${fleet}",
            *_PRESENCE,
            *("unseen_24h", "disk_low"),
        ),
        live(
            "Site",
            "Devices of one site.",
            "site/${site}",
            *_PRESENCE,
            *("unseen_24h", "disk_low"),
        ),
    ),
)
