"""Every check in its order. One that breaks is a finding too, never the end of the examination."""

import json
import ssl
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from mailboat_controller.client import ApiClient, Patience, tls_of
from mailboat_controller.config import ControllerSettings, load
from mailboat_controller.connection_file import load_connection
from mailboat_controller.doctor import access, broker, disk
from mailboat_controller.doctor.reaching import Server, check_server
from mailboat_schemas.enrolment import Connection
from mailboat_schemas.errors import ConfigurationInvalid, MailboatError
from mailboat_schemas.finding import Finding, Findings, Level, fail, ok, skip

PATIENCE = Patience(attempts_max=1, connect_seconds=5.0, answer_seconds=10.0)
_PORTS = {"https": 443, "http": 80}

Checks = list[tuple[str, Callable[[], Findings]]]


def examine(
    connection_path: Path, because: str, config: Path | None, now: Callable[[], datetime]
) -> Iterator[Finding]:
    """Findings as they come: those of the network may take seconds.

    Args:
        because: why it is this connection, in words.
        config: the controller's settings file, on its machine.
    """
    checks: Checks = []
    try:
        connection = load_connection(connection_path)
        tls = tls_of(connection, connection_path.parent)
    except ConfigurationInvalid as error:
        yield fail("connection", error.what, error.next_step)
        yield skip("api", "Without a connection nobody can be asked.")
    else:
        yield ok(
            "connection", f"{connection_path}: {connection.name} at {connection.fleet} ({because})."
        )
        checks += _from_afar(connection, connection_path.parent, tls, config is None, now)
    if config is not None:
        checks += [("config", partial(_here, config, now))]
    down: set[str] = set()
    for name, check in checks:
        if needed := _needs(name) & down:
            yield skip(name, f"It stands on {sorted(needed)[0]}.")
            continue
        for finding in _run(name, check):
            if finding.level is Level.FAIL:
                down.add(finding.check)
            yield finding


def _needs(name: str) -> set[str]:
    api = {"api-dns", "api-tcp", "api-tls"}
    return {
        "answer": api,
        "access": api,
        "trust": {*api, "token", "certificate"},
        "health": api,
        "broker-acl": {"broker-dns", "broker-tcp", "broker-tls"},
    }.get(name, set())


def _from_afar(
    connection: Connection,
    directory: Path,
    tls: ssl.SSLContext,
    probe: bool,
    now: Callable[[], datetime],
) -> Checks:
    url = urlsplit(connection.api_url)
    secured = tls if url.scheme == "https" else None
    port = url.port or _PORTS.get(url.scheme, 443)
    server = Server("api", url.hostname or "", port, "api_url of the connection file")
    mqtt = Server(
        "broker", connection.mqtt_host, connection.mqtt_port, "mqtt_host of the connection file"
    )

    def asked(check: Callable[[ApiClient], Findings]) -> Callable[[], Findings]:
        def ask() -> Findings:
            with ApiClient(connection, directory, patience=PATIENCE) as api:
                yield from check(api)

        return ask

    checks: Checks = [
        ("api", partial(check_server, server, secured)),
        ("answer", lambda: access.check_answer(connection, secured, now())),
        ("access", asked(lambda api: access.check_access(api, connection, directory, now()))),
        ("trust", asked(access.check_trust)),
        ("health", asked(access.check_health)),
        ("broker", partial(check_server, mqtt, tls)),
    ]
    if probe:
        checks.append(("broker-acl", partial(broker.check_rules, connection, tls)))
    return checks


def _here(path: Path, now: Callable[[], datetime]) -> Findings:
    """On the controller's own machine."""
    settings = load(path)
    yield ok("config", f"{path}: the controller of {settings.fleet} in {settings.data_dir}.")
    yield from disk.check_disk(settings)
    yield from disk.check_rights(settings)
    yield from _own_broker(settings, now)


def _own_broker(settings: ControllerSettings, now: Callable[[], datetime]) -> Findings:
    try:
        serving = json.loads(settings.serving_file.read_bytes())
        host, port = str(serving["mqtt_host"]), int(serving["mqtt_port"])
    except (OSError, ValueError, KeyError, TypeError):
        yield fail(
            "serving",
            f"No controller runs on {settings.data_dir}.",
            "start it with `mailboat serve`.",
        )
        yield skip("broker-acl", "Without a controller nobody knows where its broker is.")
        return
    yield from broker.check_rules_here(settings, host, port, now())


def _run(name: str, check: Callable[[], Findings]) -> Findings:
    try:
        yield from check()
    except MailboatError as error:
        yield fail(name, error.what, error.next_step)
    except Exception as error:  # noqa: BLE001 - a sick machine breaks what looks at it
        what = f"The check itself broke: {type(error).__name__}: {error}"[:300]
        yield fail(name, f"{what}.", "look at what it names; report it if that is well.")


def worst(findings: list[Finding]) -> Level:
    """Fail before warn before ok; what was skipped follows from something that failed."""
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.FAIL, Level.WARN) if level in levels), Level.OK)
