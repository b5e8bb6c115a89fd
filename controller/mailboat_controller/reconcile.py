"""The controller's loop body: observe, decide, record; what is to be sent is recorded too.

Level-based: `Reconciler.run` works everything out from the stored state in one transaction, so it
may run at any time, twice, or after a crash. Nothing here sends anything; `service.py` drains the
outbox.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import structlog

from mailboat_controller import rollout_facts
from mailboat_controller.authority.online import OnlineKeys
from mailboat_controller.delta_builds.telling import with_deltas
from mailboat_controller.recovery.behind import publishable
from mailboat_controller.releases import publication
from mailboat_controller.releases.class_terms import ClassTerms
from mailboat_controller.releases.publication import ClassWish, Published
from mailboat_controller.rollout.decide import Decision, Facts, Rollout, decide, promote
from mailboat_controller.rollout.members import Member
from mailboat_controller.rollout.state import FINAL, OFFERED, ORDERS, Trigger, move
from mailboat_controller.rollout_facts import Classes
from mailboat_controller.rollout_moves import ACTOR, decided, record_move, refuse_unseen, told
from mailboat_controller.store import artifact_life, audit, classes, rollouts
from mailboat_controller.store.engine import Store
from mailboat_controller.store.rollouts import AssignmentRow, RolloutRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import held_trust
from mailboat_controller.trust.held_trust import HeldTrust
from mailboat_schemas.desired import ReleaseRef
from mailboat_schemas.device_orders import DeviceDesired
from mailboat_schemas.documents.rollout import WAVES_MAX
from mailboat_schemas.errors import Conflict
from mailboat_schemas.reports import Ack

# A pass takes every rollout one step; a rollout has a start, its waves and an end.
PASSES_MAX = 2 * (WAVES_MAX + 2)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    moved: tuple[str, ...]  # rollouts whose phase or waves changed
    published: Published
    signed: tuple[str, ...]  # online roles
    wishes: tuple[ClassWish, ...]  # what every class is told, changed or not


class Reconciler:
    """Decides and records for one fleet."""

    def __init__(self, store: Store, keys: OnlineKeys, fleet: str) -> None:
        self._store = store
        self._keys = keys
        self._fleet = fleet

    def run(self, now: datetime) -> Reconciled:
        """Work out and record what follows from the stored state.

        Raises:
            ConfigurationInvalid: there is no trust metadata yet.
            TrustRefused: the stored metadata does not verify; nothing is decided on it.
        """
        with self._store.transaction() as tx:
            return self.reconcile(tx, now)

    def reconcile(self, tx: Transaction, now: datetime) -> Reconciled:
        """The same inside the caller's transaction."""
        # Keys are rotated while we run: from here on those sign that the metadata names.
        self._keys = held_trust.named_keys(tx, self._keys)
        signed = held_trust.renew(tx, self._keys, now)
        trust = held_trust.read(tx)
        fleet = _Fleet(tx, trust)
        moved = fleet.decide_all(now)
        wishes = publishable(tx, with_deltas(tx, fleet.assign_all(now)))
        published = publication.publish_changed(
            tx, wishes, trust, self._keys, fleet=self._fleet, now=now
        )
        if "timestamp" in signed:
            publication.publish_fresh(tx, trust.roles["timestamp"], fleet=self._fleet, now=now)
        for hardware_class, error in published.problems.items():
            _log.error("manifest not published", hardware_class=hardware_class, problem=str(error))
        if published.classes:
            _log.info("manifests queued", classes=published.classes)
        return Reconciled(moved=moved, published=published, signed=signed, wishes=wishes)

    def order(
        self,
        name: str,
        trigger: Trigger,
        *,
        actor: str,
        reason: str,
        now: datetime,
        wave: int | None = None,
    ) -> Rollout:
        """A person's order to one rollout, and everything that follows from it.

        Args: wave: the newest open one as that person saw it, from 1; None: they did not say.

        Raises:
            NotFound: no such rollout.
            Conflict: it cannot do that in its phase, or it is not as that person saw it.
        """
        if trigger not in ORDERS:
            raise Conflict(
                f"A rollout is not told to {trigger}.",
                next_step="abort it to take the release back.",
            )
        with self._store.transaction() as tx:
            seen = rollouts.get(tx, name).rollout
            if trigger is Trigger.PROMOTE:
                self.reconcile(tx, now)  # what a person overrides is how it stands now
            row = rollouts.get(tx, name)
            refuse_unseen(seen, row.rollout, wave)
            decision = self._ordered(tx, row.rollout, trigger, now)
            by = f"{trigger} by {actor}" + (f": {reason}" if reason else "")
            because = f"{by}; {decision.because}" if decision.because else by
            number = rollouts.next_number(tx)
            decision = replace(decision, because=because)
            rollouts.save(tx, decided(row, decision, number, now), now)
            audit.append(
                tx,
                at=now,
                actor=actor,
                action=f"rollout.{trigger}",
                subject=name,
                reason=reason,
                details={
                    "from": row.rollout.phase.value,
                    "because": because,
                    **told(decision),
                },
            )
            self.reconcile(tx, now)
            return rollouts.get(tx, name).rollout

    def _ordered(
        self, tx: Transaction, rollout: Rollout, trigger: Trigger, now: datetime
    ) -> Decision:
        """What the order comes to, without saying whose it is."""
        phase = move(rollout.name, rollout.phase, trigger)
        if trigger is Trigger.PROMOTE:
            return promote(rollout, _Fleet(tx, held_trust.read(tx)).facts(rollout.name), now)
        if trigger is Trigger.UNDO:
            _Fleet(tx, held_trust.read(tx)).refuse_to_leave_nothing(rollout)
        return Decision(phase=phase, because="")

    def status(self, name: str) -> Mapping[str, Any]:
        """One rollout as people see it, with its counts.

        Raises:
            NotFound: no such rollout.
        """
        with self._store.read() as tx:
            return rollout_facts.status(tx, rollouts.get(tx, name), Classes(tx))

    def summaries(self) -> tuple[Mapping[str, Any], ...]:
        """Every rollout without its counts, oldest first: there may be hundreds."""
        with self._store.read() as tx:
            return tuple(rollout_facts.summary(row) for row in rollouts.every(tx))

    def sign_ack(self, ack: Ack) -> bytes:
        return self._keys.sign_ack(ack)

    def sign_order(self, order: DeviceDesired) -> bytes:
        return self._keys.sign_order(order)

    def assert_retained(self, now: datetime) -> int:
        with self._store.transaction() as tx:
            return publication.assert_retained(tx, fleet=self._fleet, now=now)


