"""The leader's loop that tells webhooks: from the audit log into their outbox, from there out.

Observe and record in one transaction: an entry of the audit log becomes one waiting telling for
each webhook that wants it, and the place reached is kept beside it. Sending is at least once: a
crash between an answer and its record sends again, under the same id.
"""

import asyncio
import random
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from mailboat_controller.store import audit, audit_readers, webhook_deliveries, webhooks
from mailboat_controller.store.audit import AuditRow
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.store.webhook_deliveries import DeliveryRow, DeliveryState
from mailboat_controller.store.webhooks import State, WebhookRow
from mailboat_controller.traces.about import ReleaseName, release_of
from mailboat_controller.webhooks import occurrences, retry, secrets_room, signing, target
from mailboat_controller.webhooks.settings import WebhookSettings
from mailboat_controller.webhooks.target import Answer
from mailboat_controller.worker_threads import WorkerThreads
from mailboat_schemas.errors import ConfigurationInvalid, MailboatError

READER = "webhooks"
LOOK_SECONDS = 1.0
ENTRIES_AT_ONCE = 200
DELIVERIES_AT_ONCE = 20  # of one webhook in one turn: the others are not kept waiting
KEPT_FOR = timedelta(days=30)
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
ACTOR = "controller"
ADDED = "webhook.add"

_log = structlog.get_logger(__name__)


