"""What each class is told: worked out from the stored state, signed and queued when it changed.

Exactly one retained message a class for each change, whatever the size of the fleet.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from mailboat_controller.authority.online import OnlineKeys
from mailboat_controller.releases.class_terms import NO_TERMS, ClassTerms
from mailboat_controller.releases.counter_lead import LEAD_REST, counter_lead
from mailboat_controller.releases.fleet_documents import documents_for_class
from mailboat_controller.rollout.state import OFFERED, Phase
from mailboat_controller.store import first_told, manifests, outbox, releases
from mailboat_controller.store.manifests import ManifestRow
from mailboat_controller.store.releases import ReleaseRow
from mailboat_controller.store.rollouts import AssignmentRow, RolloutRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust.bundle import compose_bundle
from mailboat_controller.trust.held_trust import HeldTrust
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.deltas import Delta
from mailboat_schemas.desired import (
    KEPT_MAX,
    Assignment,
    DesiredState,
    FreshTimestamp,
    ManifestBundle,
    Offer,
    ReleaseRef,
)
from mailboat_schemas.errors import MailboatError, PayloadTooLarge
from mailboat_schemas.topics import TOPICS, Channel, build
from mailboat_schemas.tracing import trace_id
from mailboat_schemas.trust import FLEET_ROLES, approval_role, release_role

_EVERY_BUNDLE = ("targets", "snapshot", "timestamp", *FLEET_ROLES)
TIMESTAMP_FILE = "timestamp.json"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassWish:
    """What one class is to be told."""

    hardware_class: str
    assignments: tuple[Assignment, ...]
    documents: tuple[str, ...]  # digests of the release documents a device may need
    terms: ClassTerms = NO_TERMS
    deltas: tuple[Delta, ...] = ()
    # What was current before, by model; nothing is told of it but its document.
    previous: Mapping[str, ReleaseRef] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    classes: tuple[str, ...]
    problems: Mapping[str, MailboatError]  # by class; their old manifest stays


def wish_for(
    hardware_class: str,
    assignments: Iterable[AssignmentRow],
    rollouts: Sequence[RolloutRow],
    previous: Mapping[str, ReleaseRef],
    terms: ClassTerms = NO_TERMS,
) -> ClassWish:
    """Pure: current releases, and offers of the rollouts whose waves are open in this class.

    Args:
        rollouts: those that cover the class.
        previous: by model, what was current before: its document travels along, so that a device
            that has to go back can.
    """
    wishes: list[Assignment] = []
    documents: set[str] = set()
    for row in assignments:
        offer = _offer(row, rollouts)
        kept = _kept(row, rollouts)
        wishes.append(
            Assignment(
                model=row.model,
                current=row.current,
                offer=offer,
                kept=kept,
                retry_epoch=row.retry_epoch,
            )
        )
        offered = None if offer is None else offer.release
        refs = (row.current, offered, previous.get(row.model), *kept)
        documents |= {ref.digest for ref in refs if ref is not None}
    return ClassWish(
        hardware_class=hardware_class,
        assignments=tuple(wishes),
        documents=tuple(sorted(documents)),
        terms=terms,
        previous=previous,
    )


def _offer(row: AssignmentRow, rollouts: Sequence[RolloutRow]) -> Offer | None:
    for each in rollouts:
        rollout = each.rollout
        waves = rollout.opened.get(row.hardware_class, ())
        if rollout.model == row.model and rollout.phase in OFFERED and waves:
            return Offer(
                release=ReleaseRef(version=rollout.version, digest=rollout.digest),
                rollout=rollout.name,
                paused=rollout.phase.value == "paused",
                waves=waves,
            )
    return None


def _kept(row: AssignmentRow, rollouts: Sequence[RolloutRow]) -> tuple[ReleaseRef, ...]:
    """Releases of superseded rollouts since the current one began, newest first.

    They were good where they went: sending those devices back until the newest release reaches
    them would undo a good update, most of all where devices come home rarely.
    """
    kept: list[ReleaseRef] = []
    for each in rollouts:
        rollout = each.rollout
        if rollout.model != row.model:
            continue
        if row.current is not None and rollout.digest == row.current.digest:
            break
        if rollout.phase is Phase.SUPERSEDED and rollout.opened.get(row.hardware_class):
            kept.append(ReleaseRef(version=rollout.version, digest=rollout.digest))
    return tuple(kept[:KEPT_MAX])


def publish_changed(
    tx: Transaction,
    wishes: Iterable[ClassWish],
    trust: HeldTrust,
    keys: OnlineKeys,
    *,
    fleet: str,
    now: datetime,
) -> Published:
    """Sign and queue the manifest of every class that would now be told something else."""
    held = {row.hardware_class: row for row in manifests.every(tx)}
    published: list[str] = []
    problems: dict[str, MailboatError] = {}
    for wish in wishes:
        row = held.get(wish.hardware_class)
        counter = 0 if row is None else row.counter
        lead = counter_lead(None if row is None else row.published_at, now)
        ahead = manifests.highest_reported(tx, wish.hardware_class, counter + lead)
        behind = counter < ahead
        parts = _parts(tx, wish, trust)
        content_digest = _content_digest(wish, parts, keys.director_keyid, trust.roots[-1])
        told = row is not None and now - row.published_at < LEAD_REST
        unchanged = row is not None and row.content_digest == content_digest
        if unchanged and (told or not behind):
            continue
        number = (ahead if behind else counter) + 1
        try:
            bundle = _fitting_bundle(wish, parts, trust, keys, fleet, number, now)
        except MailboatError as error:
            problems[wish.hardware_class] = error
            continue
        _store(tx, fleet, bundle, content_digest, now)
        named = tuple(_named(wish))
        first_told.note(tx, wish.hardware_class, number, named, now)
        for digest, role in named:
            at = {"hardware_class": wish.hardware_class, "counter": number}
            _log.info("manifest queued", **at, names=role, trace_id=trace_id(digest))
        published.append(wish.hardware_class)
    return Published(classes=tuple(published), problems=problems)


def publish_fresh(tx: Transaction, timestamp: bytes, *, fleet: str, now: datetime) -> None:
    """A new timestamp role: a small retained message a class, and the stored bundles with it, so
    that a device that only has HTTPS does not find an expired one."""
    for row in manifests.every(tx):
        held = decode(ManifestBundle, row.bundle)
        if held.trust[TIMESTAMP_FILE] == timestamp:
            continue
        renewed = held.model_copy(update={"trust": {**held.trust, TIMESTAMP_FILE: timestamp}})
        bundle = encode(renewed)
        manifests.put(tx, replace(row, bundle=bundle, etag=hashlib.sha256(bundle).hexdigest()))
        fresh = FreshTimestamp(fleet=fleet, hardware_class=row.hardware_class, timestamp=timestamp)
        _queue(tx, Channel.FRESH, fleet, row.hardware_class, encode(fresh), now)


def assert_retained(tx: Transaction, *, fleet: str, now: datetime) -> int:
    """Queue every class's manifest again: the broker may have lost what it retained."""
    rows = manifests.every(tx)
    for row in rows:
        _queue(tx, Channel.MANIFEST, fleet, row.hardware_class, row.bundle, now)
    return len(rows)


