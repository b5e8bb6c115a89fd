"""The broker's access rules and revocation list, derived from the registry.

mosquitto knows a client by its certificate's common name. Its patterns can put that name into a
topic, but cannot know a device's class, so each device has a section of its own. Who is cut off has
one as well: the list keeps them from connecting, the section silences a connection that is open.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from mailboat_controller.broker.embedded import fill_in, template_directory
from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_controller.ingest.partition import client_name
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.store.broker_access import Access
from mailboat_schemas.topics import ROOT, SAID_BY_DEVICES

ACL_FILE = "acl"
CRL_FILE = "crl.pem"
# mosquitto 2.0 looks for a user's section in a list, once for every line, and stands still
# meanwhile: measured 0.02 s for 1,000 devices, 0.1 s for 5,000, 0.7 s for 10,000, 2.3 s for 20,000.
# Above this bound every device may hear the manifests of all classes, which are signed and hold no
# secret; everything else stays as strict.
SECTIONS_MAX = 10_000
# mosquitto keeps every list it has loaded until it ends. Who is revoked must be on it at once;
# certificates of keys that were replaced (up to a third of the fleet's) wait for the next one.
SUPERSEDED_EVERY = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What `write` changed."""

    rules: bool
    revocations: bool

    def __bool__(self) -> bool:
        return self.rules or self.revocations


def write(
    directory: Path,
    access: Access,
    *,
    fleet: str,
    authority: Authority,
    now: datetime,
    partitions: int = 0,
) -> Written:
    """Bring both files to what the registry says; each is replaced as a whole or left alone.

    Args:
        partitions: how many processes take in what devices say, each under a name of its own.

    Raises:
        OSError: the old file is as it was.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    rules = access_rules(access, fleet, partitions)
    path = directory / ACL_FILE
    changed = not path.is_file() or path.read_text() != rules
    if changed:
        replace_durably(path, rules.encode(), mode=PUBLIC_MODE)
    revoked = _write_revocations(directory / CRL_FILE, access, authority, now)
    return Written(rules=changed, revocations=revoked)


def access_rules(access: Access, fleet: str, partitions: int = 0) -> str:
    """The content of the broker's ``acl_file``."""
    template = (template_directory() / ACL_FILE).read_text()
    text = fill_in(template, {"FLEET": fleet})
    return text + "\n" + "\n".join(_sections(access, f"{ROOT}/{fleet}", partitions)) + "\n"


def per_class(access: Access) -> bool:
    """Whether devices are few enough for the broker to keep the classes apart."""
    return len(access.devices) <= SECTIONS_MAX


def _sections(access: Access, root: str, partitions: int) -> Iterator[str]:
    yield "# From here on: derived from the registry by `mailboat serve`. Changes are overwritten."
    if per_class(access):
        for device, hardware_class in access.devices:
            yield f"user {device}"
            yield f"topic read {root}/class/{hardware_class}/#"
    else:
        yield f"# More than {SECTIONS_MAX} devices: manifests of all classes are open to each."
        yield f"pattern read {root}/class/#"
    for partition in range(partitions):
        yield f"user {client_name(partition)}"
        yield f"topic read {root}/site/+/dev/+/up/#"
        yield f"topic read {root}/site/+/dev/+/st"
        yield f"topic write {root}/site/+/dev/+/dn/ack"
    for pipeline in access.pipelines:
        # The patterns for devices hold for everybody.
        yield f"user {pipeline}"
        yield f"topic deny {root}/site/#"
    for dashboard in access.dashboards:
        yield f"user {dashboard}"
        yield f"topic deny {root}/site/#"
        yield f"topic deny {root}/ci/#"
        yield f"topic read {root}/stats/#"
    for site in access.sites:
        yield f"user {site}"
        for level in SAID_BY_DEVICES:
            yield f"topic write {root}/site/{site}/dev/+/{level}"
        yield f"topic read {root}/site/{site}/dev/+/dn/#"
        yield f"topic read {root}/class/#"
        yield f"topic readwrite $SYS/broker/connection/{site}/state"
    for name in access.cut_off:
        yield f"user {name}"
        yield "topic deny #"


def _write_revocations(path: Path, access: Access, authority: Authority, now: datetime) -> bool:
    held = _held(path)
    if held is not None and not _is_due(held, access, now):
        return False
    content = authority.revocation_list(
        [each.serial for each in access.refused],
        now=now,
        after=None if held is None else held.last_update_utc,
    )
    replace_durably(path, content, mode=PUBLIC_MODE)
    return True


def _is_due(held: x509.CertificateRevocationList, access: Access, now: datetime) -> bool:
    listed = {format(each.serial_number, "x") for each in held}
    missing = [each for each in access.refused if each.serial not in listed]
    aged = now - held.last_update_utc > SUPERSEDED_EVERY
    return any(each.revoked or aged for each in missing)


def _held(path: Path) -> x509.CertificateRevocationList | None:
    try:
        return x509.load_pem_x509_crl(path.read_bytes())
    except (OSError, ValueError):
        return None
