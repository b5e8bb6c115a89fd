"""What became of each alias, on disk: so that nothing is done twice, and failures are spaced.

The releases themselves are in the controller; were this file lost, each would be found there again.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from mailboat_controller.durable_file import replace_durably
from mailboat_schemas.errors import ConfigurationInvalid, Conflict

FILE = "seen.json"
LOCK = "lock"
BACKOFF_MAX = timedelta(hours=1)
DOUBLINGS_MAX = 10
FILE_BYTES_MAX = 1 << 20


class State(StrEnum):
    SUBMITTED = "submitted"
    REFUSED = "refused"  # for good: by what it is
    FAILED = "failed"  # it is tried again


class Sighting(BaseModel):
    """The newest version that an alias named. ``fingerprint`` is of the mapping it was taken by:
    whoever mends that has a refused version tried again."""

    version: str
    run_id: str = ""
    fingerprint: str
    state: State
    release: str = ""
    digest: str = ""
    problem: str = ""
    next_step: str = ""
    failures: int = Field(default=0, ge=0)
    retry_at: AwareDatetime | None = None


class Seen(BaseModel):
    notices_after: int = Field(default=0, ge=0)
    aliases: Mapping[str, Sighting] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be done about what an alias names."""

    take: bool
    because: str


def decide(
    before: Sighting | None,
    version: str | None,
    fingerprint: str,
    now: datetime,
    run_id: str = "",
) -> Look:
    """Pure. ``version`` is MLflow's number, None where nothing has the alias: releases are not
    withdrawn for that, a person does so. Numbers come again when a model is deleted and registered
    anew; runs do not."""
    if version is None:
        return Look(take=False, because="no version has this alias")
    if before is None or (before.version, before.run_id) != (version, run_id):
        return Look(take=True, because="it is new")
    if before.state is State.SUBMITTED:
        return Look(take=False, because="it was submitted")
    if before.fingerprint != fingerprint:
        return Look(take=True, because="the mapping has changed")
    if before.state is State.REFUSED:
        return Look(take=False, because="it was refused")
    if before.retry_at is not None and now < before.retry_at:
        return Look(take=False, because=f"it is tried again at {before.retry_at.isoformat()}")
    return Look(take=True, because="it is tried again")


def failed(before: Sighting | None, sighting: Sighting, base: timedelta, now: datetime) -> Sighting:
    """The next try comes after ``base``, doubled with each failure of this version."""
    again = before is not None and before.version == sighting.version
    failures = (before.failures if before is not None and again else 0) + 1
    wait = min(base * (1 << min(failures - 1, DOUBLINGS_MAX)), BACKOFF_MAX)
    return sighting.model_copy(
        update={"state": State.FAILED, "failures": failures, "retry_at": now + wait}
    )


class SeenFile:
    """One process at a time; use `opened`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self.seen = self._read()

    def put(self, key: str, sighting: Sighting) -> None:
        self._write(self.seen.model_copy(update={"aliases": {**self.seen.aliases, key: sighting}}))

    def put_notices_after(self, number: int) -> None:
        if number != self.seen.notices_after:
            self._write(self.seen.model_copy(update={"notices_after": number}))

    def _write(self, seen: Seen) -> None:
        replace_durably(self._path, seen.model_dump_json(indent=1).encode())
        self.seen = seen

    def _read(self) -> Seen:
        try:
            with self._path.open("rb") as file:
                content = file.read(FILE_BYTES_MAX)
        except FileNotFoundError:
            return Seen()
        except OSError as error:
            raise _unusable(self._path, str(error.strerror)) from error
        try:
            return Seen.model_validate_json(content)
        except ValidationError:
            return Seen()  # what was submitted is found again at the controller


@contextmanager
def opened(directory: Path) -> Iterator[SeenFile]:
    """
    Raises:
        Conflict: another process has it. ConfigurationInvalid: it cannot be used.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(directory, str(error.strerror)) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Conflict(
                f"Another `mailboat mlflow poll` works in {directory}.",
                next_step="end that one, or name another directory with --state.",
            ) from error
        yield SeenFile(directory)
    finally:
        os.close(lock)


def _unusable(path: Path, problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"{path} cannot be used: {problem}.", next_step="name another directory with --state."
    )
