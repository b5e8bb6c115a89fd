"""The whole log checked: its chain, and every head that was signed of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from securesystemslib.signer import CryptoSigner

from mailboat_controller.auditing import signed_head
from mailboat_controller.auditing.signed_head import AuditBroken, SignedHead
from mailboat_controller.store import audit, audit_heads
from mailboat_controller.store.audit_chain import FIRST_PREVIOUS_HASH
from mailboat_controller.store.audit_heads import HeadRow
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import NotFound

ACTOR = "controller"
KEY_ACTION = "audit.key"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """``broken_at`` is the first entry that does not hold; 0 where a head itself does not."""

    entries: int
    head: str
    heads: int  # signed ones that were compared
    broken_at: int | None = None
    problem: str = ""
    next_step: str = ""


NEXT_STEP = (
    "stop trusting the log from that entry on: keep a copy of the database, compare it with the "
    "newest backup and the newest export (docs/audit.md), and look for who can write to it."
)


def check(tx: Transaction, keyid: str | None = None) -> Checked:
    """Chain and stored heads. Reads everything, a part at a time.

    Args:
        keyid: of the controller's key. The newest head must be signed by it: whoever can write to
            the database alone can work out a chain anew, and sign it with a key of their own.
    """
    entries, head = audit.head(tx)
    broken = audit.check(tx)
    if broken is not None:
        return Checked(
            entries=entries,
            head=head,
            heads=0,
            broken_at=broken.sequence,
            problem=broken.problem,
            next_step=NEXT_STEP,
        )
    heads, newest = 0, audit_heads.newest(tx)
    for row in audit_heads.every(tx):
        heads += 1
        problem = _problem_of(tx, row, keyid if row == newest else None)
        if problem:
            return Checked(
                entries=entries,
                head=head,
                heads=heads,
                broken_at=min(row.sequence, entries + 1),
                problem=problem,
                next_step=NEXT_STEP,
            )
    return Checked(entries=entries, head=head, heads=heads)


def compare(tx: Transaction, heads: Iterable[SignedHead], fleet: str) -> None:
    """
    Raises:
        AuditBroken: the log is not one that has grown on from these heads.
    """
    for signed in heads:
        problem = problem_with(signed, fleet, audit_heads.hash_of(tx, signed.head.sequence))
        if problem:
            raise AuditBroken(problem, next_step=NEXT_STEP)


def problem_with(signed: SignedHead, fleet: str, hash_there: str | None) -> str:
    """What is wrong with a log that has this hash at the head's entry; empty: nothing."""
    head = signed.head
    if head.fleet != fleet:
        return f"The head is of the fleet {head.fleet}, not of {fleet}."
    if hash_there is None and head.sequence:
        return (
            f"The head that was signed at {head.signed_at} ends with entry {head.sequence}, and "
            "the log does not reach so far: it was cut off at its end."
        )
    if head.sequence and hash_there != head.hash:
        return (
            f"Entry {head.sequence} is not the one of the head that was signed at "
            f"{head.signed_at}: the log was worked out anew."
        )
    return ""


def _problem_of(tx: Transaction, row: HeadRow, keyid: str | None) -> str:
    try:
        signed = signed_head.read(row.signed)
    except AuditBroken as error:
        return error.what
    if (signed.head.sequence, signed.head.hash) != (row.sequence, row.hash):
        return f"The stored head {row.sequence} is not the one that was signed."
    if keyid is not None and signed.key.keyid != keyid:
        return (
            f"The newest stored head is signed by key {signed.key.keyid[:16]}, and the "
            f"controller's is {keyid[:16]}: keys/audit.pem was made anew within the hour, or "
            "somebody else signed it."
        )
    return problem_with(signed, signed.head.fleet, audit_heads.hash_of(tx, row.sequence))


def sign_now(
    tx: Transaction,
    signer: CryptoSigner,
    *,
    fleet: str,
    now: datetime,
    first: int = 1,
    last: int | None = None,
) -> SignedHead:
    """The signed head of the log, or of its entries ``first`` to ``last``; nothing is stored.

    Raises:
        NotFound: there are no such entries.
    """
    newest, newest_hash = audit.head(tx)
    sequence = newest if last is None else last
    hash_ = newest_hash if last is None else audit_heads.hash_of(tx, sequence)
    before = FIRST_PREVIOUS_HASH if first == 1 else audit_heads.hash_of(tx, first - 1)
    if hash_ is None or before is None or first > max(sequence, 1):
        raise NotFound(
            f"The audit log has no entries {first} to {sequence}; it ends with {newest}.",
            next_step="name numbers that `mailboat audit show` prints.",
        )
    return signed_head.sign(
        signer,
        fleet=fleet,
        sequence=sequence,
        hash_=hash_,
        now=now,
        first=first,
        first_previous_hash=before,
    )


def keep_head(store: Store, keys_dir: Path, *, fleet: str, now: datetime) -> bool:
    """Sign the newest entry and keep that, where it is not kept yet; whether it was done."""
    signer = signed_head.open_key(keys_dir)
    with store.transaction() as tx:
        kept = audit_heads.newest(tx)
        sequence, hash_ = audit.head(tx)
        if kept is not None and kept.sequence >= sequence:
            return False
        if kept is None or signed_head.read(kept.signed).key.keyid != signer.public_key.keyid:
            audit.append(
                tx,
                at=now,
                actor=ACTOR,
                action=KEY_ACTION,
                subject=signer.public_key.keyid,
                reason="this key signs the head of the audit log from here on",
                details={"public_key": signer.public_key.to_dict()},
            )
            sequence, hash_ = audit.head(tx)
        signed = signed_head.sign(signer, fleet=fleet, sequence=sequence, hash_=hash_, now=now)
        row = HeadRow(sequence=sequence, hash=hash_, signed=signed.text, signed_at=now)
        audit_heads.put(tx, row)
    # Also in the log, which may well be kept on another machine.
    _log.info("audit head signed", sequence=sequence, hash=hash_, signed=signed.text)
    return True
