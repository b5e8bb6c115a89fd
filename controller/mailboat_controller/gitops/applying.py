"""Compare a set of documents with what stands, and make it so: one transaction, in order.

A document that is refused is undone alone and the others go on; nothing is pruned then, because
what is missing may stand in the one that was refused. Two that apply at once take turns: the second
was compared with what is no more, and is told.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mailboat_controller.class_orders import apply_class
from mailboat_controller.gitops.comparing import (
    Comparison,
    View,
    compare,
    refused,
    site_fields,
    surplus,
)
from mailboat_controller.gitops.device_orders import DeviceOrders
from mailboat_controller.gitops.differences import DIFFERENT, Verb
from mailboat_controller.gitops.kinds import Declared, Hold, Pin, Site, rank
from mailboat_controller.gitops.reading import key_of, plain
from mailboat_controller.overrides.orders import Overrides
from mailboat_controller.sites import orders as site_orders
from mailboat_controller.store import audit, gitops
from mailboat_controller.store.engine import Store
from mailboat_controller.store.gitops import DocumentRow, SetRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.documents.rollout import Rollout
from mailboat_schemas.errors import ConfigurationInvalid, Conflict, MailboatError

DEVICE_DOCUMENTS_MAX = 100  # Holds and Pins of a set: each looks through the fleet
AUDITED_DOCUMENTS_MAX = 100
_DONE = frozenset({Verb.CREATED, Verb.CHANGED, Verb.PRUNED, Verb.LEFT})


class SetChanged(Conflict):
    code = "E-GITOPS-CHANGED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    row: SetRow
    results: tuple[Comparison, ...]

    @property
    def refused(self) -> bool:
        return any(each.verb is Verb.REFUSED for each in self.results)

    @property
    def different(self) -> int:
        return sum(each.verb in DIFFERENT for each in self.results)

    @property
    def done(self) -> tuple[Comparison, ...]:
        return tuple(each for each in self.results if each.verb in _DONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody applies. ``generation``: of the comparison they saw; None: whatever stands."""

    set_name: str
    documents: tuple[Declared, ...]
    prune: bool = False
    actor: str = ""
    reason: str = ""
    commit: str = ""
    generation: int | None = None

    @property
    def why(self) -> str:
        """For the audit log, beside each thing."""
        origin = f"set {self.set_name}" + (f" at {self.commit}" if self.commit else "")
        return f"{self.reason} ({origin})" if self.reason else origin


class Applier:
    """From any thread."""

    def __init__(self, store: Store, overrides: Overrides, now: Callable[[], datetime]) -> None:
        self._store = store
        self._overrides = overrides
        self._now = now

    def diff(self, order: Order) -> Outcome:
        """What applying would do; nothing is written.

        Raises:
            ConfigurationInvalid: documents that cannot stand beside each other.
        """
        _check(order)
        with self._store.read() as tx:
            row = gitops.find_set(tx, order.set_name)
            view = View(tx, order.set_name, order.documents, self._now())
            found = tuple(compare(view, each) for each in _ordered(order.documents))
            return Outcome(row=row, results=(*found, *_surplus(view, order)))

    def apply(self, order: Order) -> Outcome:
        """
        Raises:
            ConfigurationInvalid: as `diff`. SetChanged: it is not as it was when it was compared.
        """
        _check(order)
        now = self._now()
        with self._store.transaction() as tx:
            row = gitops.find_set(tx, order.set_name)
            if order.generation is not None and order.generation != row.generation:
                raise SetChanged(
                    f"Set {order.set_name} was changed by {row.applied_by} meanwhile.",
                    next_step="look at the differences again (`mailboat diff`), then apply.",
                )
            view = View(tx, order.set_name, order.documents, now)
            found = [self._one(view, order, each) for each in _ordered(order.documents)]
            if order.prune and not any(each.verb is Verb.REFUSED for each in found):
                found += [self._take_away(view, order, each) for each in _surplus(view, order)]
            outcome = Outcome(row=row, results=tuple(found))
            outcome = replace(outcome, row=_recorded(tx, order, outcome, now))
        self._overrides.told()
        return outcome

    def _one(self, view: View, order: Order, document: Declared) -> Comparison:
        found = compare(view, document)
        if found.verb is Verb.REFUSED:
            return found
        try:
            with view.tx.begin_nested():  # a refusal undoes this document alone
                if found.verb in _DONE:
                    self._put(view, order, document, found)
                _own(view, order, document, found)
        except MailboatError as error:
            return refused(*found.key, error)
        return found

    def _put(self, view: View, order: Order, document: Declared, found: Comparison) -> None:
        match document:
            case HardwareClass():
                apply_class(view.tx, document, actor=order.actor, reason=order.why, now=view.now)
            case Site():
                site_orders.put(
                    view.tx,
                    document.metadata.name,
                    site_fields(document),
                    action="site.change" if found.exists else "site.add",
                    actor=order.actor,
                    reason=order.why,
                    now=view.now,
                )
            case Hold() | Pin():
                if found.orders is not None:
                    self._take_back(view.tx, order, found.orders)
                    self._give(view.tx, order, document, found.orders)
            case Rollout():
                raise AssertionError("an approver signs it, nobody applies it")

    def _give(
        self, tx: Transaction, order: Order, document: Hold | Pin, found: DeviceOrders
    ) -> None:
        for device in found.missing:
            self._overrides.put(
                tx,
                device,
                found.kind,
                document.spec.model,
                document.spec.version if isinstance(document, Pin) else None,
                actor=order.actor,
                reason=document.spec.reason,
                until=document.spec.until,
            )

    def _take_back(self, tx: Transaction, order: Order, found: DeviceOrders) -> None:
        for device in found.leaving:
            self._overrides.remove(
                tx,
                device,
                found.kind,
                found.left_model or None,
                actor=order.actor,
                reason=order.why,
            )

    def _take_away(self, view: View, order: Order, found: Comparison) -> Comparison:
        if found.verb is Verb.REFUSED:
            return found
        try:
            with view.tx.begin_nested():
                if found.orders is not None:
                    self._take_back(view.tx, order, found.orders)
                elif found.verb is Verb.PRUNED and found.kind == "Site" and not found.because:
                    site_orders.remove(
                        view.tx, found.name, actor=order.actor, reason=order.why, now=view.now
                    )
                gitops.remove_document(view.tx, *found.key)
        except MailboatError as error:
            return refused(*found.key, error)
        return found


