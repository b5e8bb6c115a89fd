"""How far a release has come, what it cost, and what went wrong."""

from panels import Board, bars, chart, prom, stat

from boards.queries import CLASS, MODEL, OF, RELEASE, RELEASE_NAME, share, summed
from boards.queries import ROLLOUT as CHOSEN

_DEVICES = "mailboat_release_outcomes"
_DECISIONS = 'action=~"(submission|rollout|release|trust|assignment)[.].+"'

_PROGRESS = (
    chart(
        "Where devices stand",
        "Every eligible device is in one of these; excluded ones are counted beside.",
        "short",
        prom(summed("mailboat_rollout_devices", 'rollout=~"$rollout"', "outcome"), "{{outcome}}"),
        width=12,
        stacked=True,
    ),
    bars(
        "Success rate",
        "Devices that finished the soak, of those with a verdict, by release.",
        "percentunit",
        prom(
            share(
                summed(_DEVICES, f'outcome="ok", {OF}', RELEASE),
                summed(_DEVICES, f'outcome=~"ok|failed", {OF}', RELEASE),
            ),
            RELEASE_NAME,
        ),
        width=6,
        most=1,
    ),
    stat(
        "Time to recover",
        "From a release's failure until its predecessor served again; median and p90.",
        "s",
        *(
            prom(
                f"histogram_quantile({q}, "
                f"{summed('mailboat_release_recovery_seconds_bucket', OF, 'le')})",
                f"p{q * 100:.0f}",
            )
            for q in (0.5, 0.9)
        ),
        width=6,
        height=7,
    ),
    chart(
        "Outcomes by release",
        "Devices by what became of each release on them, of their newest try.",
        "short",
        prom(
            f"{summed(_DEVICES, OF, f'{RELEASE}, outcome')} > 0", f"{RELEASE_NAME} {{{{outcome}}}}"
        ),
        width=12,
    ),
    chart(
        "Failures in an hour",
        "Rollback frequency: devices on which a release failed in the hour before, in its trial "
        "or later.",
        "short",
        # Of the devices, which are 0 before: `increase` of the events would miss the first one.
        prom(
            f'clamp_min(sum by ({RELEASE}) (delta({_DEVICES}{{outcome="failed", {OF}}}[1h])), 0)',
            RELEASE_NAME,
        ),
        width=12,
    ),
)

_COST = (
    bars(
        "Cost of a release",
        "Payload that devices fetched for it, in all.",
        "bytes",
        prom(summed("mailboat_release_fetched_bytes_total", OF, RELEASE), RELEASE_NAME),
    ),
    bars(
        "How releases came",
        "Full, as a delta, or full after a delta had failed.",
        "short",
        prom(summed("mailboat_release_deliveries_total", OF, "outcome"), "{{outcome}}"),
    ),
    bars(
        "Bytes by source",
        "Cache hits are what did not come from the controller.",
        "bytes",
        prom(summed("mailboat_delivery_source_bytes_total", OF, "source"), "{{source}}"),
    ),
    bars(
        "Reviews and exceptions",
        "What people decided about releases and rollouts, by the audit log, in all.",
        "short",
        prom(
            summed("mailboat_audit_entries_total", _DECISIONS, "action, actor"),
            "{{action}} by {{actor}}",
        ),
        width=24,
    ),
)

ROLLOUT = Board(
    uid="mailboat-rollout",
    title="Mailboat / Rollout",
    text="How far a release has come, what it cost, and what went wrong.",
    variables=(CHOSEN, CLASS, MODEL),
    panels=(*_PROGRESS, *_COST),
)
