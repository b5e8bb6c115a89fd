"""The controller's own data, where it is on this machine: room, rights, and its certificate."""

import os
import shutil
import stat
from pathlib import Path

from mailboat_controller.config import ControllerSettings
from mailboat_schemas.finding import Findings, fail, ok, warn

FREE_BYTES_FAIL = 256 << 20  # below, a database that grows for a day may not end it
FREE_SHARE_WARN = 0.1
_PRIVATE = ("pki/ca.key", "keys", "tokens")


def check_disk(settings: ControllerSettings) -> Findings:
    """How much room the data directory has left."""
    try:
        usage = shutil.disk_usage(settings.data_dir)
    except OSError as error:
        yield fail(
            "disk",
            f"{settings.data_dir} cannot be looked at: {error.strerror}.",
            "check data_dir in the settings file, and who may read it.",
        )
        return
    free, share = usage.free / (1 << 20), usage.free / usage.total
    told = f"{settings.data_dir} has {free:,.0f} MiB free, {share:.0%} of its disk."
    fix = "make room: `mailboat artifact gc` drops what no release needs; see docs/retention.md."
    if usage.free < FREE_BYTES_FAIL:
        yield fail("disk", told, fix)
    elif share < FREE_SHARE_WARN:
        yield warn("disk", told, fix)
    else:
        yield ok("disk", told)


def check_rights(settings: ControllerSettings) -> Findings:
    """Whether the secrets on it are closed to others, and whether we may write."""
    open_to_others = [path for each in _PRIVATE if _is_open(path := settings.data_dir / each)]
    for path in open_to_others:
        yield fail(
            "rights",
            f"{path} can be read by others on this machine.",
            f"close it with `chmod -R go-rwx {path}`; if others could read it, rotate what it "
            "holds (docs/trust.md).",
        )
    if not os.access(settings.data_dir, os.W_OK):
        yield warn(
            "rights",
            f"{settings.data_dir} cannot be written by this user.",
            "run this as the user that the controller runs as.",
        )
    elif not open_to_others:
        yield ok("rights", "The secrets on it are closed to others.")


def _is_open(path: Path) -> bool:
    """A file that others can read, or a directory that lets them to one."""
    try:
        files = [path, *(path.iterdir() if path.is_dir() else ())]
        return any(
            each.stat().st_mode & stat.S_IROTH
            for each in files
            if each.is_file() and each.suffix != ".pub"
        )
    except OSError:
        return False  # not even we get in
