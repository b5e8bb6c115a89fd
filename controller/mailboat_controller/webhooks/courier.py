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

from mailboat_controller.store import audit, webhooks
from mailboat_controller.store.audit import AuditRow
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.store.webhooks import DeliveryRow, DeliveryState, State, WebhookRow
from mailboat_controller.traces.about import ReleaseName, release_of
from mailboat_controller.webhooks import occurrences, retry, secrets_room, signing, target
from mailboat_controller.webhooks.settings import WebhookSettings
from mailboat_controller.webhooks.target import Answer
from mailboat_schemas.errors import ConfigurationInvalid, MailboatError

READER = "webhooks"
LOOK_SECONDS = 1.0
ENTRIES_AT_ONCE = 200
DELIVERIES_AT_ONCE = 20  # of one webhook in one turn: the others are not kept waiting
KEPT_FOR = timedelta(days=30)
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
ACTOR = "controller"

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

    async def run(self) -> None:
        forgotten_at: datetime | None = None
        try:
            while True:
                try:
                    while await asyncio.to_thread(self.take_in):
                        pass
                    await self._begin_deliveries()
                    now = self._now()
                    if forgotten_at is None or now - forgotten_at > timedelta(hours=1):
                        forgotten_at = now
                        await asyncio.to_thread(self._forget_old)
                except MailboatError as error:
                    _log.warning("webhooks wait", problem=str(error))
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for task in self._busy.values():
                task.cancel()

    def take_in(self) -> int:
        """Queue what newer entries of the audit log mean for each webhook; how many were read.

        Who reads for the first time begins with what happens from here on.
        """
        with self._store.read() as tx:
            reached = webhooks.reached(tx, READER)
            if reached is not None and audit.head(tx)[0] <= reached:
                return 0
        with self._store.transaction() as tx:
            reached = webhooks.reached(tx, READER)
            if reached is None:
                webhooks.set_reached(tx, READER, audit.head(tx)[0])
                return 0
            rows = audit.page(tx, after=reached, limit=ENTRIES_AT_ONCE)
            hooks = [each for each in webhooks.every(tx) if each.state is State.ACTIVE]
            for row in rows:
                self._queue(tx, row, hooks)
            if rows:
                webhooks.set_reached(tx, READER, rows[-1].sequence)
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
            webhooks.queue(tx, hook.name, event, row.sequence, kind, body, self._now())

    # --- out -------------------------------------------------------------------------------------

    async def _begin_deliveries(self) -> None:
        """One thread a webhook at most: a slow receiver delays nobody else."""
        self._busy = {name: task for name, task in self._busy.items() if not task.done()}
        waiting = await asyncio.to_thread(self._due_names)
        for name in waiting - self._busy.keys():
            self._busy[name] = asyncio.create_task(asyncio.to_thread(self._deliver_all, name))

    def _due_names(self) -> set[str]:
        now = self._now()
        with self._store.read() as tx:
            return {
                hook.name
                for hook in webhooks.every(tx)
                if hook.state is State.ACTIVE and webhooks.due(tx, hook.name, now, 1)
            }

    def _deliver_all(self, name: str) -> int:
        try:
            return self.deliver(name)
        except MailboatError as error:
            _log.warning("a webhook waits", webhook=name, problem=str(error))
            return 0

    def deliver(self, name: str) -> int:
        """Send what is due to one webhook, the oldest first; how many were delivered.

        The first failure ends the turn: the others would meet the same.
        """
        with self._store.read() as tx:
            hook = webhooks.find(tx, name)
            if hook is None or hook.state is not State.ACTIVE:
                return 0
            rows = webhooks.due(tx, name, self._now(), DELIVERIES_AT_ONCE)
        for count, row in enumerate(rows):
            answer = self.send(hook, row.event, row.body)
            self._record(row, answer)
            if not answer.delivered:
                return count
        return len(rows)

    def send(self, hook: WebhookRow, event: str, body: bytes) -> Answer:
        """One attempt, recorded nowhere."""
        try:
            key = secrets_room.read(self._secrets_dir, hook.name)
            place = target.parse(hook.url, self._settings.http_hosts)
        except ConfigurationInvalid as error:
            return Answer(None, error.what)
        headers = {
            "Content-Type": CONTENT_TYPE,
            "User-Agent": "mailboat",
            **signing.headers(key, event, body, self._now()),
        }
        return target.post(
            place,
            body,
            headers,
            context=self._context,
            http_hosts=self._settings.http_hosts,
        )

    def _record(self, row: DeliveryRow, answer: Answer) -> None:
        now = self._now()
        with self._store.transaction() as tx:
            if answer.delivered:
                done = DeliveryState.DELIVERED
                webhooks.end(tx, row.webhook, row.event, done, answer.status, "", now)
                webhooks.count_success(tx, row.webhook)
                return
            at = retry.next_attempt(row.created_at, row.attempts + 1, now, self._rng)
            if at is None:
                lost = DeliveryState.GIVEN_UP
                problem = answer.problem
                webhooks.end(tx, row.webhook, row.event, lost, answer.status, problem, now)
            else:
                webhooks.postpone(
                    tx,
                    row.webhook,
                    row.event,
                    status=answer.status,
                    problem=answer.problem,
                    next_attempt_at=at,
                )
            hook = webhooks.count_failure(tx, row.webhook, now)
            because = "" if hook is None else retry.must_be_disabled(hook, answer.status, now)
            if hook is not None and because:
                disable(tx, hook, because, now)
        _log.warning(
            "a webhook was not reached",
            webhook=row.webhook,
            problem=answer.problem,
            disabled=because,
        )

    def _forget_old(self) -> None:
        with self._store.transaction() as tx:
            webhooks.forget_ended(tx, self._now() - KEPT_FOR)


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
        details={"url": hook.url},
    )


def _context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationInvalid(
            f"The CA file {ca} of [webhooks] cannot be used: {error}.",
            next_step="name a file of PEM certificates.",
        ) from error
