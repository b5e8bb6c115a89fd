"""Every check in its order. One that breaks is a finding too, never the end of the examination."""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

from mailboat_agent.config import AgentConfig
from mailboat_agent.doctor.disk_checks import (
    check_ballast,
    check_data_directory,
    check_disk,
    check_records,
)
from mailboat_agent.doctor.host_checks import check_memory, check_service, check_workers
from mailboat_agent.doctor.identity_checks import (
    check_certificate,
    check_clock,
    check_key,
    check_trust,
)
from mailboat_agent.doctor.network_checks import check_network
from mailboat_agent.doctor.unit_view import as_its_unit
from mailboat_schemas.errors import ConfigurationInvalid
from mailboat_schemas.finding import Finding, Findings, Level, fail, ok, skip


def examine(path: Path, now: datetime) -> Iterator[Finding]:
    """Findings as they come: the network's and the worker's may take seconds."""
    try:
        config = as_its_unit(AgentConfig.read(path), path)
    except ConfigurationInvalid as error:
        yield fail("config", error.what, error.next_step)
        yield skip("rest", "Nothing else can be looked at without a configuration.")
        return
    yield ok("config", f"{path}: device {config.device} of {config.fleet}.")
    checks: list[tuple[str, Callable[[], Findings]]] = [
        ("key", partial(check_key, config)),
        ("certificate", partial(check_certificate, config, now)),
        ("trust", partial(check_trust, config, now)),
        ("clock", partial(check_clock, config, now)),
        ("data_dir", partial(check_data_directory, config)),
        ("disk", partial(check_disk, config)),
        ("ballast", partial(check_ballast, config)),
        ("state", partial(check_records, config)),
        ("network", partial(check_network, config)),
        ("runtime", partial(check_workers, config)),
        ("memory", partial(check_memory, config)),
        ("service", partial(check_service, config)),
    ]
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - a sick host breaks what looks at it
            what = f"The check itself broke: {type(error).__name__}: {error}"[:300]
            yield fail(name, f"{what}.", "look at what it names; report it if that is well.")


def worst(findings: list[Finding]) -> Level:
    """Fail before warn before ok; what was skipped follows from something that failed."""
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.FAIL, Level.WARN) if level in levels), Level.OK)
