"""Where the device keeps what it must not lose."""

import os
import stat
import tempfile
from pathlib import Path

from mailboat_agent.ballast import BALLAST_BYTES, ballast_bytes
from mailboat_agent.config import AgentConfig
from mailboat_agent.journal.database import quick_check
from mailboat_agent.state_file import StateFile
from mailboat_schemas.finding import Finding, Findings, fail, ok, skip, warn

FREE_BYTES_LOW = 64 << 20  # below that a release hardly fits, and a journal soon not
JOURNAL = "journal.db"

# Where fsync, rename or locks do not hold what the agent builds on.
_NO_PROMISES = {
    "tmpfs": "is memory: everything on it is gone after a power cut",
    "ramfs": "is memory: everything on it is gone after a power cut",
    "vfat": "has no atomic rename and no file modes",
    "exfat": "has no atomic rename and no file modes",
    "msdos": "has no atomic rename and no file modes",
    "nfs": "may lose a rename, and its locks do not outlive the server",
    "nfs4": "may lose a rename, and its locks do not outlive the server",
    "cifs": "may lose a rename, and its locks do not outlive the server",
    "smb3": "may lose a rename, and its locks do not outlive the server",
    "9p": "promises nothing about fsync",
    "overlay": "is a container's layer: it is gone with the container",
}


def check_data_directory(config: AgentConfig) -> Findings:
    directory = config.data_dir
    try:
        mode = stat.S_IMODE(directory.stat().st_mode)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        yield _missing(directory)
        return
    except OSError as error:
        yield fail(
            "data_dir",
            f"{directory} cannot be written: {error.strerror}.",
            "give it to the user the agent runs as; if the disk went read-only, look at its log.",
        )
        return
    if mode & 0o077:
        yield warn(
            "data_dir", f"{directory} has mode {mode:04o}: others see it.", f"chmod 700 {directory}"
        )
    else:
        yield ok("data_dir", f"{directory} can be written, by its owner only.")


def _missing(directory: Path) -> Finding:
    if os.access(directory.parent, os.W_OK):
        return warn(
            "data_dir",
            f"{directory} does not exist yet.",
            "nothing: the agent makes it when it starts.",
        )
    return fail(
        "data_dir",
        f"{directory} does not exist, and this user cannot make it.",
        "make it and give it to the user the agent runs as.",
    )


def check_disk(config: AgentConfig) -> Findings:
    directory = config.data_dir
    try:
        status = os.statvfs(directory)
    except OSError as error:
        yield skip("disk", f"{directory}: {error.strerror}.")
        return
    free = status.f_bavail * status.f_frsize
    kind = _file_system(directory)
    if free < FREE_BYTES_LOW:
        yield fail(
            "disk",
            f"{free >> 20} MiB are free: no release can be fetched.",
            "make room on that file system, or set disk_budget to keep fewer releases.",
        )
    elif kind in _NO_PROMISES:
        yield warn(
            "disk",
            f"{free >> 20} MiB are free; the file system, {kind}, {_NO_PROMISES[kind]}.",
            "keep data_dir on a local disk with a journalling file system, such as ext4.",
        )
    else:
        yield ok("disk", f"{free >> 20} MiB are free on {kind}.")


def check_ballast(config: AgentConfig) -> Findings:
    size = ballast_bytes(config.data_dir)
    if size >= BALLAST_BYTES:
        yield ok("ballast", f"{size >> 20} MiB are put by for the day the disk is full.")
    else:
        yield warn(
            "ballast",
            "Nothing is put by for the day the disk is full: it has been, or the device is new.",
            "make room; the agent puts it by again when it starts.",
        )


def check_records(config: AgentConfig) -> Findings:
    """State and journal, as they would be read at the next start."""
    states = StateFile(config.data_dir)
    states.load()
    if states.problems:
        yield warn(
            "state",
            f"A part of it was damaged: {'; '.join(states.problems)[:300]}.",
            "nothing, the other copy is used; if it happens again, look at the disk.",
        )
    else:
        yield ok("state", "state.json is whole, or the device is new.")
    journal = config.data_dir / JOURNAL
    if not journal.exists():
        yield ok("journal", "There is none yet.")
    elif problem := quick_check(journal):
        yield fail(
            "journal",
            f"SQLite finds it damaged: {problem[:200]}.",
            "nothing: the agent sets it aside and begins anew; look at the disk.",
        )
    else:
        yield ok("journal", "SQLite finds nothing wrong with it.")


def _file_system(directory: Path) -> str:
    """Type of the mount that holds a directory. Source: proc_pid_mountinfo(5)."""
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "an unknown file system"
