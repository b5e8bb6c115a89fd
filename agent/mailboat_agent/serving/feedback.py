"""What the application says of the answers it got: `POST /v1/feedback`.

Counters (so many of so many were good) and values, by name, of one release. They count for the
release that answered: the one that is named by digest, by version or by the id of the request, and
without a name only for one that nothing else has answered beside for a while. So what is known late
of an old release is never held against the new one.
"""

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, ValidationError

from mailboat_schemas.documents.live_gates import COUNTERS_MAX, CounterName
from mailboat_schemas.errors import OperatorNeeded, Transient
from mailboat_schemas.live_figures import CounterSum, ValueSum

FEEDBACK_BYTES_MAX = 16 << 10  # of one post
VALUES_MAX = 256  # of one name in one post
TOTAL_MAX = 10**9  # of one counter in one post
VALUE_MAX = 1e15  # sums of so large numbers still have a millionth
REQUEST_IDS_MAX = 4096  # newest ids whose release is remembered
RELEASES_MAX = 4  # of one model, the last to answer: what is known later comes too late
SETTLED_SECONDS = 60.0  # a release that alone has answered so long is meant when none is named
POSTS_PER_SECOND_MAX = 50.0
POSTS_BURST_MAX = 100


class FeedbackRefused(OperatorNeeded):
    """It is not what a post of feedback is (400)."""

    code = "E-FEEDBACK"

    def __init__(self, what: str) -> None:
        super().__init__(what, next_step="see docs/soak.md for what may be posted.")


class FeedbackUnattributed(OperatorNeeded):
    """Nobody can say which release it is about (409)."""

    code = "E-FEEDBACK-RELEASE"

    def __init__(self, what: str) -> None:
        super().__init__(
            what, next_step="name `release`: the answer's header mailboat-release has it."
        )


class FeedbackBusy(Transient):
    """More posts than a device takes; sum them up and post less often (503)."""

    code = "E-FEEDBACK-RATE"

    def __init__(self) -> None:
        super().__init__(
            f"More than {POSTS_PER_SECOND_MAX:g} posts of feedback came in a second.",
            next_step="sum counters up and post them once a second.",
            retry_after=timedelta(seconds=1),
        )


