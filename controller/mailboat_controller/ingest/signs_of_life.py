"""Reports, births and last wills: what shows of a device besides its two streams."""

from dataclasses import replace
from datetime import datetime

from mailboat_controller.ingest.opening import require_own
from mailboat_controller.ingest.watermark_rule import DeviceStreams
from mailboat_controller.store import device_signs
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.codec import decode
from mailboat_schemas.errors import WrongTopic
from mailboat_schemas.reports import Presence, ReportedState


def take_report(
    tx: Transaction,
    device: DeviceStreams,
    payload: bytes,
    *,
    fleet: str,
    retained: bool,
    now: datetime,
) -> bool:
    """Whether it is news, on which a rollout may decide otherwise."""
    report = decode(ReportedState, payload)
    row = device.row
    require_own(row.device, report.device)
    if (report.fleet, report.hardware_class) != (fleet, row.hardware_class):
        raise WrongTopic(
            f"The report of {row.device} speaks of {report.fleet}/{report.hardware_class}; "
            f"it is enrolled in {fleet}/{row.hardware_class}.",
            next_step="enrol the device anew in its right class.",
        )
    if not device_signs.set_report(tx, report, at=now, held=row):
        return False
    # Brokers and bridges deliver retained reports again and again: only news is a sign of life.
    held = row.report
    newer = held is None or (held["session"], held["observed_at"]) < (
        report.session,
        report.observed_at,
    )
    if newer:
        device.seen = device.seen or not retained
    content = device_signs.document(report)
    device.row = replace(
        row,
        report=content,
        labels=content["facts"]["labels"],
        manifest_counter=max(row.manifest_counter, report.manifest_counter),
    )
    if not retained:
        offset_ms = device_signs.measure_clock(tx, row, report, at=now)
        if offset_ms is not None:
            device.row = replace(device.row, clock_offset_ms=offset_ms, clock_seen_at=now)
    return newer


def take_presence(tx: Transaction, device: DeviceStreams, payload: bytes, now: datetime) -> None:
    presence = decode(Presence, payload)
    row = device.row
    require_own(row.device, presence.device)
    news = (presence.online, presence.session)
    if (
        device_signs.set_presence(
            tx, row.device, session=presence.session, online=presence.online, at=now, held=row
        )
        and (row.online, row.session) != news
    ):
        device.row = replace(row, online=news[0], session=news[1], presence_at=now)