def _check(order: Order) -> None:
    names: set[tuple[str, str]] = set()
    for each in order.documents:
        if key_of(each) in names:
            raise ConfigurationInvalid(
                f"{' '.join(key_of(each))} is declared twice.", next_step="keep one of the two."
            )
        names.add(key_of(each))
    if sum(isinstance(each, Hold | Pin) for each in order.documents) > DEVICE_DOCUMENTS_MAX:
        raise ConfigurationInvalid(
            f"Set {order.set_name} declares more than {DEVICE_DOCUMENTS_MAX} Holds and Pins.",
            next_step="name devices that are held for one reason by one selector.",
        )


def _ordered(documents: Sequence[Declared]) -> list[Declared]:
    return sorted(documents, key=lambda each: (rank(key_of(each)[0]), key_of(each)[1]))


def _surplus(view: View, order: Order) -> tuple[Comparison, ...]:
    return surplus(view, map(key_of, order.documents)) if order.prune else ()


def _own(view: View, order: Order, document: Declared, found: Comparison) -> None:
    """From here on the document is this set's; what was there before it is never pruned."""
    kind, name = found.key
    held = view.owned.get(found.key)
    content = plain(document)
    devices = () if found.orders is None else found.orders.named
    made = found.verb is Verb.CREATED if held is None or not found.exists else held.made
    wanted = (made, content, devices)
    if held is not None and (held.made, held.document, tuple(held.devices)) == wanted:
        return
    gitops.put_document(
        view.tx,
        DocumentRow(
            kind=kind,
            name=name,
            set_name=order.set_name,
            made=made,
            document=content,
            devices=devices,
            applied_at=view.now,
        ),
    )


def _recorded(tx: Transaction, order: Order, outcome: Outcome, now: datetime) -> SetRow:
    row, done = outcome.row, outcome.done
    if not done and row.generation and order.commit in ("", row.commit):
        return row  # said again: nothing to tell
    # Whoever applies files of no known commit does not let the loop go back behind the last.
    commit = row.commit if outcome.refused else order.commit or row.commit
    row = replace(
        row,
        generation=row.generation + bool(done),
        commit=commit,
        applied_at=now,
        applied_by=order.actor,
    )
    gitops.put_set(tx, row)
    if done:
        counts = Counter(str(each.verb) for each in outcome.results)
        audit.append(
            tx,
            at=now,
            actor=order.actor,
            action="gitops.apply",
            subject=f"set:{order.set_name}",
            reason=order.reason,
            details={
                "commit": order.commit,
                "generation": row.generation,
                "counts": dict(sorted(counts.items())),
                "documents": [
                    f"{each.verb} {each.kind} {each.name}" for each in done[:AUDITED_DOCUMENTS_MAX]
                ],
            },
        )
    return row
