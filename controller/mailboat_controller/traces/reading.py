"""What is stored about one release, gathered for its trace. Bounded, whatever the fleet's size."""

import re
from dataclasses import dataclass

from mailboat_controller.store import audit, first_told, releases, rollouts, trace_rows
from mailboat_controller.store.audit import AuditRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.traces.about import ReleaseName
from mailboat_controller.traces.chain import Step, chain
from mailboat_schemas.errors import NotFound
from mailboat_schemas.tracing import TRACE_ID_CHARS, trace_id

DEVICES_SHOWN_MAX = 50  # in a trace of a release; one device's is asked for by its name
ENTRIES_PER_SUBJECT_MAX = 500
# A submission's own entry follows those of its releases in one transaction.
SUBMISSION_WITHIN_ENTRIES = 64
SUBMITTED = "submission.accept"
_HEX = re.compile(r"^[0-9a-f]+$")
DIGEST_CHARS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    trace_id: str
    release: ReleaseName
    steps: tuple[Step, ...]
    devices: int  # that told of it
    devices_shown: int


def read(tx: Transaction, of: str, device: str | None = None) -> Trace:
    """
    Args:
        of: ``model@version``, a document's digest, a trace id, or ``device/event-id``.
        device: only what this device told.

    Raises:
        NotFound: nothing here goes by that name.
    """
    release, device = _resolve(tx, of, device)
    trace = trace_id(release.digest)
    worst = trace_rows.devices_worst_first(tx, release.digest, DEVICES_SHOWN_MAX)
    shown = worst if device is None else (device,)
    told = [row for name in shown for row in trace_rows.events_of(tx, name, release.digest)]
    return Trace(
        trace_id=trace,
        release=release,
        steps=chain(trace, _entries(tx, release), first_told.of(tx, release.digest), told),
        devices=trace_rows.count_devices(tx, release.digest),
        devices_shown=len(shown),
    )


def _resolve(tx: Transaction, of: str, device: str | None) -> tuple[ReleaseName, str | None]:
    if "@" in of:
        model, _, version = of.partition("@")
        return _release(releases.by_version(tx, model, version), of), device
    if "/" in of:
        name, _, event_id = of.partition("/")
        digest = trace_rows.digest_of_event(tx, name, event_id)
        return _release(None if digest is None else releases.by_digest(tx, digest), of), name
    if _HEX.match(of) and len(of) == DIGEST_CHARS:
        return _release(releases.by_digest(tx, of), of), device
    if _HEX.match(of) and len(of) == TRACE_ID_CHARS:
        rows = (row for row in releases.every(tx) if trace_id(row.digest) == of)
        return _release(next(rows, None), of), device
    return _release(None, of), device


def _release(row: releases.ReleaseRow | None, of: str) -> ReleaseName:
    if row is None:
        raise NotFound(
            f"Nothing here goes by {of[:200]}.",
            next_step="name MODEL@VERSION, a release's digest, a trace id, or DEVICE/EVENT-ID as "
            "`mailboat device show --json` prints it.",
        )
    return ReleaseName(model=row.model, version=row.version, digest=row.digest)


def _entries(tx: Transaction, release: ReleaseName) -> list[AuditRow]:
    subjects = [f"{release.model}@{release.version}"]
    mine = [row.rollout for row in rollouts.every(tx) if row.rollout.digest == release.digest]
    subjects += [rollout.name for rollout in mine]
    classes = sorted({name for rollout in mine for name in rollout.opened})
    found: list[AuditRow] = []
    for subject in subjects:
        found += audit.page(tx, subject=subject, limit=ENTRIES_PER_SUBJECT_MAX)
    for row in list(found):
        if row.action in ("release.accept", "release.approve", "release.withdraw"):
            found += _submission_of(tx, row)
    for name in classes:
        changes = audit.page(tx, subject=f"{name}/{release.model}", limit=ENTRIES_PER_SUBJECT_MAX)
        found += [
            row
            for row in changes
            if release.version in (row.details.get("from"), row.details.get("to"))
        ]
    return sorted(found, key=lambda row: row.sequence)


def _submission_of(tx: Transaction, row: AuditRow) -> list[AuditRow]:
    following = audit.page(tx, after=row.sequence, limit=SUBMISSION_WITHIN_ENTRIES)
    mine = [each for each in following if each.action == SUBMITTED and each.actor == row.actor]
    return [each for each in mine[:1] if each.at == row.at]
