"""Changes that are made once, however often they are asked for (``Idempotency-Key``).

Whoever sends the same change again under the same key is given the first answer. Only a change that
was made is remembered: a refusal has changed nothing, so the same request may be tried again.
Answers that hold a secret are never kept; who lost one is told so, and orders another.

An attempt that was cut off (the controller was killed, the disk was full) ends with its process, or
with the answer that told of it: if it had written nothing, the next one makes the change; if it
had, nobody makes it again, and whoever asks is told to look (`store/idempotency.py`).
"""

import hashlib
import math
import re
import secrets
from collections.abc import Callable, Container
from datetime import timedelta
from http import HTTPStatus
from typing import TypeVar

import structlog
from fastapi.concurrency import run_in_threadpool

from mailboat_controller.api.context import ApiContext
from mailboat_controller.api.identity import IDENTITY, Person
from mailboat_controller.api.limits import (
    STREAMED_PREFIX,
    App,
    Message,
    Receive,
    Send,
    replay_body,
    whole_body,
)
from mailboat_controller.api.problems import problem_of
from mailboat_controller.pki.certificates import Holder
from mailboat_controller.store import idempotency
from mailboat_controller.store.idempotency import Claim, Kept, Result
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import Conflict, MailboatError, OperatorNeeded, Transient

KEY_HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
KEY_CHARS_MAX = 128
KEY_PATTERN = r"^[!-~]+$"  # printable ASCII without blanks
KEPT_FOR = timedelta(hours=24)
# Of one caller. Whoever has made so many changes in a day waits until the oldest is forgotten.
KEYS_PER_CALLER_MAX = 10_000
# The answers to changes are small; of a larger one only its status is kept.
ANSWER_BYTES_MAX = 64 * 1024
ATTEMPT_BYTES = 16
IN_PROGRESS_RETRY = timedelta(seconds=2)

_log = structlog.get_logger(__name__)

_KEY = re.compile(KEY_PATTERN)
_MADE = range(200, 300)
_REFUSED = range(300, 500)
_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_HEADERS_KEPT = (b"content-type", b"etag", b"location")
_Found = TypeVar("_Found")


class IdempotencyKeyInvalid(OperatorNeeded):
    code = "E-IDEMPOTENCY-KEY"


class IdempotencyKeyReused(OperatorNeeded):
    """The key was used for something else: a mistake in whoever makes the keys."""

    code = "E-IDEMPOTENCY-REUSED"


class ChangeInProgress(Conflict):
    """It was begun under this key, and has not ended."""

    code = "E-IDEMPOTENCY-IN-PROGRESS"


class ChangeCutOff(Conflict):
    """It was begun, something of it was written, and what answer it got is not known."""

    code = "E-IDEMPOTENCY-CUT-OFF"


class AnswerNotKept(Conflict):
    """The change was made; its answer was a secret, or too large to keep."""

    code = "E-IDEMPOTENCY-ANSWER"


class TooManyKeys(Transient):
    code = "E-IDEMPOTENCY-TOO-MANY"


class Idempotency:
    """ASGI middleware. Stands behind the gate, which knows who asks, and the bound of bodies."""

    def __init__(self, app: App) -> None:
        self._app = app
        # Attempts of this process. It alone answers; one of a process before it was cut off.
        self._under_way: set[str] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        caller = scope.get("state", {}).get(IDENTITY)
        keys = [value for name, value in scope.get("headers", ()) if name == b"idempotency-key"]
        path = scope.get("path", "")
        if (
            not keys
            or not isinstance(caller, Person | Holder)
            or scope["method"] not in _METHODS
            or not path.startswith("/v1/")
            or path.startswith(STREAMED_PREFIX)  # put if absent, whatever the key
        ):
            await self._app(scope, receive, send)
            return
        context: ApiContext = scope["app"].state.context
        body = await whole_body(receive)
        if body is None:
            return  # the client has gone
        attempt = secrets.token_hex(ATTEMPT_BYTES)
        self._under_way.add(attempt)
        try:
            claim = Claim(str(caller), _key(keys), _digest(scope, body), attempt)
            kept = await _in_store(context, lambda tx: _begin(tx, claim, context, self._under_way))
            if kept is None:
                await self._make(claim, context, scope, replay_body(body, receive), send)
            else:
                await _send(kept, send)
        except MailboatError as error:
            context.refused(error.code)
            answer = problem_of(error)
            if isinstance(error, ChangeInProgress):
                answer.headers["Retry-After"] = str(math.ceil(IN_PROGRESS_RETRY.total_seconds()))
            await answer(scope, receive, send)
        finally:
            self._under_way.discard(attempt)

    async def _make(
        self, claim: Claim, context: ApiContext, scope: Message, receive: Receive, send: Send
    ) -> None:
        """Make the change, keep the answer, and only then tell it."""
        sent: list[Message] = []

        async def gather(message: Message) -> None:
            sent.append(message)

        held = idempotency.UNDER_WAY.set(claim)
        try:
            await self._app(scope, receive, gather)
        except Exception:
            # What raised has undone its transaction with it, but not one that ended before it.
            await _conclude(context, lambda tx: idempotency.forget(tx, claim, unless_written=True))
            raise
        finally:
            idempotency.UNDER_WAY.reset(held)
        status, answer = _status(sent), _kept(sent)
        if answer is not None:
            await _conclude(context, lambda tx: idempotency.finish(tx, claim, answer))
        else:
            partly = status not in _REFUSED
            await _conclude(
                context, lambda tx: idempotency.forget(tx, claim, unless_written=partly)
            )
        for message in sent:
            await send(message)


