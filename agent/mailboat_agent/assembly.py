"""How the parts of a running agent are put together from its configuration."""

import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from mailboat_agent.artifacts.metered import Meter
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.busy import Busy, path_of
from mailboat_agent.config import AgentConfig
from mailboat_agent.degraded.answers import Answers
from mailboat_agent.degraded.elsewhere import Elsewhere
from mailboat_agent.degraded.modes import Counts
from mailboat_agent.degraded.pressure import Gauge
from mailboat_agent.degraded.telling import Degraded
from mailboat_agent.device_orders import DeviceOrders
from mailboat_agent.facts import Device, agent_version
from mailboat_agent.identity.credentials import Credentials
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.ledger import Ledger
from mailboat_agent.link.acknowledgement import AckReader
from mailboat_agent.logs.recording import LogRecorder
from mailboat_agent.overlays.in_force import ConfigInForce
from mailboat_agent.reconcile import Reconciler
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.launch import Launch
from mailboat_agent.serving.process_usage import total_memory_bytes
from mailboat_agent.serving.residency import Residency
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.site_orders import SiteOrders
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.work import Workbench
from mailboat_schemas.errors import ConfigurationInvalid
from mailboat_schemas.topics import Channel

if TYPE_CHECKING:
    from mailboat_agent.degraded.endpoint import Endpoint
    from mailboat_agent.link.mqtt import Link
    from mailboat_agent.logs.answers import LogAnswers
    from mailboat_agent.telemetry.recorder import Recorder

TRUST_ROOT_BYTES_MAX = 1 << 20


def make_meter(config: AgentConfig, now: Callable[[], datetime]) -> Meter:
    return Meter(
        config.data_dir,
        setting=config.metered,
        bytes_per_day=config.metered_bytes_per_day,
        now=now,
        monotonic=time.monotonic,
    )


def make_recorder(
    config: AgentConfig,
    *,
    runtime: Runtime,
    journal: Journal,
    degraded: Callable[[str], Mapping[str, int]],
    metered: Callable[[], bool],
    now: datetime,
) -> "Recorder":
    from mailboat_agent.journal.telemetry import Telemetry
    from mailboat_agent.telemetry.host import Host  # brings psutil
    from mailboat_agent.telemetry.recorder import Recorder

    host = Host(config.data_dir)
    return Recorder(
        Telemetry(runtime, journal, now, degraded, host),
        host,
        journal,
        normal_seconds=config.telemetry_window_seconds,
        metered=metered,
        monotonic=time.monotonic(),
    )


def make_gateway(
    config: AgentConfig, runtime: Runtime, degraded: Degraded, overlays: ConfigInForce | None
) -> Gateway:
    """
    Raises:
        ConfigurationInvalid: it cannot listen where it should.
    """
    return Gateway(
        runtime,
        host=config.serve_host,
        port=config.serve_port,
        socket_path=config.serve_socket,
        socket_mode=int(config.serve_socket_mode, 8),
        version=agent_version(),
        answering=degraded.answers,
        feedback=runtime.live.feedback,
        config=None if overlays is None else lambda: overlays.shown,
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
    pressure: Callable[[], str],
) -> Reconciler:
    source = credentials.artifacts(rng)
    bench = Workbench(
        store=store,
        content_keys=credentials.content_keys,
        source=lambda: source,
        runtime=runtime,
        hardware_class=device.hardware_class,
        memory_budget_bytes=device.memory_budget_bytes,
        disk_bound_bytes=lambda: device.disk_bound_bytes,
        budgets=lambda: device.class_budgets,
        meter=meter,
        busy=Busy(path_of(config.busy_file, config.data_dir), config.busy_seconds_max),
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
        pressure=pressure,
        config=ConfigInForce(config.data_dir, device, manifest, file=config.config_file),
    )


def make_runtime(config: AgentConfig, now: Callable[[], datetime]) -> Runtime:
    """
    Raises:
        ConfigurationInvalid: all models together may have less than one of them.
    """
    budget = config.serving_memory_budget
    if budget is None:
        total = total_memory_bytes()
        budget = None if total is None else max(config.memory_budget, total // 4 * 3)
    elif budget < config.memory_budget:
        raise ConfigurationInvalid(
            f"serving_memory_budget is {budget >> 20} MiB, less than one release may use "
            f"(memory_budget, {config.memory_budget >> 20} MiB).",
            next_step="raise serving_memory_budget, or lower memory_budget.",
        )
    return Runtime(
        clock=now,
        launch=Launch(config.worker_socket, config.worker_user),
        residency=Residency(budget),
        pinned=frozenset(config.serving_pinned),
        spare_seconds=config.spare_worker_seconds,
    )


def make_degraded(config: AgentConfig, runtime: Runtime, rng: random.Random) -> Degraded:
    """
    Raises:
        ConfigurationInvalid: an endpoint's certificates cannot be read.
    """
    counts, gauge = Counts(), Gauge(config.pressure)
    endpoints: list[Endpoint] = []
    if config.remote:
        from mailboat_agent.degraded import endpoint  # brings what takes long to import

        endpoints = [endpoint.Endpoint(setting, rng) for setting in config.remote]
    answers = Answers(
        runtime,
        elsewhere=Elsewhere(endpoints, is_barred=runtime.is_barred),
        fallbacks={each.model: each for each in config.fallback},
        counts=counts,
        gauge=gauge,
    )
    return Degraded(answers, counts, gauge)


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


def open_orders(
    config: AgentConfig, device: Device, manifest: Manifest, ledger: Ledger, now: datetime
) -> DeviceOrders:
    """Before anything is decided: a hold outlives a restart."""
    reader = AckReader(device=device.device, manifest=manifest, ledger=ledger)
    site = SiteOrders(config.data_dir, device, manifest, ledger)
    orders = DeviceOrders(config.data_dir, device, reader, manifest, site)
    orders.open(now)
    return orders


def make_log_answers(device: Device, logs: LogRecorder, credentials: Credentials) -> "LogAnswers":
    from mailboat_agent.logs.answers import LogAnswers

    return LogAnswers(device.device, logs.ring, credentials.seal, withheld=lambda: logs.withheld)


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
