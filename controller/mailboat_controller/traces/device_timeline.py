"""The timeline of one device: what it told, what was ordered of it, and what its rollouts did.

A page at a time, from the newest back: the device's events, and the entries of the audit log about
it, about the rollouts of the releases it has run, and about what its class is to run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailboat_controller.store import audit, devices, events, outcomes, rollouts
from mailboat_controller.store.audit import AuditRow
from mailboat_controller.store.events import EventRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.traces.chain import chain
from mailboat_controller.traces.timeline import Entry, entry_of
from mailboat_schemas.errors import NotFound

PAGE_ENTRIES_MAX = 500
ROLLOUTS_MAX = 200  # the newest; those of a device that has seen more are in their own timelines
NUMBER_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTimeline:
    """``entries`` are in order; ``earlier`` is what to ask for the page before them, None when
    there is none."""

    device: str
    hardware_class: str
    site: str
    serving: dict[str, str]  # model -> version, as its newest report says
    entries: tuple[Entry, ...]
    earlier: str | None


def read(
    tx: Transaction, device: str, *, before: str | None = None, limit: int = 100
) -> DeviceTimeline:
    """
    Args:
        before: ``earlier`` of the page after it; None: the newest there is.

    Raises:
        NotFound: no such device, or ``before`` is not of a page.
    """
    row = devices.get(tx, device)
    event_before, entry_before = _cursor(before)
    told = events.newest_page(tx, device, before=event_before, limit=limit + 1)
    subjects = (device, *_subjects(tx, device, row.hardware_class))
    recorded = audit.newest_page(tx, before=entry_before, limit=limit + 1, subjects=subjects)
    shown_events, shown_entries = _newest(told, recorded, limit)
    more = len(told) + len(recorded) > len(shown_events) + len(shown_entries)
    steps = chain("0" * 32, shown_entries, (), shown_events)
    serving = {} if row.report is None else _serving(row.report)
    return DeviceTimeline(
        device=device,
        hardware_class=row.hardware_class,
        site=row.site,
        serving=serving,
        entries=tuple(entry_of(step) for step in steps),
        earlier=_earlier(shown_events, shown_entries, event_before, entry_before) if more else None,
    )


def _subjects(tx: Transaction, device: str, hardware_class: str) -> tuple[str, ...]:
    digests = outcomes.digests_of(tx, device)
    mine = [row.rollout for row in rollouts.every(tx) if row.rollout.digest in digests]
    newest = mine[-ROLLOUTS_MAX:]
    models = sorted({rollout.model for rollout in newest})
    return (*(r.name for r in newest), *(f"{hardware_class}/{model}" for model in models))


def _newest(
    told: Sequence[EventRow], recorded: Sequence[AuditRow], limit: int
) -> tuple[list[EventRow], list[AuditRow]]:
    """The newest ``limit`` of both, each in its own order: a clock may have been set back."""
    left_events, left_entries = list(told), list(recorded)
    events_shown: list[EventRow] = []
    entries_shown: list[AuditRow] = []
    while (left_events or left_entries) and len(events_shown) + len(entries_shown) < limit:
        if not left_entries or (left_events and left_events[-1].received_at >= left_entries[-1].at):
            events_shown.append(left_events.pop())
        else:
            entries_shown.append(left_entries.pop())
    return events_shown[::-1], entries_shown[::-1]


def _earlier(
    told: Sequence[EventRow],
    recorded: Sequence[AuditRow],
    event_before: int | None,
    entry_before: int | None,
) -> str:
    event = told[0].id if told else event_before
    entry = recorded[0].sequence if recorded else entry_before
    return f"{NUMBER_MAX if event is None else event}-{NUMBER_MAX if entry is None else entry}"


def _cursor(before: str | None) -> tuple[int | None, int | None]:
    if before is None:
        return None, None
    event, _, entry = before.partition("-")
    if not (event.isascii() and event.isdigit() and entry.isascii() and entry.isdigit()):
        raise NotFound(
            "There is no page of a timeline by that name.",
            next_step="ask for what the page after it gave as `earlier`, or for none.",
        )
    return min(int(event[:20]), NUMBER_MAX), min(int(entry[:20]), NUMBER_MAX)


def _serving(report: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for model in report.get("models") or ():
        if model.get("serving_version"):
            found[str(model["model"])] = str(model["serving_version"])
    return found