class Courier:
    """`run` for ever; `take_in` and `deliver` are its two halves."""

    def __init__(
        self,
        store: Store,
        settings: WebhookSettings,
        *,
        fleet: str,
        secrets_dir: Path,
        now: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        """
        Raises:
            ConfigurationInvalid: the file of CA certificates cannot be used.
        """
        self._store = store
        self._settings = settings
        self._fleet = fleet
        self._secrets_dir = secrets_dir
        self._now = now
        self._rng = rng
        self._context = _context(settings.ca)
        self._busy: dict[str, asyncio.Task[int]] = {}  # by webhook
        self._posts = target.OpenPosts()

    async def run(self) -> None:
        forgotten_at: datetime | None = None
        self._posts = target.OpenPosts()
        # As many as there may be webhooks, and nobody else's: receivers take their time.
        threads = WorkerThreads("webhooks", webhooks.WEBHOOKS_MAX)
        try:
            while True:
                try:
                    while await asyncio.to_thread(self.take_in):
                        pass
                    await self._begin_deliveries(threads)
                    now = self._now()
                    if forgotten_at is None or now - forgotten_at > timedelta(hours=1):
                        forgotten_at = now
                        await asyncio.to_thread(self._forget_old)
                except MailboatError as error:
                    _log.warning("webhooks wait", problem=str(error))
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._posts.stop()
            threads.close()
            for task in self._busy.values():
                task.cancel()

    def take_in(self) -> int:
        """Queue what newer entries of the audit log mean for each webhook; how many were read.

        Who reads for the first time begins with what happens from here on.
        """
        with self._store.read() as tx:
            reached = audit_readers.reached(tx, READER)
            if reached is not None and audit.head(tx)[0] <= reached:
                return 0
        with self._store.transaction() as tx:
            reached = audit_readers.reached(tx, READER)
            if reached is None:
                audit_readers.set_reached(tx, READER, audit.head(tx)[0])
                return 0
            rows = audit.page(tx, after=reached, limit=ENTRIES_AT_ONCE)
            hooks = [each for each in webhooks.every(tx) if each.state is State.ACTIVE]
            added = {each.name: audit.newest(tx, each.name, ADDED) for each in hooks}
            for row in rows:
                # Nobody is told of what was before him, however late it is read.
                since = ((hook, added[hook.name]) for hook in hooks)
                there = [hook for hook, at in since if at is None or at.sequence < row.sequence]
                self._queue(tx, row, there)
            if rows:
                audit_readers.set_reached(tx, READER, rows[-1].sequence)
            return len(rows)

    def _queue(self, tx: Transaction, row: AuditRow, hooks: list[WebhookRow]) -> None:
        kind = occurrences.type_of(row)
        if kind is None:
            return
        release = release_of(tx, row)
        wanted = [hook for hook in hooks if wants(hook, kind, release)]
        if not wanted:
            return
        named = None if release is None else release.as_dict()
        body = occurrences.cloud_event(row, kind, fleet=self._fleet, release=named)
        for hook in wanted:
            event = occurrences.event_id(row)
            webhook_deliveries.queue(tx, hook.name, event, row.sequence, kind, body, self._now())

    # --- out -------------------------------------------------------------------------------------

    async def _begin_deliveries(self, threads: WorkerThreads) -> None:
        """One thread a webhook at most: a slow receiver delays nobody else."""
        self._busy = {name: task for name, task in self._busy.items() if not task.done()}
        waiting = await asyncio.to_thread(self._due_names)
        for name in waiting - self._busy.keys():
            self._busy[name] = asyncio.create_task(threads.run(self._deliver_all, name))

    def _due_names(self) -> set[str]:
        now = self._now()
        with self._store.read() as tx:
            return {
                hook.name
                for hook in webhooks.every(tx)
                if hook.state is State.ACTIVE and webhook_deliveries.has_due(tx, hook.name, now)
            }

    def _deliver_all(self, name: str) -> int:
        try:
            return self.deliver(name)
        except MailboatError as error:
            _log.warning("a webhook waits", webhook=name, problem=str(error))
            return 0

    def deliver(self, name: str) -> int:
        """Send what is due to one webhook, the oldest first; how many were delivered.

        A receiver that is away ends the turn; one that refuses an event may take the next.
        """
        with self._store.read() as tx:
            rows = webhook_deliveries.due(tx, name, self._now(), DELIVERIES_AT_ONCE)
        delivered = 0
        for row in rows:
            hook = self._active(name)  # it may be switched off or removed meanwhile
            if hook is None or self._posts.stopped:
                break
            answer = self.send(hook, row.event, row.body)
            if self._posts.stopped and not answer.delivered:
                break  # we ended it ourselves
            self._record(row, answer)
            delivered += answer.delivered
            if not answer.delivered and answer.status not in webhook_deliveries.REFUSED:
                break
        return delivered

    def _active(self, name: str) -> WebhookRow | None:
        with self._store.read() as tx:
            hook = webhooks.find(tx, name)
        return hook if hook is not None and hook.state is State.ACTIVE else None

    def send(self, hook: WebhookRow, event: str, body: bytes) -> Answer:
        """One attempt, recorded nowhere."""
        try:
            keys = secrets_room.read(self._secrets_dir, hook.name, hook.secret_file, self._now())
            place = target.parse(hook.url, self._settings.http_hosts)
        except ConfigurationInvalid as error:
            return Answer(None, error.what)
        headers = {
            "Content-Type": CONTENT_TYPE,
            "User-Agent": "mailboat",
            **signing.headers(keys, event, body, self._now()),
        }
        try:
            return target.post(
                place,
                body,
                headers,
                context=self._context,
                http_hosts=self._settings.http_hosts,
                running=self._posts,
            )
        except Exception as error:  # noqa: BLE001  a stranger's answer must not end the leader
            return Answer(None, f"{type(error).__name__} while it was called")

    def _record(self, row: DeliveryRow, answer: Answer) -> None:
        now = self._now()
        with self._store.transaction() as tx:
            if answer.delivered:
                done = DeliveryState.DELIVERED
                webhook_deliveries.end(tx, row.webhook, row.event, done, answer.status, "", now)
                webhooks.count_success(tx, row.webhook)
                return
            hook = webhooks.count_failure(tx, row.webhook, now)
            if hook is None:
                return  # removed meanwhile, with all that waited
            self._try_later(tx, hook, row, answer, now)
            because = retry.must_be_disabled(hook, answer.status, now)
            if because:
                disable(tx, hook, because, now)
        _log.warning(
            "a webhook was not reached",
            webhook=row.webhook,
            problem=answer.problem,
            disabled=because,
        )

    def _try_later(
        self, tx: Transaction, hook: WebhookRow, row: DeliveryRow, answer: Answer, now: datetime
    ) -> None:
        """The event alone if it was refused; else everything waits until the receiver is back."""
        refused = answer.status in webhook_deliveries.REFUSED
        failures = row.attempts + 1 if refused else hook.failures
        # Never sooner than the receiver asks, and ever less often all the same.
        asked = retry.asked(answer.status, answer.retry_after, now)
        at = now + max(asked, retry.delay(failures, self._rng))
        status, problem = answer.status, answer.problem
        if now - row.created_at >= retry.RETRY_FOR:
            lost = DeliveryState.GIVEN_UP
            webhook_deliveries.end(tx, hook.name, row.event, lost, status, problem, now)
        else:
            webhook_deliveries.postpone(
                tx, hook.name, row.event, status=status, problem=problem, next_attempt_at=at
            )
        if not refused:
            webhook_deliveries.give_up_older(tx, hook.name, now - retry.RETRY_FOR, now)
            webhook_deliveries.hold_back(tx, hook.name, at)

    def _forget_old(self) -> None:
        with self._store.transaction() as tx:
            webhook_deliveries.forget_ended(tx, self._now() - KEPT_FOR)
            named = {each.secret_file for each in webhooks.every(tx)}
        swept = secrets_room.sweep(self._secrets_dir, named, self._now())
        if swept:
            _log.info("secrets that no webhook names were removed", count=swept)


def wants(hook: WebhookRow, kind: str, release: ReleaseName | None) -> bool:
    """By its filters; what is about no release passes the one for models."""
    if hook.types and kind not in hook.types:
        return False
    return not hook.models or release is None or release.model in hook.models


def disable(tx: Transaction, hook: WebhookRow, because: str, now: datetime) -> None:
    """Nothing more is sent there until somebody enables it; the others are told."""
    webhooks.set_state(tx, hook.name, State.DISABLED, because)
    audit.append(
        tx,
        at=now,
        actor=ACTOR,
        action="webhook.disabled",
        subject=hook.name,
        reason=because,
        details={"url": target.origin_of(hook.url)},
    )


def _context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationInvalid(
            f"The CA file {ca} of [webhooks] cannot be used: {error}.",
            next_step="name a file of PEM certificates.",
        ) from error
