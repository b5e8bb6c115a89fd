"""Which models of a device are further behind than policy allows, by the device's own rule."""

from datetime import datetime

from mailboat_controller.explaining.device_facts import KnownDevice
from mailboat_schemas.reports import ReportedModel
from mailboat_schemas.staleness import (
    Action,
    Behind,
    approved_releases,
    done_about_it,
    enforcement,
    how_far_behind,
)
from mailboat_schemas.trust import TrustView


def behind(
    view: TrustView, known: KnownDevice, told: ReportedModel, now: datetime
) -> Behind | None:
    """Of a model that serves, or is stopped for this; by the newest metadata and the device's
    newest report."""
    version = told.serving_version or told.stopped_version
    if version is None:
        return None
    return how_far_behind(
        told.model,
        version,
        approved_releases(view, told.model),
        known.facts.rules.staleness,
        hardware_class=known.row.hardware_class,
        now=now,
    )


def stale_models(view: TrustView, known: KnownDevice, now: datetime) -> frozenset[str]:
    models = () if known.report is None else known.report.models
    found = (behind(view, known, each, now) for each in models)
    return frozenset(each.model for each in found if each is not None and each.broken)


def stale_words(
    view: TrustView, known: KnownDevice, told: ReportedModel, now: datetime
) -> tuple[str, ...]:
    """How far behind, what policy does about it, and whether the device says that it does."""
    far = behind(view, known, told, now)
    if far is None or not far.broken:
        return ()
    found = enforcement(far, known.facts.rules.staleness, told.stale_since, now)
    done = done_about_it(found)
    if found.action is Action.STOP and told.stopped_version is None:
        can_know = known.facts.clock_trusted and known.facts.trust_fresh
        done += " (not confirmed by it yet)" if can_know else " (it cannot know, and serves on)"
    return (*far.broken, *([done] if done else []))
