"""What the handlers work with; `service.py` puts it together."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Request

from mailboat_controller.access.artifact_tokens import ArtifactTokens
from mailboat_controller.artifacts.artifact_store import ArtifactStore
from mailboat_controller.artifacts.care import ArtifactCare
from mailboat_controller.config import ControllerSettings
from mailboat_controller.content.keys import ContentKeys
from mailboat_controller.device_logs.orders import LogOrders
from mailboat_controller.metrics.fleet_state import FleetState
from mailboat_controller.overrides.orders import Overrides
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.presence import Reach
from mailboat_controller.releases.redemption import Redemptions
from mailboat_controller.rollout.state import Trigger
from mailboat_controller.store.engine import Store
from mailboat_controller.trust.role_intake import TakenRoles
from mailboat_controller.webhooks.courier import Courier
from mailboat_controller.worker_threads import WorkerThreads
from mailboat_schemas.submission import SubmissionReply

TOKEN_BYTES = 32
# Reading and writing artifacts, each for a chunk's time. A disk needs a few; a bucket answers in
# some 20 ms, or not at all.
ARTIFACT_THREADS = 32


def new_token() -> str:
    return secrets.token_urlsafe(TOKEN_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """The hooks are plain calls, made from worker threads.

    submit: takes a submission's bytes and its sender (kind:name), in one transaction.
    take_roles: takes signed roles (bytes by name, actor, reason) in one transaction, all or none.
    order: moves a rollout (name, trigger, actor, reason, wave) in one transaction, with its
        audit entry; raises NotFound, or Conflict for a move that is not in the table.
    rollouts: every rollout as a JSON object, oldest first.
    rollout_status: one of them with counts that add up; raises NotFound.
    wake: the loop looks at the stored state now instead of at its next tick.
    log_orders: asks devices for their logs.
    overrides: holds, pins and labels single devices.
    courier: tells webhooks.
    metrics: the Prometheus exposition.
    refused: counts a request that was turned away, by the error's code.
    access_changed: has the broker go by the registry as it is now, before it returns.
    reach: whether news of devices can come to us.
    leads: whether the lock in the database is still ours.
    absent_partitions: whose messages nobody takes in.
    roll_ups: the newest of what is published on stats/, by scope/name.
    fleet_state: what those were made from; None until it was read once.
    """

    settings: ControllerSettings
    store: Store
    artifacts: ArtifactStore
    artifact_care: ArtifactCare
    content_keys: ContentKeys
    authority: Authority
    now: Callable[[], datetime]
    submit: Callable[[bytes, str], SubmissionReply]
    take_roles: Callable[[Mapping[str, bytes], str, str], TakenRoles]
    order: Callable[[str, Trigger, str, str, int | None], None]
    rollouts: Callable[[], Sequence[Mapping[str, Any]]]
    rollout_status: Callable[[str], Mapping[str, Any]]
    wake: Callable[[], None]
    metrics: Callable[[], bytes]
    roll_ups: Callable[[], Mapping[str, Mapping[str, Any]]]
    # Where devices are told to come; service.py knows the ports once they are bound.
    log_orders: LogOrders
    overrides: Overrides
    courier: Courier
    api_url: str
    mqtt_host: str
    mqtt_port: int
    artifact_tokens: ArtifactTokens
    token: Callable[[], str] = new_token
    refused: Callable[[str], None] = lambda _code: None
    reach: Callable[[], Reach] = Reach
    fleet_state: Callable[[], FleetState | None] = lambda: None
    leads: Callable[[], bool] = lambda: True
    absent_partitions: Callable[[], Sequence[int]] = tuple
    access_changed: Callable[[], None] = lambda: None
    artifact_threads: WorkerThreads = field(
        default_factory=lambda: WorkerThreads("artifact-api", ARTIFACT_THREADS)
    )
    redemptions: Redemptions = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "redemptions", Redemptions(self.store))  # of a frozen instance


def context_of(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(context_of)]