class _Fleet:
    """All rollouts and assignments within one transaction."""

    def __init__(self, tx: Transaction, trust: HeldTrust) -> None:
        self._tx = tx
        self._trust = trust
        self._rows = {row.rollout.name: row for row in rollouts.every(tx)}
        self._classes = {
            name: rollout_facts.covered_classes(tx, row.rollout) for name, row in self._rows.items()
        }
        self._devices = Classes(tx)
        self._retired = artifact_life.retired(tx)  # their files may be gone: nobody is sent back
        self._members: dict[tuple[str, bool], Mapping[str, tuple[Member, ...]]] = {}

    def decide_all(self, now: datetime) -> tuple[str, ...]:
        """Every rollout, until nothing moves; returns those that moved."""
        moved: set[str] = set()
        for _ in range(PASSES_MAX):
            # The newest first: it supersedes the older ones of its model.
            names = [name for name in reversed(self._rows) if self._decide(name, now)]
            if not names:
                break
            moved.update(names)
        return tuple(sorted(moved))

    def assign_all(self, now: datetime) -> tuple[ClassWish, ...]:
        """Current releases by class and model, recorded where they changed; and every wish."""
        held = {(row.hardware_class, row.model): row for row in rollouts.assignments(self._tx)}
        touched = {
            (hardware_class, row.rollout.model)
            for name, row in self._rows.items()
            if row.rollout.phase in OFFERED or row.completed_at is not None
            for hardware_class in self._classes[name]
        }
        rows: list[AssignmentRow] = []
        previous: dict[str, dict[str, ReleaseRef]] = {}
        for hardware_class, model in sorted(held.keys() | touched):
            standing = self._standing_releases(hardware_class, model)
            row = AssignmentRow(
                hardware_class=hardware_class,
                model=model,
                current=standing[0] if standing else None,
                retry_epoch=self._retry_epoch(
                    hardware_class, model, held.get((hardware_class, model))
                ),
            )
            if len(standing) > 1:
                previous.setdefault(hardware_class, {})[model] = standing[1]
            rows.append(row)
            self._record_assignment(held.get((hardware_class, model)), row, now)
        return tuple(
            publication.wish_for(
                document.metadata.name,
                [row for row in rows if row.hardware_class == document.metadata.name],
                self._started_last_first(document.metadata.name),
                previous.get(document.metadata.name, {}),
                ClassTerms.of(document),
            )
            for document in classes.every(self._tx)
        )

    def _decide(self, name: str, now: datetime) -> bool:
        row = self._rows[name]
        if row.rollout.phase in FINAL:
            return False
        decision = decide(row.rollout, self.facts(name), now)
        moved = decision.phase is not row.rollout.phase or decision.opens is not None
        if moved or decision.because != row.rollout.because:
            self._rows[name] = decided(row, decision, rollouts.next_number(self._tx), now)
            rollouts.save(self._tx, self._rows[name], now)
        if moved:
            record_move(self._tx, row.rollout, decision, now)
        return moved

    def facts(self, name: str) -> Facts:
        row = self._rows[name]
        members = self._members_of(row.rollout)
        found = rollout_facts.facts(
            row,
            members,
            self._trust,
            [other for other in self._rows.values() if other.rollout.model == row.rollout.model],
            self._classes,
        )
        return replace(
            found,
            ok_elsewhere=rollout_facts.ok_elsewhere(self._tx, row.rollout, members),
            shown=rollout_facts.shown_by(self._tx, row),
        )

    def refuse_to_leave_nothing(self, rollout: Rollout) -> None:
        """
        Raises:
            Conflict: a class has no other approved release of the model to go back to.
        """
        for hardware_class in self._classes[rollout.name]:
            standing = self._standing_releases(hardware_class, rollout.model)
            if [ref.digest for ref in standing] == [rollout.digest]:
                raise Conflict(
                    f"Class {hardware_class} has no earlier approved release of {rollout.model}.",
                    next_step="roll out another release, or withdraw the approval of this one.",
                )

    def _members_of(self, rollout: Rollout) -> Mapping[str, tuple[Member, ...]]:
        key = (rollout.name, rollout.phase in rollout_facts.AWAITS_BAD_NEWS)
        if key not in self._members:
            self._members[key] = rollout_facts.load(
                self._tx, rollout, self._classes[rollout.name], self._devices
            )
        return self._members[key]

    def _standing_releases(self, hardware_class: str, model: str) -> list[ReleaseRef]:
        covering = self._covering(hardware_class)
        return rollout_facts.standing_releases(covering, model, self._retired)

    def _retry_epoch(self, hardware_class: str, model: str, held: AssignmentRow | None) -> int:
        epochs = [
            row.rollout.retry_epoch
            for row in self._covering(hardware_class)
            if row.rollout.model == model and row.started_at is not None
        ]
        return max([0 if held is None else held.retry_epoch, *epochs])

    def _covering(self, hardware_class: str) -> list[RolloutRow]:
        return [row for name, row in self._rows.items() if hardware_class in self._classes[name]]

    def _started_last_first(self, hardware_class: str) -> Sequence[RolloutRow]:
        started = [row for row in self._covering(hardware_class) if row.started_at is not None]
        return sorted(started, key=lambda row: row.start_number or 0, reverse=True)

    def _record_assignment(
        self, held: AssignmentRow | None, row: AssignmentRow, now: datetime
    ) -> None:
        if held == row:
            return
        rollouts.assign(self._tx, row)
        before = None if held is None or held.current is None else held.current.version
        after = None if row.current is None else row.current.version
        audit.append(
            self._tx,
            at=now,
            actor=ACTOR,
            action="assignment.change",
            subject=f"{row.hardware_class}/{row.model}",
            reason="follows from the completed rollouts that are still approved",
            details={"from": before, "to": after, "retry_epoch": row.retry_epoch},
        )