async def _conclude(context: ApiContext, work: Callable[[Transaction], None]) -> None:
    """What came of the change is told, also where it cannot be kept."""
    try:
        await _in_store(context, work)
    except MailboatError as error:
        _log.warning("the end of a change under a key is not kept", problem=str(error))


async def _in_store(context: ApiContext, work: Callable[[Transaction], _Found]) -> _Found:
    def run() -> _Found:
        with context.store.transaction() as tx:
            return work(tx)

    return await run_in_threadpool(run)


def _key(values: list[bytes]) -> str:
    text = values[0].decode("latin-1")
    if len(values) > 1 or len(text) > KEY_CHARS_MAX or _KEY.fullmatch(text) is None:
        raise IdempotencyKeyInvalid(
            f"{KEY_HEADER} is not one value of 1 to {KEY_CHARS_MAX} printable characters.",
            next_step="send one, such as a UUID, and the same again when the change is repeated.",
        )
    return text


def _digest(scope: Message, body: bytes) -> str:
    """Of what is asked; a change of any of it is another change."""
    seen = hashlib.sha256()
    conditions = [value for name, value in scope["headers"] if name == b"if-match"]
    for part in (
        scope["method"].encode(),
        scope["path"].encode(),
        scope.get("query_string", b""),
        b",".join(conditions),
        body,
    ):
        seen.update(len(part).to_bytes(8) + part)
    return seen.hexdigest()


def _begin(
    tx: Transaction, claim: Claim, context: ApiContext, under_way: Container[str]
) -> Kept | None:
    """The answer that was given, or None: the change is the caller's to make now.

    Raises:
        IdempotencyKeyReused, ChangeInProgress, ChangeCutOff, AnswerNotKept, TooManyKeys
    """
    found = idempotency.claim(
        tx,
        claim,
        now=context.now(),
        life=KEPT_FOR,
        keys_max=KEYS_PER_CALLER_MAX,
        under_way=under_way,
    )
    match found:
        case Kept(result=Result.WHOLE):
            return found
        case Kept():
            raise AnswerNotKept(
                f"The change {claim.key} was made, with status {found.status}; its answer was not "
                "kept, as it holds a secret or is too large.",
                next_step="look at what it made; if the secret is lost, take it back and order "
                "another under a new key.",
            )
        case Result.OURS:
            return None
        case Result.OTHER_REQUEST:
            raise IdempotencyKeyReused(
                f"The key {claim.key} was used for another request.",
                next_step="make a new key for every change; send the same one only with the very "
                "same request.",
            )
        case Result.IN_PROGRESS:
            raise ChangeInProgress(
                f"The change {claim.key} was begun and has not ended yet.",
                next_step="send it again in a few seconds, under the same key.",
            )
        case Result.CUT_OFF:
            raise ChangeCutOff(
                f"The change {claim.key} was cut off after something of it was written; its "
                "answer is not known, and it is not made again.",
                next_step="look whether it was made (`mailboat audit show` has it with its time); "
                "if not, or not all of it, send it under a new key.",
            )
        case Result.TOO_MANY:
            raise TooManyKeys(
                f"{claim.caller} has used {KEYS_PER_CALLER_MAX} keys within a day.",
                next_step="wait, or send changes without a key.",
                retry_after=timedelta(minutes=10),
            )
    raise AssertionError(found)


def _start(sent: list[Message]) -> Message | None:
    return next((each for each in sent if each["type"] == "http.response.start"), None)


def _status(sent: list[Message]) -> int:
    start = _start(sent)
    return HTTPStatus.INTERNAL_SERVER_ERROR if start is None else int(start["status"])


def _kept(sent: list[Message]) -> Kept | None:
    """What to keep of an answer; None: it says that nothing was changed."""
    start = _start(sent)
    if start is None or start["status"] not in _MADE:
        return None
    body = b"".join(each.get("body", b"") for each in sent if each["type"] == "http.response.body")
    headers = {name.lower(): value for name, value in start["headers"]}
    secret = b"no-store" in headers.get(b"cache-control", b"")
    if secret or len(body) > ANSWER_BYTES_MAX:
        return Kept(start["status"], {}, b"", Result.STATUS_ALONE)
    told = {
        name.decode(): headers[name].decode("latin-1") for name in _HEADERS_KEPT if name in headers
    }
    return Kept(start["status"], told, body, Result.WHOLE)


async def _send(kept: Kept, send: Send) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in kept.headers.items()]
    headers += [
        (b"content-length", str(len(kept.body)).encode()),
        (REPLAYED.lower().encode(), b"true"),
    ]
    if kept.status == HTTPStatus.NO_CONTENT:
        headers = [each for each in headers if each[0] != b"content-length"]
    await send({"type": "http.response.start", "status": kept.status, "headers": headers})
    await send({"type": "http.response.body", "body": kept.body})
