"""Devices as selectors see them."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache

from mailboat_controller.explaining.conditions import conditions_of
from mailboat_controller.explaining.explain import Evidence
from mailboat_controller.explaining.staleness import stale_models
from mailboat_controller.presence import Reach, standing
from mailboat_controller.sites.reach import reach_by_site
from mailboat_controller.store import devices, overrides
from mailboat_controller.store.class_counts import silence_is_expected
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.fleet_columns import FleetRow
from mailboat_controller.store.overrides import HOLD, PIN, OverrideRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.selectors import Selector, Subject

EVERY_MODEL = "all"
ROWS_AT_ONCE = 1000


def subject_of(
    row: DeviceRow | FleetRow,
    presence: str,
    overrides: Iterable[OverrideRow],
    notes: Mapping[str, str],
    stale: frozenset[str] = frozenset(),
    condition: frozenset[str] = frozenset(),
) -> Subject:
    """Args: overrides: those that stand; notes: operators' labels."""
    report = row.report or {}
    serving = ((each["model"], each["serving_version"]) for each in report.get("models", ()))
    held, pinned = set(), set()
    for each in overrides:
        if each.kind == HOLD:
            held.add(each.model or EVERY_MODEL)
        elif each.kind == PIN:
            pinned |= {each.model, f"{each.model}@{each.version}"}
    return Subject(
        device=row.device,
        hardware_class=row.hardware_class,
        site=row.site,
        presence=presence,
        # What it reports, because that is what it decides with; before that, what it enrolled with.
        labels=report["facts"]["labels"] if report else row.labels,
        notes=notes,
        running=_running(tuple(serving)),
        held=frozenset(held),
        pinned=frozenset(pinned),
        stale=stale,
        condition=condition,
    )


@lru_cache(maxsize=4096)
def _running(serving: tuple[tuple[str, str | None], ...]) -> frozenset[str]:
    """Thousands of devices serve the same, so they share what is said of it."""
    named = ((model, f"{model}@{version}") for model, version in serving if version is not None)
    return frozenset(name for names in named for name in names)


def select(
    tx: Transaction,
    selector: Selector,
    reach: Reach,
    now: datetime,
    *,
    after: int = 0,
    limit: int,
    hardware_class: str | None = None,
    site: str | None = None,
    prefix: str = "",
) -> list[DeviceRow]:
    """The devices a selector names, by enrolment number above ``after``; at most ``limit``.

    Reads on until so many are found: a page that is not full is the last.
    """
    found: list[DeviceRow] = []
    orders = overrides.every(tx)
    asked = {each.key for each in selector.requirements}
    evidence = Evidence(tx, now) if "stale" in asked else None
    unmissed = silence_is_expected(tx) if "condition" in asked else ()
    while len(found) < limit:
        rows = devices.list_page(
            tx,
            after=after,
            limit=ROWS_AT_ONCE,
            hardware_class=_one(selector, "class", hardware_class),
            site=_one(selector, "site", site),
            prefix=prefix,
        )
        if not rows:
            break
        links = reach_by_site(tx, {row.site for row in rows}, now)
        notes = overrides.labels_of(tx, [row.device for row in rows])
        for row in rows:
            presence = standing(row, reach, links.get(row.site, Reach())).presence
            stand = [each for each in orders.get(row.device, ()) if each.expires_at > now]
            stale = frozenset[str]()
            if evidence is not None:
                stale = stale_models(evidence.trust.view, evidence.device(row, stand), now)
            condition = frozenset(conditions_of(row, unmissed, now) if "condition" in asked else ())
            noted = notes.get(row.device, {})
            subject = subject_of(row, presence.value, stand, noted, stale, condition)
            if selector.matches(subject):
                found.append(row)
        after = rows[-1].enrolment_number
    return found[:limit]


def _one(selector: Selector, key: str, otherwise: str | None) -> str | None:
    """For the database to look through less; the selector itself is asked all the same."""
    values = selector.only(key)
    if otherwise is not None or values is None or len(values) != 1:
        return otherwise
    return next(iter(values))
