"""One key and certificate after another, by the names of files.

With a new key, two things must never be true: that the controller counts on a key the device has
lost, and that the device has given up a key the controller still counts on. So every step leaves
files that say what comes next::

    device.key.next                        a key is made; a certificate for it is asked for
    device.key.next  device.pem.next       it is given; both keys count; it is to be confirmed
    device.key.next  device.pem.confirmed  the new key alone counts; it is to be taken
    device.key       device.pem            taken
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from mailboat_agent.atomic_file import disk_errors, fsync_directory
from mailboat_agent.identity.device_key import (
    confirmed_of,
    finish_exchange,
    make_key,
    read_key,
    successor_of,
)
from mailboat_schemas.errors import ConfigurationInvalid

_log = logging.getLogger(__name__)

PrivateKey = ec.EllipticCurvePrivateKey
Rewrap = Callable[[PrivateKey, PrivateKey], None]


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    ca: Path
    key: Path
    certificate: Path


def exchange(files: IdentityFiles, rewrap: Rewrap) -> None:
    """Take the confirmed certificate and its key, if there are any. Any part of it may repeat.

    Args:
        rewrap: keeps what the old key opens for the new one (old, new).

    Raises:
        DiskFull, DiskFailing: nothing is lost; try again.
    """
    waiting = successor_of(files.key)
    if confirmed_of(files.certificate).exists() and waiting.exists():
        rewrap(read_key(files.key), read_key(waiting))
        with disk_errors("exchanging the device key"):
            waiting.replace(files.key)
            fsync_directory(files.key.parent)
    finish_exchange(files.key, files.certificate)


def waiting_key(path: Path) -> PrivateKey:
    """The key that waits, or a new one. One that cannot be read any more is lost, whether or not it
    counts already: then the old key is tried, and if that counts no more a person is needed.

    Raises:
        DiskFull, DiskFailing
    """
    try:
        return make_key(path)
    except ConfigurationInvalid as error:
        _log.error("The new key is damaged and made once more: %s", error)
        with disk_errors("removing a damaged key"):
            path.unlink()
        return make_key(path)
