"""A fleet of any size that has run a release for a while, and what its database is asked to do."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event, insert
from sqlalchemy.engine import Engine

from controller_core import EVERYBODY, PPM, Core, plan
from enrolled_fleet import CLASS, EnrolledDevice
from mailboat_controller.rollout.counts import first_wave
from mailboat_controller.rollout.members import Member
from mailboat_controller.rollout.state import Phase, Trigger
from mailboat_controller.store import devices, tables
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.documents.rollout_gate import Gate, GateKind
from mailboat_schemas.events import EventKind
from mailboat_schemas.gate_terms import terms_of
from mailboat_schemas.plan import PlanWave

# Five good verdicts exclude that 40 % fail, wrongly once in ten times.
TERMS = terms_of(Gate(kind=GateKind.STATISTICAL, p1=40, beta=10, looks=1, soak_hours=1, q=60))
FIVE = PlanWave(count=5, cap_ppm=PPM, gate=TERMS)
REST = EVERYBODY.model_copy(update={"gate": TERMS})

WRITES = ("INSERT", "UPDATE", "DELETE")
MESSAGES = "INSERT outbox"


@dataclass
class Asked:
    """What was asked of the database: statements, and rows that were written or removed; and how
    long all of it took, deciding and signing included."""

    statements: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def rows_written(self) -> dict[str, int]:
        return {what: count for what, count in sorted(self.rows.items()) if count}


@contextmanager
def counting() -> Iterator[Asked]:
    """Count every statement of this process while the block runs, by verb and table."""
    asked = Asked()

    def count(
        _connection: object, cursor: Any, statement: str, parameters: Any, _: object, many: bool
    ) -> None:
        what = _what(statement)
        asked.statements[what] += 1
        if what.startswith(WRITES):
            asked.rows[what] += len(parameters) if many else max(cursor.rowcount, 0)

    event.listen(Engine, "after_cursor_execute", count)
    began = time.monotonic()
    try:
        yield asked
    finally:
        asked.seconds = time.monotonic() - began
        event.remove(Engine, "after_cursor_execute", count)


def _what(statement: str) -> str:
    """``INSERT outbox`` of a statement that puts rows into it; of a question its verb alone."""
    words = statement.replace('"', "").split()
    verb = words[0].upper()
    if verb not in WRITES:
        return verb
    table = words[1] if verb == "UPDATE" else words[2]
    return f"{verb} {table.split('(')[0]}"


def enrol_many(core: Core, count: int) -> EnrolledDevice:
    """Devices ``dev-0`` and so on, all with the key of the one that is returned."""
    one = EnrolledDevice("dev-0")
    seen = to_ms(core.now)
    columns = {
        "hardware_class": CLASS,
        "site": "-",
        "labels": {"ring": "stable"},
        "public_key": one.public_key,
        "certificate_serial": "",
        "certificate_expires_at": 0,
        "revoked": False,
        "enrolled_at": seen,
        "last_seen_at": seen,
        "online": True,
        "session": 1,
        "manifest_counter": 0,
    }
    with core.store.transaction() as tx:
        rows = [{"device": f"dev-{n}", **columns} for n in range(count)]
        tx.execute(insert(tables.devices), rows)
    return one


def all_committed(core: Core, count: int, digest: str) -> None:
    """As if each of them had told that it runs this release for good."""
    seen = to_ms(core.now)
    verdict = {
        "digest": digest,
        "retry_epoch": 0,
        "outcome": "ok",
        "code": "",
        "because": "",
        "exposed_at": seen,
        "updated_at": seen,
    }
    with core.store.transaction() as tx:
        rows = [{"device": f"dev-{n}", **verdict} for n in range(count)]
        tx.execute(insert(tables.outcomes), rows)


def let_in(core: Core, rollout: str) -> list[str]:
    """The devices that the open waves of a rollout let in, by enrolment number."""
    held = core.rollout(rollout)
    with core.store.read() as tx:
        rows = devices.members(tx, CLASS)
    found = []
    for row in rows:
        member = Member(device=row.device, enrolment_number=row.enrolment_number, labels=row.labels)
        if first_wave(held.plan, held.digest, held.opened.get(CLASS, ()), member) is not None:
            found.append(row.device)
    return found


class LargeFleet:
    """A number of devices that all run one release; the next one is published to them."""

    def __init__(self, directory: Path, size: int) -> None:
        self.core = Core(directory)
        self.one = enrol_many(self.core, size)
        digest = self.core.release("1.0.0", plan("before"))
        all_committed(self.core, size, digest)
        self.core.run()
        assert self.core.rollout("before").phase is Phase.COMPLETED
        self.core.empty_outbox()
        self.digest = ""
        self._good: set[str] = set()

    def publish(self) -> Asked:
        with counting() as asked:
            self.digest = self.core.release("1.1.0", plan("next", FIVE, REST))
        return asked

    def promote(self) -> Asked:
        """Five good verdicts are in and the soak is over; deciding is what is counted."""
        self._tell(let_in(self.core, "next"), EventKind.COMMITTED)
        self.core.empty_outbox()
        self.core.now += timedelta(hours=1)
        with counting() as asked:
            self.core.run()
        assert self.core.rollout("next").waves_open == 2
        return asked

    def halt(self) -> Asked:
        bad = [name for name in let_in(self.core, "next") if name not in self._good][:4]
        self.core.empty_outbox()
        with counting() as asked:
            self._tell(bad, EventKind.ROLLED_BACK)
        assert self.core.rollout("next").phase is Phase.HALTED
        return asked

    def order(self) -> Asked:
        """What people do: pause it, and let it go on."""
        self.core.empty_outbox()
        with counting() as asked:
            for trigger in (Trigger.PAUSE, Trigger.RESUME):
                self.core.reconciler.order(
                    "next", trigger, actor="operator:ada", reason="lunch", now=self.core.now
                )
        return asked

    def look_again(self) -> Asked:
        self.core.empty_outbox()
        with counting() as asked:
            self.core.run()
        return asked

    def _tell(self, names: list[str], kind: EventKind) -> None:
        if kind is EventKind.COMMITTED:
            self._good = set(names)
        for name in names:
            device: EnrolledDevice = replace(self.one, name=name)
            self.core.tell(device, kind, self.digest, version="1.1.0")


STEPS = (
    LargeFleet.publish,
    LargeFleet.promote,
    LargeFleet.order,
    LargeFleet.halt,
    LargeFleet.look_again,
)
