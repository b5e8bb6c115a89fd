"""What an exported audit log brings back of the time after a backup.

The entries continue the log as they are: the same chain, the same hashes. Of what they tell, that
is taken up which would be dangerous to forget (who was revoked) or which is complete in the entry
(a device's key, a class's document). Everything else is counted and named, and stays lost.
"""

import base64
import binascii
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from mailboat_controller.auditing import export_file, signed_head
from mailboat_controller.auditing.export_file import VerifiedExport
from mailboat_controller.auditing.signed_head import AuditBroken
from mailboat_controller.sites.fields import SiteFields
from mailboat_controller.store import (
    access_tokens,
    audit,
    classes,
    credentials,
    device_certificates,
    devices,
    sites,
)
from mailboat_controller.store.instants import from_ms
from mailboat_controller.store.savepoint import savepoint
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.errors import MailboatError

ROWS_AT_ONCE = 500
Entry = Mapping[str, Any]


@dataclass(slots=True)
class Replayed:
    """By action, how many entries were taken up and how many only recorded."""

    first: int = 0
    last: int = 0
    taken_up: Counter[str] = field(default_factory=Counter)
    recorded: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "last": self.last,
            "taken_up": dict(sorted(self.taken_up.items())),
            "recorded": dict(sorted(self.recorded.items())),
            "failed": dict(sorted(self.failed.items())),
        }


def take_up(tx: Transaction, file: IO[bytes], keys_dir: Path, *, now: datetime) -> Replayed:
    """Continue the audit log with what an export has beyond it, in the caller's transaction.

    The export is signed by this controller's own audit key, which a backup holds.

    Raises:
        AuditBroken: it does not hold, is of another controller, or does not go on from our log.
    """
    signer = signed_head.open_key(keys_dir)
    found = Replayed()
    sequence, hash_ = audit.head(tx)
    batch: list[dict[str, Any]] = []
    for entry in export_file.read(file, signer.public_key):
        if isinstance(entry, VerifiedExport):
            found.last = entry.last
            _require_reached(entry, sequence)
            break
        if entry["sequence"] == sequence and entry["hash"] != hash_:
            raise _of_another_log(sequence)
        if entry["sequence"] <= sequence:
            continue
        if entry["sequence"] == sequence + 1 and entry["previous_hash"] != hash_:
            raise _of_another_log(sequence)
        if not found.first and entry["sequence"] != sequence + 1:
            raise _begins_late(entry["sequence"], sequence)
        found.first = found.first or entry["sequence"]
        batch.append(entry)
        _note(tx, entry, found, now)
        if len(batch) >= ROWS_AT_ONCE:
            audit.continue_with(tx, batch)
            batch = []
    if batch:
        audit.continue_with(tx, batch)
    devices.continue_numbers(tx)
    return found


def _note(tx: Transaction, entry: Entry, found: Replayed, now: datetime) -> None:
    action = entry["action"]
    replay = _REPLAYS.get(action)
    if replay is None:
        found.recorded[action] += 1
        return
    try:
        with savepoint(tx):
            replay(tx, entry, now)
    except (MailboatError, KeyError, ValueError, TypeError, binascii.Error):
        # Of an older version, or about something that is not here: told, never passed over.
        found.failed[action] += 1
    else:
        found.taken_up[action] += 1


def _require_reached(export: VerifiedExport, sequence: int) -> None:
    if export.first > sequence + 1:
        raise _begins_late(export.first, sequence)


def _begins_late(first: int, sequence: int) -> AuditBroken:
    return AuditBroken(
        f"The export begins with entry {first}; the log here ends with {sequence}.",
        next_step=f"name an export that has entry {sequence + 1}: "
        "`mailboat audit export` writes all of them.",
    )


def _of_another_log(sequence: int) -> AuditBroken:
    return AuditBroken(
        f"The export's entry {sequence} is not the one of this log: they are not the same log.",
        next_step="name an export of this controller, made before it was lost and not after "
        "another restore.",
    )


# --- what is taken up ----------------------------------------------------------------------------


def _enrol(tx: Transaction, entry: Entry, _now: datetime) -> None:
    device, details = entry["subject"], entry["details"]
    public_key = base64.b64decode(details["public_key"], validate=True)
    at = from_ms(entry["at"])
    devices.enrol(
        tx,
        device=device,
        hardware_class=details["hardware_class"],
        site=details["site"],
        labels=details["labels"],
        public_key=public_key,
        at=at,
        number=details["enrolment_number"],
    )
    _certificate(tx, entry, public_key)


def _renew(tx: Transaction, entry: Entry, _now: datetime) -> None:
    public_key = base64.b64decode(entry["details"]["public_key"], validate=True)
    _certificate(tx, entry, public_key)
    device_certificates.offer_key(tx, devices.get(tx, entry["subject"]), public_key)


def _certificate(tx: Transaction, entry: Entry, public_key: bytes) -> None:
    details, device = entry["details"], entry["subject"]
    device_certificates.record(
        tx,
        device,
        serial=details["certificate_serial"],
        public_key=public_key,
        issued_at=from_ms(entry["at"]),
        expires_at=datetime.fromisoformat(details["expires_at"]),
    )


def _confirm_key(tx: Transaction, entry: Entry, _now: datetime) -> None:
    public_key = base64.b64decode(entry["details"]["public_key"], validate=True)
    row = devices.get(tx, entry["subject"])
    device_certificates.confirm_key(tx, row, public_key, from_ms(entry["at"]))


def _revoke(tx: Transaction, entry: Entry, _now: datetime) -> None:
    devices.revoke(tx, entry["subject"])


def _issue_credential(tx: Transaction, entry: Entry, _now: datetime) -> None:
    kind, _, name = entry["subject"].partition(":")
    credentials.add(
        tx,
        serial=entry["details"]["certificate_serial"],
        name=name,
        kind=kind,
        expires_at=datetime.fromisoformat(entry["details"]["expires_at"]),
        at=from_ms(entry["at"]),
    )


def _revoke_credential(tx: Transaction, entry: Entry, _now: datetime) -> None:
    kind, _, name = entry["subject"].partition(":")
    credentials.revoke(tx, name=name, kind=kind)


def _revoke_token(tx: Transaction, entry: Entry, now: datetime) -> None:
    _, _, name = entry["subject"].partition(":")
    access_tokens.revoke(tx, name, now, token_id=entry["details"].get("id"))


def _apply_class(tx: Transaction, entry: Entry, now: datetime) -> None:
    classes.put(tx, HardwareClass.model_validate(entry["details"]["after"]), now)


def _put_site(tx: Transaction, entry: Entry, now: datetime) -> None:
    _, _, name = entry["subject"].partition(":")
    fields = SiteFields.model_validate(entry["details"]["after"])
    content = {each: getattr(fields, each) for each in SiteFields.model_fields}
    sites.put(tx, name, **content, at=now)


_REPLAYS: Mapping[str, Callable[[Transaction, Entry, datetime], None]] = MappingProxyType(
    {
        "device.enrol": _enrol,
        "device.renew": _renew,
        "device.key": _confirm_key,
        "device.revoke": _revoke,
        "credential.issue": _issue_credential,
        "credential.revoke": _revoke_credential,
        "access_token.revoke": _revoke_token,
        "hardware_class.apply": _apply_class,
        "site.add": _put_site,
        "site.change": _put_site,
    }
)