class PostedCounter(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    good: StrictInt = Field(ge=0, le=TOTAL_MAX)
    total: StrictInt = Field(ge=0, le=TOTAL_MAX)


class FeedbackPost(BaseModel):
    """One post. ``release`` is a digest or a version, ``id`` that of an inference request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, max_length=128)
    release: str | None = Field(default=None, min_length=1, max_length=128)
    id: str | None = Field(default=None, min_length=1, max_length=256)
    counters: dict[CounterName, PostedCounter] = Field(
        default_factory=dict, max_length=COUNTERS_MAX
    )
    values: dict[CounterName, StrictFloat | StrictInt | list[StrictFloat | StrictInt]] = Field(
        default_factory=dict, max_length=COUNTERS_MAX
    )


@dataclass(frozen=True, slots=True)
class Posted:
    """What was posted of one release, by name."""

    version: str
    counters: Mapping[str, CounterSum] = field(default_factory=dict)
    values: Mapping[str, ValueSum] = field(default_factory=dict)

    def since(self, before: "Posted | None") -> "Posted":
        """What came after ``before``, which is of the same release."""
        if before is None:
            return self
        counters = {k: v.since(before.counters.get(k)) for k, v in self.counters.items()}
        values = {k: v.since(before.values.get(k)) for k, v in self.values.items()}
        return Posted(
            self.version,
            {name: each for name, each in counters.items() if each.total},
            {name: each for name, each in values.items() if each.count},
        )

    @property
    def nothing(self) -> bool:
        return not self.counters and not self.values


@dataclass(slots=True)
class _Release:
    version: str
    answers_since: float  # monotonic
    counters: dict[str, CounterSum] = field(default_factory=dict)
    values: dict[str, ValueSum] = field(default_factory=dict)


class Feedback:
    """Safe between threads: the gateway's posts, those that serve say who answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._releases: OrderedDict[tuple[str, str], _Release] = OrderedDict()  # (model, digest)
        self._newest: dict[str, str] = {}  # digest of what answers now, by model
        self._of_request: dict[tuple[str, str], str] = {}  # digest, by model and request id
        self._requests: deque[tuple[str, str]] = deque()
        self._room = float(POSTS_BURST_MAX)
        self._room_at = -math.inf

    # --- who answered ----------------------------------------------------------------------------

    def serves(self, model: str, version: str, digest: str, monotonic: float) -> None:
        """This release answers now. Cheap when it did before."""
        if self._newest.get(model) == digest:
            return
        with self._lock:
            self._newest[model] = digest
            release = self._releases.pop((model, digest), None)
            if release is None:
                release = _Release(version, monotonic)
            release.answers_since = monotonic
            self._releases[model, digest] = release
            of_model = [key for key in self._releases if key[0] == model]
            for key in of_model[:-RELEASES_MAX]:
                del self._releases[key]

    def answered(self, model: str, request_id: str, digest: str) -> None:
        """This request was answered by this release."""
        key = (model, request_id)
        with self._lock:
            if key not in self._of_request:
                self._requests.append(key)
                if len(self._requests) > REQUEST_IDS_MAX:
                    del self._of_request[self._requests.popleft()]
            self._of_request[key] = digest

    # --- what is said ----------------------------------------------------------------------------

    def post(self, body: bytes | bytearray | memoryview, monotonic: float) -> dict[str, Any]:
        """Take one post; returns what it counted for, to be answered as JSON.

        Raises:
            FeedbackRefused, FeedbackUnattributed, FeedbackBusy: nothing was counted.
        """
        with self._lock:
            self._take_room(monotonic)  # first: reading costs more than refusing
        post = _read(body)
        with self._lock:
            digest, release = self._attribute(post, monotonic)
            _refuse_more_names(release, post)
            for name, counter in post.counters.items():
                more = CounterSum(good=counter.good, total=counter.total)
                release.counters[name] = release.counters.get(name, CounterSum()).plus(more)
            for name, given in post.values.items():
                values = _values(given)
                summed = ValueSum(count=len(values), sum=math.fsum(values))
                release.values[name] = release.values.get(name, ValueSum()).plus(summed)
            return {"model": post.model, "version": release.version, "release": digest}

    def posted(self, model: str, digest: str) -> Posted:
        """All of one release since it first answered in this process."""
        with self._lock:
            release = self._releases.get((model, digest))
            return Posted("") if release is None else _snapshot(release)

    def of_model(self, model: str) -> dict[str, Posted]:
        """The same of every release of a model, by digest."""
        with self._lock:
            return {d: _snapshot(r) for (m, d), r in self._releases.items() if m == model}

    def _take_room(self, monotonic: float) -> None:
        earned = (monotonic - self._room_at) * POSTS_PER_SECOND_MAX
        self._room = min(float(POSTS_BURST_MAX), self._room + max(0.0, earned))
        self._room_at = monotonic
        if self._room < 1:
            raise FeedbackBusy
        self._room -= 1

    def _attribute(self, post: FeedbackPost, monotonic: float) -> tuple[str, _Release]:
        known = {d: release for (m, d), release in self._releases.items() if m == post.model}
        if not known:
            raise FeedbackUnattributed(f"No release of {post.model!r} has answered here.")
        if post.release is not None:
            digests = [d for d, r in known.items() if post.release in (d, r.version)]
        elif post.id is not None:
            digests = [self._of_request.get((post.model, post.id), "")]
        else:
            digests = [self._settled(post.model, known, monotonic)]
        if not digests or digests[-1] not in known:
            named = post.release or post.id
            raise FeedbackUnattributed(f"No release here is known to have answered {named!r}.")
        return digests[-1], known[digests[-1]]

    def _settled(self, model: str, known: Mapping[str, _Release], monotonic: float) -> str:
        digest = self._newest[model]
        answers_since = known[digest].answers_since if digest in known else monotonic
        # Also of the first that answers in this process: it may have been another's turn before.
        if monotonic - answers_since < SETTLED_SECONDS:
            raise FeedbackUnattributed(
                f"No release of {model!r} has answered alone for {SETTLED_SECONDS:g} s."
            )
        return digest


def _read(body: bytes | bytearray | memoryview) -> FeedbackPost:
    if len(body) > FEEDBACK_BYTES_MAX:
        raise FeedbackRefused(f"It has {len(body)} bytes, {FEEDBACK_BYTES_MAX} are allowed.")
    try:
        post = FeedbackPost.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])[:200]
        raise FeedbackRefused(f"It is not feedback: {place}: {first['msg']}.") from error
    for name, counter in post.counters.items():
        if counter.good > counter.total:
            raise FeedbackRefused(f"{name}: {counter.good} of {counter.total} cannot be good.")
    for name, given in post.values.items():
        values = _values(given)
        if not 1 <= len(values) <= VALUES_MAX:
            raise FeedbackRefused(f"{name}: 1 to {VALUES_MAX} values may be posted at once.")
        if not all(abs(value) <= VALUE_MAX for value in values):  # NaN is not either
            raise FeedbackRefused(f"{name}: a value is not a number up to {VALUE_MAX:g}.")
    if not post.counters and not post.values:
        raise FeedbackRefused("It has neither counters nor values.")
    return post


def _values(given: float | list[float] | list[int | float]) -> list[float]:
    return [float(v) for v in given] if isinstance(given, list) else [float(given)]


def _refuse_more_names(release: _Release, post: FeedbackPost) -> None:
    for held, posted in ((release.counters, post.counters), (release.values, post.values)):
        if len(held.keys() | posted.keys()) > COUNTERS_MAX:
            raise FeedbackRefused(f"A release has at most {COUNTERS_MAX} names of each kind.")


def _snapshot(release: _Release) -> Posted:
    return Posted(release.version, dict(release.counters), dict(release.values))
