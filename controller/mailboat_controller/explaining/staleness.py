"""Which models of a device are further behind than policy allows, by the device's own rule."""

from datetime import datetime

from mailboat_controller.explaining.device_facts import KnownDevice
from mailboat_schemas.staleness import Behind, approved_releases, how_far_behind
from mailboat_schemas.trust import TrustView


def behind(view: TrustView, known: KnownDevice, now: datetime) -> tuple[Behind, ...]:
    """Of every model that serves, by the newest metadata and the device's newest report."""
    return tuple(
        how_far_behind(
            each.model,
            each.serving_version,
            approved_releases(view, each.model),
            known.facts.rules.staleness,
            hardware_class=known.row.hardware_class,
            now=now,
        )
        for each in (() if known.report is None else known.report.models)
        if each.serving_version is not None
    )


def stale_models(view: TrustView, known: KnownDevice, now: datetime) -> frozenset[str]:
    return frozenset(each.model for each in behind(view, known, now) if each.broken)
