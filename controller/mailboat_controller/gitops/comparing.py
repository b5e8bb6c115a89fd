"""Each declared document beside what stands under its name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from mailboat_controller.gitops.device_orders import DeviceOrders, orders_of
from mailboat_controller.gitops.differences import Difference, Verb, differences
from mailboat_controller.gitops.kinds import Declared, Hold, Pin, Site
from mailboat_controller.gitops.reading import key_of, plain, rollouts_of
from mailboat_controller.gitops.rollout_plans import compare_rollout
from mailboat_controller.sites import orders as site_orders
from mailboat_controller.sites.fields import SiteFields
from mailboat_controller.store import classes, gitops, sites
from mailboat_controller.store.gitops import DocumentRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.documents.rollout import Rollout
from mailboat_schemas.errors import Conflict, MailboatError, NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``orders``: what a Hold or Pin comes to. ``exists``: it stood before anything was done."""

    kind: str
    name: str
    verb: Verb
    differences: tuple[Difference, ...] = ()
    because: str = ""
    next_step: str = ""
    code: str = ""
    exists: bool = False
    orders: DeviceOrders | None = None

    @property
    def key(self) -> tuple[str, str]:
        return (self.kind, self.name)


@dataclass
class View:
    """What stands, read from one state of the database."""

    tx: Transaction
    set_name: str
    documents: tuple[Declared, ...]
    now: datetime
    owned: Mapping[tuple[str, str], DocumentRow] = field(init=False)

    def __post_init__(self) -> None:
        self.owned = gitops.documents(self.tx)

    @cached_property
    def rollouts(self) -> Mapping[str, tuple[Rollout, ...]]:
        return rollouts_of(self.documents)

    def mine(self, key: tuple[str, str]) -> DocumentRow | None:
        """
        Raises:
            Conflict: another set declares it.
        """
        row = self.owned.get(key)
        if row is not None and row.set_name != self.set_name:
            raise Conflict(
                f"{key[0]} {key[1]} is declared by set {row.set_name}.",
                next_step=f"declare it in one of the two; set {row.set_name} lets go of it when "
                "it is applied with --prune and without that document.",
            )
        return row


def compare(view: View, document: Declared) -> Comparison:
    """Never raises what is about the document: a refusal is an answer."""
    kind, name = key_of(document)
    try:
        owned = view.mine((kind, name))
        match document:
            case HardwareClass():
                return _class(view, document)
            case Site():
                return _site(view, document)
            case Hold() | Pin():
                return _order(view, document, owned)
            case Rollout():
                verb, found, because, next_step = compare_rollout(
                    view.tx, document, view.rollouts, view.now
                )
                return Comparison(
                    kind=kind,
                    name=name,
                    verb=verb,
                    differences=found,
                    because=because,
                    next_step=next_step,
                )
    except MailboatError as error:
        return refused(kind, name, error)


def refused(kind: str, name: str, error: MailboatError) -> Comparison:
    return Comparison(
        kind=kind,
        name=name,
        verb=Verb.REFUSED,
        because=error.what,
        next_step=error.next_step,
        code=error.code,
    )


def surplus(view: View, declared: Iterable[tuple[str, str]]) -> tuple[Comparison, ...]:
    """What the set once declared and declares no more, as pruning would treat it.

    What apply made goes, if nothing hangs on it. Classes stay, because certificates of devices
    name them; rollouts stay, because an approver signed them.
    """
    known = set(declared)
    found = []
    for (kind, name), row in sorted(view.owned.items(), reverse=True):
        if row.set_name != view.set_name or (kind, name) in known:
            continue
        try:
            found.append(_surplus_one(view, row))
        except MailboatError as error:
            found.append(refused(kind, name, error))
    return tuple(found)


def site_fields(document: Site) -> SiteFields:
    """As the database keeps them."""
    content = {name: getattr(document.spec, name) for name in SiteFields.model_fields}
    until: datetime | None = content["expected_until"]
    if until is not None:
        in_utc = until.astimezone(UTC)
        content["expected_until"] = in_utc.replace(microsecond=in_utc.microsecond // 1000 * 1000)
    return SiteFields.model_validate(content)


def _class(view: View, document: HardwareClass) -> Comparison:
    name = document.metadata.name
    after = _dumped(document)
    try:
        before: Mapping[str, Any] | None = _dumped(classes.get(view.tx, name))
    except NotFound:
        before = None
    return _fields("HardwareClass", name, before, after)


def _site(view: View, document: Site) -> Comparison:
    name = document.metadata.name
    wanted = site_fields(document)
    row = sites.by_name(view.tx, name)
    if row is None:
        site_orders.refuse_new(view.tx, name)
        before = None
    else:
        stands = {each: getattr(row, each) for each in SiteFields.model_fields}
        before = {"spec": SiteFields.model_validate(stands).model_dump(mode="json")}
    found = _fields("Site", name, before, {"spec": wanted.model_dump(mode="json")})
    if found.verb is not Verb.UNCHANGED:
        site_orders.refuse_past(wanted, view.now)
    return found


def _order(view: View, document: Hold | Pin, owned: DocumentRow | None) -> Comparison:
    orders = orders_of(view.tx, document, owned, view.now)
    before = {} if owned is None else owned.document["spec"]
    found = (*differences(before, plain(document)["spec"]), *orders.differences)
    if owned is None:
        verb = Verb.UNCHANGED if orders.ended else Verb.CREATED
    else:
        verb = Verb.CHANGED if found else Verb.UNCHANGED
    return Comparison(
        kind=document.kind,
        name=document.metadata.name,
        verb=verb,
        differences=() if verb is Verb.UNCHANGED else found,
        because=orders.ended,
        exists=owned is not None,
        orders=orders,
    )


def _surplus_one(view: View, row: DocumentRow) -> Comparison:
    verb, because, orders = Verb.PRUNED, "", None
    match row.kind:
        case "Hold" | "Pin":
            orders = orders_of(view.tx, None, row, view.now)
        case "Site" if row.made and sites.by_name(view.tx, row.name) is not None:
            standing = sites.standing(view.tx, row.name, view.now)
            site_orders.refuse_inhabited(row.name, standing.devices)
        case "Site" if row.made:
            because = "it is gone already"
        case "Site":
            verb, because = Verb.LEFT, "it was there before it was declared"
        case "HardwareClass":
            verb, because = Verb.LEFT, "certificates of devices name it"
        case _:
            verb, because = Verb.LEFT, "an approver signed it"
    return Comparison(
        kind=row.kind, name=row.name, verb=verb, because=because, exists=True, orders=orders
    )


def _fields(
    kind: str, name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any]
) -> Comparison:
    found = differences(before or {}, after)
    verb = Verb.CHANGED if found else Verb.UNCHANGED
    if before is None:
        verb = Verb.CREATED
    return Comparison(kind=kind, name=name, verb=verb, differences=found, exists=before is not None)


def _dumped(document: HardwareClass) -> Mapping[str, Any]:
    content = document.model_dump(mode="json", by_alias=True)
    return {"metadata": {"description": content["metadata"]["description"]}} | {
        "spec": content["spec"]
    }
