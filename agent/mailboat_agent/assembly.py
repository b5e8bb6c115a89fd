"""How the parts of a running agent are put together from its configuration."""

import random
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from mailboat_agent.artifacts.metered import Meter
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.config import AgentConfig
from mailboat_agent.facts import Device
from mailboat_agent.identity.credentials import Credentials
from mailboat_agent.ledger import Ledger
from mailboat_agent.reconcile import Reconciler
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.work import Workbench
from mailboat_schemas.errors import ConfigurationInvalid
from mailboat_schemas.topics import Channel

if TYPE_CHECKING:
    from mailboat_agent.link.mqtt import Link

TRUST_ROOT_BYTES_MAX = 1 << 20


def make_meter(config: AgentConfig, now: Callable[[], datetime]) -> Meter:
    return Meter(
        config.data_dir,
        setting=config.metered,
        bytes_per_day=config.metered_bytes_per_day,
        now=now,
        monotonic=time.monotonic,
    )


def make_reconciler(
    config: AgentConfig,
    device: Device,
    *,
    ledger: Ledger,
    manifest: Manifest,
    store: ReleaseStore,
    credentials: Credentials,
    runtime: Runtime,
    rng: random.Random,
    wake: Callable[[], None],
    meter: Meter,
) -> Reconciler:
    source = credentials.artifacts(rng)
    bench = Workbench(
        store=store,
        content_keys=credentials.content_keys,
        source=lambda: source,
        runtime=runtime,
        hardware_class=device.hardware_class,
        memory_budget_bytes=device.memory_budget_bytes,
        disk_budget_bytes=device.disk_budget_bytes,
        meter=meter,
    )
    return Reconciler(
        device=device,
        ledger=ledger,
        manifest=manifest,
        store=store,
        bench=bench,
        rng=rng,
        tries=config.trial_tries,
        start_jitter_seconds=config.start_jitter_seconds,
        wake=wake,
        drift_check_seconds=config.drift_check_seconds,
        drift_check_bytes_per_second=config.drift_check_bytes_per_second,
    )


def make_link(
    config: AgentConfig,
    device: Device,
    credentials: Credentials,
    ledger: Ledger,
    rng: random.Random,
) -> "Link":
    # They bring libraries that take as long to import as a worker does to start.
    from mailboat_agent.link.correspondence import subscriptions, topic_of
    from mailboat_agent.link.mqtt import Broker, Link

    broker = Broker(
        host=config.mqtt_host,
        port=config.mqtt_port,
        tls=credentials.tls,
        keepalive_seconds=config.keepalive_seconds,
        reconnect_seconds_min=config.reconnect_seconds_min,
        reconnect_seconds_max=config.reconnect_seconds_max,
    )
    return Link(
        broker,
        device=device.device,
        session=ledger.state.session,
        status_topic=topic_of(Channel.STATUS, device),
        subscriptions=subscriptions(device),
        seal=credentials.seal,
        rng=rng,
    )


def read_trust_root(config: AgentConfig) -> bytes:
    """
    Raises:
        ConfigurationInvalid: it is not there, or larger than any trust root.
    """
    try:
        with config.trust_root.open("rb") as file:
            content = file.read(TRUST_ROOT_BYTES_MAX + 1)
    except OSError as error:
        raise _no_trust_root(config, str(error.strerror)) from error
    if len(content) > TRUST_ROOT_BYTES_MAX:
        raise _no_trust_root(config, f"it is over {TRUST_ROOT_BYTES_MAX} bytes")
    return content


def _no_trust_root(config: AgentConfig, problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"The trust root {config.trust_root} cannot be read: {problem}.",
        next_step="enrol the device again with a kit from the operator.",
    )