def _parts(tx: Transaction, wish: ClassWish, trust: HeldTrust) -> tuple[dict[str, bytes], ...]:
    models = [assignment.model for assignment in wish.assignments]
    wanted = {*_EVERY_BUNDLE, *map(release_role, models), *map(approval_role, models)}
    roles = {role: content for role, content in trust.roles.items() if role in wanted}
    found = [releases.by_digest(tx, digest) for digest in wish.documents]
    named = [row for row in found if row is not None]
    fallbacks = _fallbacks(tx, named, trust)
    of_releases = {row.digest: row.document for row in (*named, *fallbacks)}
    return roles, of_releases | documents_for_class(tx, wish.hardware_class)


def _fallbacks(tx: Transaction, named: Iterable[ReleaseRow], trust: HeldTrust) -> list[ReleaseRow]:
    """The approved releases that these declare as their fallback: devices keep them at hand."""
    declared = [(row.model, row.parsed().fallback) for row in named]
    found = [releases.by_version(tx, model, version) for model, version in declared if version]
    return [
        row
        for row in found
        if row is not None and trust.approved(row.model, row.version, row.digest)
    ]


def _content_digest(
    wish: ClassWish, parts: tuple[dict[str, bytes], ...], director_keyid: str, root: bytes
) -> str:
    """What the bundle says, without what changes by itself: counter, issue time, timestamp."""
    roles, documents = parts
    content = {
        "assignments": [each.model_dump(mode="json") for each in wish.assignments],
        "roles": {
            role: hashlib.sha256(data).hexdigest()
            for role, data in roles.items()
            if role != "timestamp"
        },
        "documents": sorted(documents),
        "director": director_keyid,
        "root": hashlib.sha256(root).hexdigest(),
        "terms": wish.terms.told,
        "deltas": [each.model_dump(mode="json") for each in wish.deltas],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fitting_bundle(
    wish: ClassWish,
    parts: tuple[dict[str, bytes], ...],
    trust: HeldTrust,
    keys: OnlineKeys,
    fleet: str,
    counter: int,
    now: datetime,
) -> ManifestRow:
    """Without deltas if they do not fit: they are a hint, and what else it says is not."""
    try:
        return _bundle(wish, parts, trust, keys, fleet, counter, now)
    except PayloadTooLarge:
        if not wish.deltas:
            raise
        return _bundle(replace(wish, deltas=()), parts, trust, keys, fleet, counter, now)


def _bundle(
    wish: ClassWish,
    parts: tuple[dict[str, bytes], ...],
    trust: HeldTrust,
    keys: OnlineKeys,
    fleet: str,
    counter: int,
    now: datetime,
) -> ManifestRow:
    roles, documents = parts
    desired = DesiredState(
        fleet=fleet,
        hardware_class=wish.hardware_class,
        counter=counter,
        issued=int(now.timestamp()),
        assignments=wish.assignments,
        failure_mode=wish.terms.failure_mode,
        metered=wish.terms.metered,
        rules=wish.terms.rules,
        budgets=wish.terms.budgets,
        deltas=wish.deltas,
    )
    bundle = compose_bundle(
        fleet=fleet,
        hardware_class=wish.hardware_class,
        counter=counter,
        roles=roles,
        roots=trust.roots,
        documents=documents,
        desired=keys.sign_desired(desired),
    )
    return ManifestRow(
        hardware_class=wish.hardware_class,
        counter=counter,
        bundle=bundle,
        etag=hashlib.sha256(bundle).hexdigest(),
        content_digest="",
        published_at=now,
    )


def _named(wish: ClassWish) -> Iterable[tuple[str, str]]:
    """Digest and role of every release that devices are told to run."""
    for each in wish.assignments:
        if each.current is not None:
            yield each.current.digest, first_told.CURRENT
        if each.offer is not None:
            yield each.offer.release.digest, first_told.OFFER


def _store(
    tx: Transaction, fleet: str, row: ManifestRow, content_digest: str, now: datetime
) -> None:
    manifests.put(tx, replace(row, content_digest=content_digest))
    _queue(tx, Channel.MANIFEST, fleet, row.hardware_class, row.bundle, now)


def _queue(
    tx: Transaction,
    channel: Channel,
    fleet: str,
    hardware_class: str,
    payload: bytes,
    now: datetime,
) -> None:
    rule = TOPICS[channel]
    outbox.put(
        tx,
        topic=build(channel, fleet=fleet, hardware_class=hardware_class),
        payload=payload,
        qos=rule.qos,
        retain=rule.retain,
        now=now,
    )
