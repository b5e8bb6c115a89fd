"""``mailboat-agent import``: from a carried file into the spool, and word to the agent.

The same whether the agent runs or not. It takes up what is in the spool within a second, or at its
next start. What serves is not touched by anything here.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mailboat_agent import ballast
from mailboat_agent.artifacts.wrapped_keys import WrappedKeys
from mailboat_agent.atomic_file import DiskFailing, disk_errors, fsync_directory, write_all
from mailboat_agent.carrier.opening import open_carrier
from mailboat_agent.carrier.preview import Preview, preview, refuse_others
from mailboat_agent.carrier.spool import ImportSpool
from mailboat_agent.config import AgentConfig
from mailboat_schemas.carrier import MANIFEST_NAME, TIMESTAMP_NAME, CarrierDamaged, Member
from mailboat_schemas.carrier_reader import CarrierReader
from mailboat_schemas.errors import ConfigurationInvalid, DiskFull, RollbackRefused

# The journal and the record must still be written when the import is done.
DISK_MARGIN_BYTES = 16 << 20

Progress = Callable[[int, int], None]  # bytes copied so far, and in all


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of it. Sizes in bytes."""

    releases: tuple[str, ...]  # model and version of what the device may be told to run
    counter: int
    copied_files: int
    copied_bytes: int
    held_files: int  # that the device needs and had already
    lacking_files: int  # that it needs, and that are neither here nor there
    lacking_bytes: int
    older_than_held: bool  # the device has a newer manifest and wanted the files alone
    content_keys_lacking: int  # an encrypted release waits for them, and they come by network only


def import_carrier(
    path: Path, config: AgentConfig, *, now: datetime, on_progress: Progress
) -> Imported:
    """
    Raises:
        CarrierUnreadable, NotACarrier, CarrierDamaged: the file.
        WrongFleet, WrongClass, TrustRefused, TrustStale, ClockUntrusted: it is not for here or now.
        DiskFull, DiskFailing: of the device.
        Conflict: another import is running. ConfigurationInvalid: this is no enrolled device.
    """
    spool = ImportSpool(config.data_dir)
    with open_carrier(path) as reader:
        refuse_others(reader.contents, config)
        manifest, timestamp = reader.read(MANIFEST_NAME), reader.read(TIMESTAMP_NAME)
        with _as_the_owner_would(config.data_dir), _locked(spool):
            seen = preview(config, manifest, timestamp, now)
            wanted = seen.files
            lacking = {d: n for d, n in wanted.items() if not _is_held(config, spool, d, n)}
            members = _members(reader, lacking)
            if seen.is_older and not members:
                raise RollbackRefused(
                    "The file is older than what this device has been told already, and has no "
                    "file that it lacks.",
                    next_step="nothing, if a newer file was imported before; else export again.",
                )
            _require_room(config.data_dir, members)
            _copy(reader, members, spool, on_progress)
            spool.hand_over(seen.manifest, timestamp)
    carried = {member.file.sha256 for member in members}
    missing = {digest: n for digest, n in lacking.items() if digest not in carried}
    return Imported(
        releases=tuple(f"{each.model} {each.version}" for each in seen.asked),
        counter=reader.contents.counter,
        copied_files=len(members),
        copied_bytes=sum(member.file.length for member in members),
        held_files=len(wanted) - len(lacking),
        lacking_files=len(missing),
        lacking_bytes=sum(missing.values()),
        older_than_held=seen.is_older,
        content_keys_lacking=len(_keys(seen) - WrappedKeys(config.data_dir).ids()),
    )


def _keys(seen: Preview) -> frozenset[str]:
    return frozenset(key for each in seen.asked for key in each.content_keys)


def _is_held(config: AgentConfig, spool: ImportSpool, digest: str, length: int) -> bool:
    """By name and length; the agent hashes it before it is used."""
    try:
        stored = (config.data_dir / "store" / digest).stat().st_size
    except OSError:
        stored = -1
    return stored == length or spool.has(digest, length)


def _members(reader: CarrierReader, lacking: dict[str, int]) -> list[Member]:
    """Those of the carried files that are lacking here. What nobody signed for is not copied.

    Raises:
        CarrierDamaged: a file has another length than was signed.
    """
    found = [member for member in reader.members if member.file.sha256 in lacking]
    small = (MANIFEST_NAME, TIMESTAMP_NAME)
    found = [member for member in found if member.name not in small]
    for member in found:
        if member.file.length != lacking[member.file.sha256]:
            raise CarrierDamaged(f"{member.name} has another length than its release says")
    return found


def _require_room(data_dir: Path, members: list[Member]) -> None:
    """Before gigabytes are copied.

    Raises:
        DiskFull
    """
    needed = sum(member.file.length for member in members)
    with disk_errors("looking for room"):
        status = os.statvfs(data_dir)
    free = status.f_bavail * status.f_frsize + ballast.ballast_bytes(data_dir)
    if needed and needed + DISK_MARGIN_BYTES > free:
        raise DiskFull(
            f"{needed} bytes are to be copied, and {free} are free on this device "
            f"({DISK_MARGIN_BYTES} have to stay free).",
            next_step="make room in the data directory's file system; what serves goes on.",
        )


def _copy(
    reader: CarrierReader, members: list[Member], spool: ImportSpool, on_progress: Progress
) -> None:
    """Each file appears under its digest when it is whole and durable."""
    total = sum(member.file.length for member in members)
    done = 0
    for member in members:
        part = spool.part_path(member.file.sha256)
        try:
            with _new_file(part, spool.owner) as descriptor:
                for chunk in reader.chunks(member):
                    with disk_errors("copying an imported file"):
                        write_all(descriptor, chunk)
                    done += len(chunk)
                    on_progress(done, total)
                with disk_errors("making an imported file durable"):
                    os.fsync(descriptor)
            with disk_errors("naming an imported file"):
                part.replace(spool.path(member.file.sha256))
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
    with disk_errors("naming the imported files"):
        fsync_directory(spool.directory)


@contextmanager
def _new_file(path: Path, owner: tuple[int, int] | None) -> Iterator[int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with disk_errors("copying an imported file"):
        descriptor = os.open(path, flags, 0o600)
    try:
        if owner is not None:
            with disk_errors("handing a file over to the agent"):
                os.fchown(descriptor, *owner)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(spool: ImportSpool) -> Iterator[None]:
    with ExitStack() as opened:
        try:
            with disk_errors("making the import directory"):
                spool.directory.mkdir(mode=0o700, exist_ok=True)
                opened.enter_context(spool.locked())
        except DiskFailing as error:
            if isinstance(error.__cause__, PermissionError):
                raise _unusable(spool.directory.parent, error.__cause__) from error
            raise
        yield


@contextmanager
def _as_the_owner_would(data_dir: Path) -> Iterator[None]:
    """Whatever root makes in the data directory belongs to whom the directory belongs to: else the
    agent, which is somebody else, could not take it up.

    Raises:
        ConfigurationInvalid: there is no such directory.
    """
    try:
        owner = data_dir.stat()
    except OSError as error:
        raise _unusable(data_dir, error) from error
    try:
        yield
    finally:
        if os.geteuid() == 0 and owner.st_uid != 0:
            directory = data_dir / "import"
            # The directory last: with it the agent could see what it cannot read yet.
            for path in (*directory.iterdir(), directory) if directory.is_dir() else ():
                with suppress(OSError):
                    os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _unusable(data_dir: Path, error: OSError) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"The data directory {data_dir} cannot be used: {error.strerror}.",
        next_step="run this as root or as the agent's user, on a device that is enrolled.",
    )
