"""A site's kit: one archive with all that a site operator runs, keys included.

Whoever has the controller's disk makes it, because the keys of the fleet's CA are there. Each kit
has a bridge certificate of its own; those of older kits stay good until they end or the site is
removed, so that a new kit can be put in place at leisure.
"""

import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from mailboat_controller.broker.access_files import CRL_FILE
from mailboat_controller.broker.embedded import fill_in, template_directory
from mailboat_controller.config import ControllerSettings
from mailboat_controller.data_directory import Addresses, addresses_of, refuse_taken_name
from mailboat_controller.durable_file import PUBLIC_MODE, SECRET_MODE, replace_durably
from mailboat_controller.pki.issuing import CREDENTIAL_DAYS, Authority, Issued
from mailboat_controller.sites.access_rules import access_rules
from mailboat_controller.sites.queue_size import DAYS_DEFAULT, DEVICES_DEFAULT, queue_size
from mailboat_controller.sites.renewal import RENEW_WITHIN, server_names
from mailboat_controller.store import audit, credentials, device_certificates, sites
from mailboat_controller.store.engine import Store
from mailboat_controller.store.sites import SiteRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import ConfigurationInvalid

_MIB = 1 << 20
_PROGRAM_MODE = 0o755
_HTTPS_PORT = 443
_PATH = re.compile(r"/[A-Za-z0-9._+/-]{1,200}")
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}|[0-9a-fA-F:.]{2,45}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_CACHE_SIZE = re.compile(r"[1-9][0-9]{0,9}[kmg]")
_UNITS = (
    "mailboat-site-broker.service",
    "mailboat-site-refresh.service",
    "mailboat-site-refresh.timer",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KitWishes:
    """Of the machine at the site.

    devices: 0: as many as are enrolled there, and room for more.
    memory_mib: what the broker's queue may take.
    """

    install_dir: str = "/etc/mailboat-site"
    data_dir: str = "/var/lib/mailboat-site"
    listen: str = "0.0.0.0"  # noqa: S104  devices come from the site's network
    run_as: str = "mosquitto"
    devices: int = 0
    days: int = DAYS_DEFAULT
    memory_mib: int = 1024
    cache_size: str = "20g"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """What was made, for the one who made it. ``held_days``: of a cut, before anything is
    dropped."""

    path: Path
    bridge_expires_at: datetime
    queue_messages: int
    queue_mib: int
    held_days: float


def make_kit(
    settings: ControllerSettings,
    name: str,
    out: Path,
    wishes: KitWishes,
    *,
    actor: str,
    now: datetime,
) -> Kit:
    """
    Raises:
        NotFound: no such site. Conflict: its name belongs to somebody else.
        ConfigurationInvalid: a value that cannot stand in a configuration file.
    """
    _refuse_wishes(wishes)
    addresses = addresses_of(settings)
    authority = Authority.load(settings.pki_dir)
    bridge = authority.issue_credential(Kind.SITE, name, now=now, days=CREDENTIAL_DAYS)
    store = Store(settings.store_url)
    try:
        with store.transaction() as tx:
            row = sites.get(tx, name)
            refuse_taken_name(tx, Kind.SITE, name)
            enrolled = sites.standing(tx, name, now).devices
            cut_off = sites.cut_off(tx, name, now)
            revoked = [each.serial for each in device_certificates.refused(tx, now)]
            _record(tx, name, bridge, actor=actor, now=now)
    finally:
        store.close()
    names = server_names(row)
    server = authority.issue_server(names, now=now)
    devices = wishes.devices or max(DEVICES_DEFAULT, 2 * enrolled)
    size = queue_size(
        devices,
        wishes.days,
        memory_bytes=wishes.memory_mib * _MIB,
    )
    values = _values(settings.fleet, row, addresses, wishes) | {
        "DEVICES": str(devices),
        "QUEUE_DAYS": f"{size.days:.1f}".removesuffix(".0"),
        "QUEUE_MESSAGES": str(size.messages),
        "QUEUE_BYTES": str(size.bytes),
        "QUEUE_MIB": str(size.bytes // _MIB),
        "SERVER_NAMES": ", ".join(names),
        "BRIDGE_EXPIRES": bridge.expires_at.date().isoformat(),
    }
    crl = settings.broker_dir / CRL_FILE
    files: dict[str, tuple[bytes, int]] = {
        **_from_templates(row, values),
        "ca.pem": (authority.ca_pem, PUBLIC_MODE),
        "acl": (access_rules(settings.fleet, name, cut_off).encode(), PUBLIC_MODE),
        "crl.pem": (
            crl.read_bytes() if crl.is_file() else authority.revocation_list(revoked, now=now),
            PUBLIC_MODE,
        ),
        "server.pem": (server.certificate, PUBLIC_MODE),
        "server.key": (server.key or b"", SECRET_MODE),
        "bridge.pem": (bridge.certificate, PUBLIC_MODE),
        "bridge.key": (bridge.key or b"", SECRET_MODE),
    }
    replace_durably(out, _archive(f"site-{name}", files, now))
    return Kit(
        path=out,
        bridge_expires_at=bridge.expires_at,
        queue_messages=size.messages,
        queue_mib=size.bytes // _MIB,
        held_days=size.days,
    )


def _record(tx: Transaction, name: str, bridge: Issued, *, actor: str, now: datetime) -> None:
    credentials.add(
        tx,
        serial=bridge.serial,
        name=name,
        kind=Kind.SITE,
        expires_at=bridge.expires_at,
        at=now,
    )
    audit.append(
        tx,
        at=now,
        actor=actor,
        action="site.kit",
        subject=f"site:{name}",
        reason="a kit was made for its broker",
        details={
            "certificate_serial": bridge.serial,
            "expires_at": bridge.expires_at.isoformat(),
        },
    )


def _values(fleet: str, row: SiteRow, addresses: Addresses, wishes: KitWishes) -> dict[str, str]:
    install = wishes.install_dir.rstrip("/")
    data = wishes.data_dir.rstrip("/")
    api = urlsplit(addresses.api_url)
    return {
        "FLEET": fleet,
        "SITE": row.name,
        "RUN_AS": wishes.run_as,
        "MQTT_HOST": wishes.listen,
        "MQTT_PORT": str(row.broker_port),
        "INSTALL_DIR": install,
        "DATA_DIR": f"{data}/",  # mosquitto appends its file names without a slash
        "CA_FILE": f"{install}/ca.pem",
        "CRL_FILE": f"{install}/crl.pem",
        "ACL_FILE": f"{install}/acl",
        "SERVER_CERTIFICATE": f"{install}/server.pem",
        "SERVER_KEY": f"{install}/server.key",
        "BRIDGE_CERTIFICATE": f"{install}/bridge.pem",
        "BRIDGE_KEY": f"{install}/bridge.key",
        "CENTRAL_HOST": addresses.mqtt_host,
        "CENTRAL_PORT": str(addresses.mqtt_port),
        "API_URL": addresses.api_url.rstrip("/"),
        "RENEW_WITHIN_SECONDS": str(int(RENEW_WITHIN.total_seconds())),
        "RENEW_WITHIN_DAYS": str(RENEW_WITHIN.days),
        "CACHE_DIR": f"{data}/cache",
        # Of the cache (`broker-config/nginx/site-cache.conf`).
        "CACHE_MAX_SIZE": wishes.cache_size,
        "CACHE_CERTIFICATE": f"{install}/bridge.pem",
        "CACHE_KEY": f"{install}/bridge.key",
        "CONTROLLER_HOST": api.hostname or "",
        "CONTROLLER_PORT": str(api.port or _HTTPS_PORT),
        "LISTEN": f"{_bracketed(wishes.listen)}:{urlsplit(row.cache_url).port or _HTTPS_PORT}",
        "SERVER_NAME": urlsplit(row.cache_url).hostname or "",
        "ACCESS_LOG": f"{data}/cache-access.log",
    }


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _from_templates(row: SiteRow, values: Mapping[str, str]) -> dict[str, tuple[bytes, int]]:
    mosquitto = template_directory()
    ours, nginx = mosquitto.with_name("site"), mosquitto.with_name("nginx")
    wanted = {
        "mosquitto.conf": (mosquitto / "site.conf", PUBLIC_MODE),
        "refresh": (ours / "refresh", _PROGRAM_MODE),
        "README.md": (ours / "README.md", PUBLIC_MODE),
        **{unit: (ours / unit, PUBLIC_MODE) for unit in _UNITS},
    }
    if row.cache_url:
        wanted["site-cache.conf"] = (nginx / "site-cache.conf", PUBLIC_MODE)
    return {
        name: (fill_in(path.read_text(), values).encode(), mode)
        for name, (path, mode) in wanted.items()
    }


def _refuse_wishes(wishes: KitWishes) -> None:
    """What would mean something else to the shell, nginx, systemd or mosquitto."""
    for text, syntax, wanted in (
        (wishes.install_dir, _PATH, "an absolute path of letters, digits and . _ + - /"),
        (wishes.data_dir, _PATH, "an absolute path of letters, digits and . _ + - /"),
        (wishes.listen, _ADDRESS, "an address or a host name"),
        (wishes.run_as, _USER, "the name of a user"),
        (wishes.cache_size, _CACHE_SIZE, "a size such as 20g"),
    ):
        if syntax.fullmatch(text) is None:
            raise ConfigurationInvalid(
                f"{text!r} cannot stand in the site's configuration files.",
                next_step=f"give {wanted}.",
            )


def _archive(directory: str, files: Mapping[str, tuple[bytes, int]], now: datetime) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in sorted(files):
            content, mode = files[name]
            entry = tarfile.TarInfo(f"{directory}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), mode, int(now.timestamp())
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
