"""Making a controller's data directory, and credentials from it. For whoever has that disk."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from mailboat_controller.config import CONFIG_FILE, ControllerSettings, load
from mailboat_controller.connection_file import FILE_NAME, save_connection
from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_controller.pki.issuing import CREDENTIAL_DAYS, Authority
from mailboat_controller.store import audit, credentials, devices
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.enrolment import Connection, Kind
from mailboat_schemas.errors import ConfigurationInvalid, Conflict, NotFound
from mailboat_schemas.names import is_label

ONLINE_KEYS = ("snapshot.pem", "timestamp.pem", "director.pem")
ISSUABLE = (Kind.CI, Kind.DASHBOARD, Kind.SITE)  # people have tokens: `token_directory.py`
TRUST_FILE_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where people and devices reach a controller."""

    api_url: str
    mqtt_host: str
    mqtt_port: int


def create(
    data_dir: Path,
    *,
    fleet: str,
    trust: Path | None,
    now: datetime,
    listen_port: int = 8443,
    mqtt_port: int = 8883,
    public_host: str = "",
) -> ControllerSettings:
    """A new data directory: settings, CA, database, and the online part of the trust ceremony.

    Args:
        trust: the ceremony's directory, or its ``controller`` folder alone, with ``keys/`` and
            ``trust/``; None: later, with `import_trust`.

    Raises:
        ConfigurationInvalid: there is one already, or not a name for a fleet.
    """
    if not is_label(fleet):
        raise ConfigurationInvalid(
            f"{fleet!r} cannot be the name of a fleet.",
            next_step="use lower-case letters, digits and inner hyphens, at most 63 characters.",
        )
    path = data_dir / CONFIG_FILE
    if path.exists():
        raise ConfigurationInvalid(
            f"{data_dir} is a data directory already.",
            next_step=f"start it with `mailboat serve --config {path}`, or choose another.",
        )
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    data_dir.chmod(0o700)  # it holds the CA's key
    content = _settings(fleet, listen_port, mqtt_port, public_host)
    Authority.create(data_dir / "pki", fleet, now=now)
    if trust is not None:
        _copy_trust(trust, data_dir)
    replace_durably(path, content.encode(), mode=PUBLIC_MODE)  # last: it says "complete"
    settings = load(path)
    store = Store(settings.store_url)
    store.migrate()
    store.close()
    return settings


def import_trust(settings: ControllerSettings, trust: Path) -> None:
    """Bring the ceremony's ``controller`` folder into a data directory that has none yet.

    Raises:
        Conflict: it has one. ConfigurationInvalid: not such a folder.
    """
    if settings.keys_dir.exists():
        raise Conflict(
            f"{settings.data_dir} has online keys already.",
            next_step="rotate them with a new targets role instead of replacing the files.",
        )
    _copy_trust(trust, settings.data_dir)


def issue_credential(
    settings: ControllerSettings, kind: Kind, name: str, out: Path, *, actor: str, now: datetime
) -> Path:
    """Key, certificate and connection file for a pipeline or a dashboard.

    Returns:
        The path of ``connection.toml`` in ``out``.

    Raises:
        Conflict: the name belongs to a device, or to a holder of another kind.
        ConfigurationInvalid: not a name, not such a kind, or the controller's port is not known.
    """
    if kind not in ISSUABLE:
        raise ConfigurationInvalid(
            f"A credential of kind {kind} is not issued by hand.",
            next_step=f"choose one of {', '.join(ISSUABLE)}; devices enrol, people get tokens.",
        )
    addresses = addresses_of(settings)
    authority = Authority.load(settings.pki_dir)
    issued = authority.issue_credential(kind, name, now=now, days=CREDENTIAL_DAYS)
    store = Store(settings.store_url)
    try:
        with store.transaction() as tx:
            refuse_taken_name(tx, kind, name)
            credentials.add(
                tx,
                serial=issued.serial,
                name=name,
                kind=kind,
                expires_at=issued.expires_at,
                at=now,
            )
            audit.append(
                tx,
                at=now,
                actor=actor,
                action="credential.issue",
                subject=f"{kind}:{name}",
                reason="issued on the controller's machine",
                details={
                    "certificate_serial": issued.serial,
                    "expires_at": issued.expires_at.isoformat(),
                },
            )
    finally:
        store.close()
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_durably(out / f"{name}.key", issued.key or b"")
    replace_durably(out / f"{name}.pem", issued.certificate, mode=PUBLIC_MODE)
    replace_durably(out / "ca.pem", authority.ca_pem, mode=PUBLIC_MODE)
    connection = Connection(
        fleet=settings.fleet,
        name=name,
        api_url=addresses.api_url,
        mqtt_host=addresses.mqtt_host,
        mqtt_port=addresses.mqtt_port,
        ca="ca.pem",
        certificate=f"{name}.pem",
        key=f"{name}.key",
    )
    save_connection(out / FILE_NAME, connection)
    return out / FILE_NAME


