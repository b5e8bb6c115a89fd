"""The trust metadata this device has accepted: the authority against rollback.

Each accepted set is a directory of its own, ``trust/<n>/``, written and synced under another name
and then renamed: the newest number is the set that counts, and a half-written mix cannot exist.
``index.json`` inside says what the set consists of, so that a damaged or vanished file is noticed
before anything reads it. A withdrawn release must not come back to life because a file is gone.

python-tuf compares with the files it is given. The highest version of every role is kept a second
time in ``trust/highest.json``, so that versions do not go down even after the set was damaged.
A version only binds as long as the same keys sign the role: rotating keys is how a role recovers
from somebody who signed a version of 2**31 with a stolen one (TUF specification 5.3.11).
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from mailboat_agent.atomic_file import (
    DiskFailing,
    disk_errors,
    fsync_directory,
    make_directory,
    replace_durably,
    write_new_durably,
)
from mailboat_agent.ballast import give_up_ballast
from mailboat_agent.trust.kept_manifests import KeptManifests, numbers_in, read_bounded
from mailboat_agent.trust.role_versions import (
    Highest,
    refuse_fast_forward,
    roles_of,
    still_delegated,
)
from mailboat_schemas.errors import DiskFull, RollbackRefused, TrustRefused
from mailboat_schemas.trust import ROLE_BYTES_MAX, TrustView, accept_trust

# Where metadata is checked when the disk refuses: a withdrawal has to be heard all the same.
_MEMORY = Path("/dev/shm")  # noqa: S108 - the directory made in it is ours alone
_INDEX = "index.json"
_HIGHEST = "highest.json"
_INDEX_BYTES_MAX = 1 << 20


class _Marks(BaseModel):
    factory_root: str  # sha256: enrolled into another fleet, a device begins anew
    roles: dict[str, Highest]


class _Index(BaseModel):
    files: dict[str, str]  # path in the set -> sha256
    roles: dict[str, Highest]


@dataclass(frozen=True, slots=True)
class _Set:
    number: int
    files: Mapping[str, bytes]
    roles: Mapping[str, Highest]


@dataclass(frozen=True, slots=True)
class Verified:
    """Metadata that holds, before it is kept. ``is_news``: not what is held already."""

    view: TrustView
    files: Mapping[str, bytes]
    roles: Mapping[str, Highest]
    is_news: bool


class TrustStore:
    def __init__(self, data_dir: Path, factory_root: bytes) -> None:
        self.factory_root = factory_root
        self._data_dir = data_dir
        self._trust = data_dir / "trust"
        self.manifests = KeptManifests(data_dir / "manifests")

    # --- reading -------------------------------------------------------------------------------

    def held(self) -> dict[str, bytes]:
        """The accepted files by relative path; {} on a new device.

        Raises:
            TrustRefused: a file of the set is damaged or missing.
        """
        numbers = numbers_in(self._trust)
        return {} if not numbers else dict(self._read_set(numbers[-1]).files)

    def view(self) -> TrustView:
        """The accepted metadata, verified from the factory root down, whatever its age.

        Raises:
            TrustRefused: a file is damaged. Nothing new is believed; the next `accept` repairs it.
        """
        return TrustView(self.factory_root, self.held())

    def _read_set(self, number: int) -> _Set:
        directory = self._trust / str(number)
        try:
            content = read_bounded(directory / _INDEX, _INDEX_BYTES_MAX)
            index = _Index.model_validate_json(_unframed(content))
            files = {name: read_bounded(directory / name, ROLE_BYTES_MAX) for name in index.files}
        except (OSError, ValueError) as error:
            raise _damaged(str(error)) from error
        for name, content in files.items():
            if _sha256(content) != index.files[name]:
                raise _damaged(f"{name} has changed")
        return _Set(number, files, index.roles)

    # --- accepting -----------------------------------------------------------------------------

    def accept(self, offered: Mapping[str, bytes], models: Iterable[str]) -> TrustView:
        """`verify`, then `keep`: all of it or nothing."""
        verified = self.verify(offered, models)
        self.keep(verified)
        return verified.view

    def verify(self, offered: Mapping[str, bytes], models: Iterable[str]) -> Verified:
        """Run the TUF workflow over offered metadata, starting from what is held.

        ``models`` are those whose release and approval roles must be present and current: every
        model this device holds or is assigned.

        Raises:
            TrustStale, RollbackRefused, SignatureInvalid, TrustRefused
            DiskFull, DiskFailing: there is no room to check it, not even in memory.
        """
        held = self._newest_readable()
        accepted = self._check(offered, {} if held is None else held.files, tuple(models))
        view, roles = self._judge(accepted, self._highest(held))
        files = {name: accepted[name] for name in accepted if still_delegated(name, view, roles)}
        is_held = held is not None and dict(held.files) == files
        is_held = is_held and held is not None and held.number == numbers_in(self._trust)[-1]
        return Verified(TrustView(self.factory_root, files), files, roles, not is_held)

    def keep(self, verified: Verified) -> None:
        """Make it the set that counts. Worth the ballast: it may withdraw what serves.

        Raises:
            DiskFull, DiskFailing: what was held stays, or the new set is held and not yet durable.
        """
        if verified.is_news:
            try:
                self._hold(verified.files, verified.roles)
            except DiskFull:
                give_up_ballast(self._data_dir)
                self._hold(verified.files, verified.roles)
        self._remove_all_but_newest()

    def repair(self, view: TrustView, files: Mapping[str, bytes]) -> str:
        """Write accepted metadata again if the disk does not hold it; what was wrong, or "".

        Raises:
            DiskFull, DiskFailing: it is still so.
        """
        problem = ""
        try:
            if self.held() != dict(files):
                problem = "the newest set is not what was accepted"
            self._read_marks()
        except TrustRefused as error:
            problem = error.what
        except (OSError, ValueError) as error:
            problem = f"{_HIGHEST}: {error}"
        if problem:
            highest = self._highest(self._newest_readable())
            self.keep(Verified(view, files, {**highest, **roles_of(view)}, is_news=True))
        return problem

    def _check(
        self, offered: Mapping[str, bytes], held: Mapping[str, bytes], models: Iterable[str]
    ) -> dict[str, bytes]:
        """On the data disk, since a device's /tmp may be small; in memory when that refuses."""
        try:
            with disk_errors("checking trust metadata"):
                make_directory(self._trust)
            with _scratch(self._trust) as scratch:
                return self._accepted(offered, held, models, scratch)
        except (DiskFull, DiskFailing):
            with _scratch(_MEMORY) as scratch:
                return self._accepted(offered, held, models, scratch)

    def _accepted(
        self,
        offered: Mapping[str, bytes],
        held: Mapping[str, bytes],
        models: Iterable[str],
        scratch: Path,
    ) -> dict[str, bytes]:
        return accept_trust(
            offered, factory_root=self.factory_root, held=held, models=models, scratch=scratch
        )

    def _newest_readable(self) -> _Set | None:
        for number in reversed(numbers_in(self._trust)):
            with suppress(TrustRefused):
                found = self._read_set(number)
                TrustView(self.factory_root, found.files)
                return found
        return None

    def _highest(self, held: _Set | None) -> dict[str, Highest]:
        """What must not go down. Either copy alone is enough."""
        highest = {} if held is None else dict(held.roles)
        with suppress(OSError, ValueError):
            marks = self._read_marks()
            if marks.factory_root == _sha256(self.factory_root):
                highest.update(marks.roles)  # written before the set, so never behind it
        return highest

    def _read_marks(self) -> _Marks:
        """Raises OSError, ValueError."""
        content = read_bounded(self._trust / _HIGHEST, _INDEX_BYTES_MAX)
        return _Marks.model_validate_json(_unframed(content))

    def _judge(
        self, accepted: Mapping[str, bytes], highest: Mapping[str, Highest]
    ) -> tuple[TrustView, dict[str, Highest]]:
        view = TrustView(self.factory_root, accepted)
        roles = roles_of(view)
        for role, reached in highest.items():
            offered = roles.get(role)
            same_keys = offered is not None and (role == "root" or offered.keys == reached.keys)
            if offered is not None and same_keys and offered.version < reached.version:
                raise RollbackRefused(
                    f"Role {role} is offered in version {offered.version}, "
                    f"this device has accepted {reached.version}.",
                    next_step="look for a restored backup or an old retained message.",
                )
            if offered is not None and same_keys:
                refuse_fast_forward(f"Role {role}", offered.version, reached.version)
        # A role that is not in this set keeps its mark for the day it comes back.
        return view, {**highest, **roles}

    def _hold(self, files: Mapping[str, bytes], roles: Mapping[str, Highest]) -> None:
        numbers = numbers_in(self._trust)
        number = numbers[-1] + 1 if numbers else 1
        index = _Index(roles=dict(roles), files={n: _sha256(c) for n, c in files.items()})
        marks = _Marks(factory_root=_sha256(self.factory_root), roles=dict(roles))
        replace_durably(self._trust / _HIGHEST, _framed(marks))
        new = self._trust / f"new-{number}"
        with disk_errors("keeping trust metadata"):
            shutil.rmtree(new, ignore_errors=True)  # half-written when the power failed
            try:
                _write_directory(new, {**files, _INDEX: _framed(index)})
                new.replace(self._trust / str(number))
            except OSError:
                shutil.rmtree(new, ignore_errors=True)
                raise
            fsync_directory(self._trust)
            fsync_directory(self._data_dir)  # the name "trust" itself, the first time

    def _remove_all_but_newest(self) -> None:
        """Older sets, and scratch directories of a process that was killed."""
        newest = str(numbers_in(self._trust)[-1])
        for path in self._trust.iterdir():
            if path.is_dir() and path.name != newest:
                shutil.rmtree(path, ignore_errors=True)

    # --- manifests -----------------------------------------------------------------------------

    def keep_manifest(self, counter: int, bundle: bytes) -> None:
        """
        Raises:
            DiskFull, DiskFailing
        """
        self.manifests.keep(counter, bundle)

    def newest_manifest(self) -> bytes | None:
        return self.manifests.newest()


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """An empty directory, gone afterwards."""
    with (
        disk_errors("checking trust metadata"),
        tempfile.TemporaryDirectory(prefix="scratch-", dir=parent) as name,
    ):
        yield Path(name)


def _write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    directory.mkdir(mode=0o700)
    folders = {directory}
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        folders.add(path.parent)
        write_new_durably(path, content, mode=0o600)
    for folder in folders:
        fsync_directory(folder)


def _framed(content: BaseModel) -> bytes:
    body = content.model_dump_json().encode()
    return _sha256(body).encode() + b"\n" + body


def _unframed(content: bytes) -> bytes:
    """Raises ValueError: its checksum does not hold."""
    digest, _, body = content.partition(b"\n")
    if digest != _sha256(body).encode():
        raise ValueError("a checksum does not hold")
    return body


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _damaged(problem: str) -> TrustRefused:
    return TrustRefused(
        f"The trust metadata on this device is damaged: {problem[:200]}.",
        next_step="nothing, if the next manifest repairs it; otherwise look at the disk.",
    )
