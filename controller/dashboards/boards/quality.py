"""How releases answer on devices."""

from panels import Board, Panel, chart, prom

from boards.queries import (
    CLASS,
    MODEL,
    OF,
    OF_CLASS,
    RELEASE,
    RELEASE_NAME,
    increased,
    per_second,
    quantile,
    share,
    summed,
)

_REQUESTS = "mailboat_requests_total"


def _by(label: str) -> str:
    return f"{RELEASE_NAME} {{{{{label}}}}}"


def _rates(title: str, text: str, metric: str, label: str) -> Panel:
    """Requests per second by release and one more label."""
    query = prom(per_second(metric, OF, f"{RELEASE}, {label}"), _by(label))
    return chart(title, text, "reqps", query)


def _latency(q: float, name: str) -> Panel:
    return chart(
        f"Latency, {name}",
        "By release, on the device; at most one bucket (a factor of 1.6) off.",
        "s",
        prom(quantile(q, "mailboat_request_latency_seconds", OF, RELEASE), RELEASE_NAME),
        width=6,
    )


_ANSWERS = (
    _rates(
        "Requests by result",
        "Refused requests were not run: no room, or their time was over.",
        _REQUESTS,
        "result",
    ),
    chart(
        "Local availability",
        "Share of requests that were answered, on the device, network or not.",
        "percentunit",
        prom(
            share(
                per_second(_REQUESTS, f'result="ok", {OF}', RELEASE),
                per_second(_REQUESTS, OF, RELEASE),
            ),
            RELEASE_NAME,
        ),
        most=1,
    ),
    chart(
        "Worker restarts",
        "Times a model's process ended on a device, over an hour.",
        "short",
        prom(increased("mailboat_worker_restarts_total", OF, RELEASE), RELEASE_NAME),
    ),
)

_MEANING = (
    chart(
        "Feedback",
        "Share of good ones among what applications posted, by counter.",
        "percentunit",
        prom(
            share(
                increased("mailboat_feedback_good_total", OF, f"{RELEASE}, counter"),
                increased("mailboat_feedback_counted_total", OF, f"{RELEASE}, counter"),
            ),
            _by("counter"),
        ),
        most=1,
    ),
    chart(
        "Values posted",
        "Mean of what applications posted, by name, since a release began.",
        "short",
        prom(
            share(
                summed("mailboat_feedback_values_added_up", OF, f"{RELEASE}, value"),
                summed("mailboat_feedback_values_total", OF, f"{RELEASE}, value"),
            ),
            _by("value"),
        ),
    ),
    chart(
        "Drift, p90",
        "Population stability index of the furthest tensor: 0.1 is the same population.",
        "short",
        prom(
            "histogram_quantile(0.9, "
            f"{increased('mailboat_drift_shift_ratio_bucket', OF, f'le, {RELEASE}, side')})",
            _by("side"),
        ),
    ),
    _rates(
        "Shadow",
        "Live requests mirrored to candidates, by what came of them.",
        "mailboat_shadow_requests_total",
        "outcome",
    ),
    _rates(
        "Degraded answers",
        "Not the release's own at its best, by how they came about.",
        "mailboat_degraded_answers_total",
        "mode",
    ),
    chart(
        "Inferences per joule",
        "Of devices that know what energy they use, by class.",
        "short",
        prom(
            share(
                increased("mailboat_energy_inferences_total", OF_CLASS, "hardware_class"),
                increased("mailboat_energy_joules_total", OF_CLASS, "hardware_class"),
            ),
            "{{hardware_class}}",
        ),
    ),
)

QUALITY = Board(
    uid="mailboat-quality",
    title="Mailboat / Model quality",
    text="How releases answer on devices: latency, errors, feedback, drift, agreement.",
    variables=(CLASS, MODEL),
    panels=(
        *_ANSWERS,
        *(_latency(q, name) for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))),
        _latency(0.999, "p99.9"),
        *_MEANING,
    ),
)