def revoke_credential(
    settings: ControllerSettings, kind: Kind, name: str, *, reason: str, actor: str, now: datetime
) -> int:
    """Revoke every certificate of one holder; returns how many.

    Raises:
        NotFound: there is none in force.
    """
    store = Store(settings.store_url)
    try:
        with store.transaction() as tx:
            count = credentials.revoke(tx, name=name, kind=kind)
            if count == 0:
                raise NotFound(
                    f"There is no {kind} credential {name} in force.",
                    next_step="`mailboat credential list` shows all of them.",
                )
            subject = f"{kind}:{name}"
            audit.append(
                tx, at=now, actor=actor, action="credential.revoke", subject=subject, reason=reason
            )
            return count
    finally:
        store.close()


def addresses_of(
    settings: ControllerSettings, *, api_port: int | None = None, mqtt_port: int | None = None
) -> Addresses:
    """What to tell others: public addresses where they are set, else where we listen.

    Args:
        api_port, mqtt_port: the bound ports, where the settings say 0; by default what a running
            controller wrote into ``serving.json``.

    Raises:
        ConfigurationInvalid: the ports are any free ones and no controller runs.
    """
    serving = _serving(settings)
    port = api_port or settings.listen_port or serving.get("api_port", 0)
    broker_port = settings.public_mqtt_port or mqtt_port or settings.mqtt_port
    broker_port = broker_port or serving.get("mqtt_port", 0)
    if not broker_port or not (port or settings.public_api_url):
        raise ConfigurationInvalid(
            "The controller listens on any free port, and none runs that could tell which.",
            next_step="start `mailboat serve` first, or set listen_port and mqtt_port.",
        )
    host = f"[{settings.listen_host}]" if ":" in settings.listen_host else settings.listen_host
    return Addresses(
        api_url=settings.public_api_url or f"https://{host}:{port}",
        mqtt_host=settings.public_mqtt_host or settings.mqtt_host,
        mqtt_port=broker_port,
    )


def _serving(settings: ControllerSettings) -> dict[str, int]:
    try:
        content = json.loads(settings.serving_file.read_text())
        return {
            "api_port": urlsplit(content["api_url"]).port or 0,
            "mqtt_port": int(content["mqtt_port"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # not running


def refuse_taken_name(tx: Transaction, kind: Kind, name: str) -> None:
    """
    Raises:
        Conflict: the name belongs to a device, or to a holder of another kind.
    """
    # The broker knows everybody by common name alone, whatever the kind.
    others = [row for row in credentials.every(tx) if row.name == name and row.kind != kind]
    if devices.by_name(tx, name) is not None or others:
        raise Conflict(
            f"The name {name} belongs to a {others[0].kind if others else 'device'}.",
            next_step="choose another name.",
        )


def _copy_trust(ceremony: Path, data_dir: Path) -> None:
    # The whole ceremony's directory, or only the folder in it that is meant for us.
    within = ceremony / "controller"
    source = within if within.is_dir() else ceremony
    keys = [source / "keys" / name for name in ONLINE_KEYS]
    files = sorted((source / "trust").glob("*.json"))
    missing = [str(path) for path in keys if not path.is_file()]
    if missing or not (source / "trust" / "1.root.json").is_file():
        raise ConfigurationInvalid(
            f"{source} is not what the ceremony made for a controller: "
            f"{', '.join(missing) or 'trust/1.root.json'} is missing.",
            next_step="name the folder `controller` that `mailboat trust init` made.",
        )
    for path in files:
        if path.stat().st_size > TRUST_FILE_BYTES_MAX:  # cut short, its signatures would not hold
            raise ConfigurationInvalid(
                f"{path} is over {TRUST_FILE_BYTES_MAX} bytes, which no role of a ceremony is.",
                next_step="name the folder `controller` that `mailboat trust init` made.",
            )
    for path in files:
        replace_durably(data_dir / "trust" / path.name, path.read_bytes(), mode=PUBLIC_MODE)
    for path in keys:  # last: a directory with keys has its trust files
        replace_durably(data_dir / "keys" / path.name, path.read_bytes())


def _settings(fleet: str, listen_port: int, mqtt_port: int, public_host: str) -> str:
    lines = [
        "# Every setting is explained in docs/configuration.md; environment variables",
        "# MAILBOAT_… stand above this file.",
        f'fleet = "{fleet}"',
        'data_dir = "."',
        "",
        'listen_host = "127.0.0.1"',
        f"listen_port = {listen_port}",
        f"mqtt_port = {mqtt_port}",
        "embedded_broker = true",
    ]
    if public_host:
        lines += [
            "",
            "# How devices and people reach us; also in the server certificate.",
            f"public_api_url = {json.dumps(f'https://{public_host}:{listen_port}')}",
            f"public_mqtt_host = {json.dumps(public_host)}",
        ]
    return "\n".join(lines) + "\n"
