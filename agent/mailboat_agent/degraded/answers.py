"""The order in which a request is answered: by its release, or by what is declared instead.

A request that another agent has handed on is answered by the release that serves here or not at
all. Whatever is not that release's answer at its best is marked, and counted.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

from mailboat_agent.degraded.cache import Cache, key_of
from mailboat_agent.degraded.confidence import ShareCap, confidence_of
from mailboat_agent.degraded.elsewhere import Elsewhere
from mailboat_agent.degraded.modes import Counts, Mode
from mailboat_agent.degraded.pressure import Gauge, Pressure
from mailboat_agent.degraded.rule import answer_of_rule
from mailboat_agent.degraded.settings import LocalFallback, Why
from mailboat_agent.degraded.trouble import (
    NO_POLICY,
    Trouble,
    of_absence,
    of_error,
    of_release,
)
from mailboat_agent.serving.admission import Refused
from mailboat_agent.serving.answering import Answered, Asked, Local
from mailboat_agent.serving.interface import check_request
from mailboat_agent.serving.runtime import ModelNotServed, ModelSuspended, Runtime
from mailboat_schemas.documents.degraded_policy import DegradedPolicy, FallbackRule
from mailboat_schemas.documents.serving_policy import Workload
from mailboat_schemas.errors import MailboatError

IN_FLIGHT_PRESSED_MAX = 8  # under pressure, of all models: a hot device works off less
PRESSED_RETRY_SECONDS = 30  # a device does not cool down in one
POLICIES_MAX = 64  # of releases that answered, kept so that the runtime is not asked each time

Written = TypeVar("Written")
Ask = Callable[[Asked], Awaitable[Local[Written]]]
Write = Callable[[Answered], Awaitable[Written]]
_log = logging.getLogger(__name__)


class UnderPressure(Refused):
    """The device is hot, or short of power: what can wait does."""

    code = "E-UNDER-PRESSURE"

    def __init__(self, because: str) -> None:
        super().__init__(
            f"The device is under pressure: {because}.",
            next_step="send the request again after the given time.",
            retry_after=timedelta(seconds=PRESSED_RETRY_SECONDS),
        )


class Answers:
    """Used by the event loop of the gateway alone, but for `close` and what ``counts`` gives."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        elsewhere: Elsewhere,
        fallbacks: Mapping[str, LocalFallback],
        counts: Counts,
        gauge: Gauge,
    ) -> None:
        self._runtime = runtime
        self.elsewhere = elsewhere
        self._fallbacks = fallbacks
        self._counts = counts
        self._gauge = gauge
        self._policies: dict[str, DegradedPolicy] = {}  # by digest
        self._caches: dict[str, Cache] = {}
        self._caps: dict[str, ShareCap] = {}
        self._in_flight = 0

    def stands_in(self, model: str, hops: int) -> bool:
        absence = self._runtime.absences().get(model)
        trouble = None if absence is None or hops else of_absence(absence)
        if trouble is None:
            return False
        asks = trouble.may_leave_device and self.elsewhere.serves(model, Why.FAILURE)
        has_rule = trouble.policy is not None and trouble.policy.fallback is not None
        return asks or has_rule or model in self._fallbacks

    async def answer(self, asked: Asked, local: Ask[Written], write: Write[Written]) -> Written:
        self._refuse_under_pressure(asked)
        self._in_flight += 1
        try:
            return await self._answer(asked, local, write)
        finally:
            self._in_flight -= 1

    async def _answer(self, asked: Asked, local: Ask[Written], write: Write[Written]) -> Written:
        smaller = await self._smaller(asked, local)
        if smaller is not None:
            return await self._marked(asked, smaller, write)
        try:
            found = await local(asked)
        except MailboatError as error:
            trouble = None if asked.hops else of_error(error, asked.model, self._runtime)
            stand_in = None if trouble is None else await self._instead(asked, trouble, local)
            if stand_in is None:
                raise
            return await self._marked(asked, stand_in, write)
        better = await self._judged(asked, found.answered)
        return found.written if better is None else await self._marked(asked, better, write)

    async def _marked(self, asked: Asked, answered: Answered, write: Write[Written]) -> Written:
        mode = Mode(answered.degraded)
        self._counts.count(asked.model, mode, answered.because, time.monotonic())
        return await write(answered)

    # --- an answer of the release ----------------------------------------------------------------

    async def _judged(self, asked: Asked, answered: Answered) -> Answered | None:
        """What to send instead of the release's own answer; None: that, as it is."""
        policy = self._policy(asked.model, answered.digest)
        sure = policy.confidence
        is_unsure = sure is not None and confidence_of(sure, answered.outputs) < sure.threshold
        if sure is not None and not asked.hops:
            cap = self._caps.setdefault(asked.model, ShareCap())
            cap.earn(sure.share_max)
            if is_unsure:
                return await self._surer(asked, answered, cap)
        if not is_unsure:  # it would be taken for a better one later
            self._keep(asked, policy, answered.digest, answered)
        word = self._runtime.fallback_word(asked.model, answered.digest)
        if word is None:
            return None
        return replace(answered, degraded=str(Mode.FALLBACK_RELEASE), because=word)

    async def _surer(self, asked: Asked, unsure: Answered, cap: ShareCap) -> Answered:
        """From elsewhere, within the share that may be asked there; or the unsure one, marked."""
        why, word = Why.LOW_CONFIDENCE, "low-confidence"
        trouble = of_release(why, word, asked.model, self._runtime)
        because = "no-endpoint"
        if trouble is not None and trouble.digest == unsure.digest:
            if found := self._kept(asked, trouble):
                return found
            if trouble.may_leave_device and self.elsewhere.serves(asked.model, why):
                because = "share-spent"
                if cap.spend():
                    because = "remote-unavailable"
                    if surer := await self._elsewhere(asked, trouble):
                        return surer
        return replace(unsure, degraded=str(Mode.LOW_CONFIDENCE), because=because)

    # --- no answer of the release ----------------------------------------------------------------

    async def _instead(
        self, asked: Asked, trouble: Trouble, local: Ask[Written]
    ) -> Answered | None:
        """
        Raises:
            BadTensors: the request is wrong, which nothing stands in for.
        """
        if trouble.nothing_serves and trouble.interface is not None:  # else the lane has looked
            check_request(trouble.interface, None, asked.inputs, asked.outputs)
        if found := self._kept(asked, trouble):
            return found
        if found := await self._elsewhere(asked, trouble):
            return found
        if asked.version is not None or trouble.why is Why.BUSY:
            return None  # another version was not asked for, and a full queue soon is not
        if found := await self._of_fallback_model(asked, trouble, local):
            return found
        return self._of_rule(asked, trouble)

    async def _elsewhere(self, asked: Asked, trouble: Trouble) -> Answered | None:
        found = await self.elsewhere.ask(asked, trouble)
        if found is not None and trouble.policy is not None and trouble.digest:
            self._keep(asked, trouble.policy, trouble.digest, found)
        return found

    async def _of_fallback_model(
        self, asked: Asked, trouble: Trouble, local: Ask[Written]
    ) -> Answered | None:
        setting = self._fallbacks.get(asked.model)
        if setting is None or setting.use_model is None:
            return None
        if not (trouble.nothing_serves or setting.on_failure):
            return None
        return await self._of_other(
            asked, setting.use_model, local, Mode.FALLBACK_MODEL, trouble.word
        )

    async def _of_other(
        self, asked: Asked, model: str, local: Ask[Written], mode: Mode, because: str
    ) -> Answered | None:
        """Of another model of this device, which stands for itself alone."""
        try:
            found = await local(replace(asked, model=model, version=None))
        except MailboatError as error:
            _log.debug("%s does not answer for %s: %s", model, asked.model, error)
            return None
        return replace(found.answered, degraded=str(mode), because=because)

    def _of_rule(self, asked: Asked, trouble: Trouble) -> Answered | None:
        """The operator's constant before the document's; in no release's name."""
        rule = self._rule(asked.model, trouble)
        if rule is None or not (trouble.nothing_serves or rule.on_failure):
            return None
        outputs = answer_of_rule(rule, asked.inputs, asked.outputs)
        return Answered(
            model=asked.model,
            version="",
            digest="",
            outputs=outputs,
            degraded=str(Mode.FALLBACK_RULE),
            because=trouble.word,
        )

    def _rule(self, model: str, trouble: Trouble) -> FallbackRule | None:
        setting = self._fallbacks.get(model)
        if setting is not None and setting.outputs:
            return FallbackRule(outputs=setting.outputs, on_failure=setting.on_failure)
        return None if trouble.policy is None else trouble.policy.fallback

    # --- what is kept ----------------------------------------------------------------------------

    def _policy(self, model: str, digest: str) -> DegradedPolicy:
        """Of the release that answered."""
        found = self._policies.get(digest)
        if found is None:
            trouble = of_release(Why.LOW_CONFIDENCE, "", model, self._runtime)
            if trouble is None or trouble.policy is None or trouble.digest != digest:
                return NO_POLICY  # it was switched away from in this moment
            if len(self._policies) >= POLICIES_MAX:
                self._policies.clear()
            found = self._policies[digest] = trouble.policy
        return found

    def _keep(self, asked: Asked, policy: DegradedPolicy, digest: str, answered: Answered) -> None:
        if policy.cache is None:
            return
        cache = self._caches.setdefault(asked.model, Cache())
        cache.put(policy.cache, key_of(digest, asked), answered, time.monotonic())

    def _kept(self, asked: Asked, trouble: Trouble) -> Answered | None:
        cache = self._caches.get(asked.model)
        policy = None if trouble.policy is None else trouble.policy.cache
        if cache is None or policy is None or trouble.nothing_serves:
            return None
        found = cache.get(policy, key_of(trouble.digest, asked), time.monotonic())
        if found is None or asked.version not in (None, found.version):
            return None
        if self._runtime.is_barred(asked.model, found.digest):
            return None
        return replace(found, degraded=str(Mode.CACHE), because=trouble.word)

    # --- pressure --------------------------------------------------------------------------------

    def _refuse_under_pressure(self, asked: Asked) -> None:
        pressure = self._gauge.reading.pressure
        if pressure is Pressure.NONE:
            return
        if self._workload(asked) is Workload.BATCH or self._in_flight >= IN_FLIGHT_PRESSED_MAX:
            raise UnderPressure(self._gauge.reading.because)

    def _workload(self, asked: Asked) -> Workload:
        if asked.workload is not None:
            return asked.workload
        try:
            release, _ = self._runtime.serving(asked.model)
        except (ModelNotServed, ModelSuspended):
            return Workload.REAL_TIME
        return release.policy.workload

    async def _smaller(self, asked: Asked, local: Ask[Written]) -> Answered | None:
        other = self._gauge.smaller_models.get(asked.model)
        reading = self._gauge.reading
        if other is None or reading.pressure is not Pressure.SEVERE:
            return None
        if asked.hops or asked.version is not None:
            return None
        return await self._of_other(asked, other, local, Mode.SMALLER_MODEL, reading.word)
