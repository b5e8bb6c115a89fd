"""What this device would say to a carried manifest, asked before anything is copied.

The real checks on a copy of what the device has accepted: a person who stands beside it hears at
once what is wrong, and nothing is decided here. The agent asks the same questions again.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.assembly import read_trust_root
from mailboat_agent.atomic_file import disk_errors
from mailboat_agent.carrier.newest import with_newest_timestamp
from mailboat_agent.config import AgentConfig
from mailboat_agent.state_file import StateFile
from mailboat_agent.trust.manifest import Counter, Manifest
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_agent.update.state import DeviceState
from mailboat_agent.update.time_floor import stands_before, time_floor
from mailboat_schemas.carrier import Contents
from mailboat_schemas.desired import ReleaseRef
from mailboat_schemas.errors import (
    ClockUntrusted,
    MailboatError,
    RollbackRefused,
    TrustStale,
    WrongClass,
    WrongFleet,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A release that the device may be told to run, and its files: bytes by digest."""

    model: str
    version: str
    digest: str
    files: dict[str, int]
    content_keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Preview:
    """``manifest`` is what to hand to the agent: the carried one, or, if that is older, the one
    that the device has, whose files may all the same have been carried here."""

    manifest: bytes
    is_older: bool
    asked: tuple[Asked, ...]

    @property
    def files(self) -> dict[str, int]:
        return {digest: length for each in self.asked for digest, length in each.files.items()}


def refuse_others(contents: Contents, config: AgentConfig) -> None:
    """
    Raises:
        WrongFleet, WrongClass: said by the table of contents; the signatures say it again.
    """
    if contents.fleet != config.fleet:
        raise WrongFleet(
            f"The file is for fleet {contents.fleet}, this device belongs to {config.fleet}.",
            next_step="take the file that was exported for this fleet.",
        )
    if contents.hardware_class != config.hardware_class:
        raise WrongClass(
            f"The file is for devices of class {contents.hardware_class}, this one is of class "
            f"{config.hardware_class}.",
            next_step="take the file that was exported with "
            f"`mailboat release export --class {config.hardware_class}`.",
        )


def preview(config: AgentConfig, manifest: bytes, timestamp: bytes, now: datetime) -> Preview:
    """
    Raises:
        ClockUntrusted: python-tuf reads the wall clock, so it is not asked before that is right.
        TrustStale: the file was exported too long ago.
        TrustRefused, MalformedPayload: it does not hold.
    """
    state = StateFile(config.data_dir).load()
    floor = time_floor((), state.time_floor)
    if stands_before(now, floor):
        raise ClockUntrusted(
            f"This device's clock says {now:%Y-%m-%d %H:%M}, which is before "
            f"{datetime.fromtimestamp(floor, UTC):%Y-%m-%d %H:%M}, the last that is known.",
            next_step="set the device's clock, then import again; it serves on meanwhile.",
        )
    with copy_of_what_is_held(config, state) as held:
        own = held.trust.newest_manifest()
        try:
            _take(held, manifest, timestamp, state)
        except RollbackRefused:
            asked = tuple(_asked(held.manifest, config))
            if own is None or not asked:
                raise
            return Preview(own, is_older=True, asked=asked)
        return Preview(manifest, is_older=False, asked=tuple(_asked(held.manifest, config)))


@dataclass(frozen=True, slots=True)
class Held:
    """A copy of what the device has accepted; ``store`` holds documents alone."""

    trust: TrustStore
    manifest: Manifest
    store: ReleaseStore


@contextmanager
def copy_of_what_is_held(config: AgentConfig, state: DeviceState) -> Iterator[Held]:
    """The agent may replace its own while it is copied: what is half copied counts as absent."""
    with (
        disk_errors("looking at a copy of what this device knows"),
        tempfile.TemporaryDirectory(prefix="mailboat-import-") as name,
    ):
        directory = Path(name)
        for part in ("trust", "manifests"):
            with suppress(OSError, shutil.Error):
                shutil.copytree(config.data_dir / part, directory / part, symlinks=True)
        trust = TrustStore(directory, read_trust_root(config))
        store = ReleaseStore(directory)
        manifest = Manifest(
            trust=trust,
            store=store,
            fleet=config.fleet,
            hardware_class=config.hardware_class,
        )
        manifest.open(state.models, Counter(state.manifest_counter, state.director_keyid))
        yield Held(trust, manifest, store)


def _take(held: Held, manifest: bytes, timestamp: bytes, state: DeviceState) -> None:
    with suppress(MailboatError):  # it goes with the manifest that comes next, or with none
        held.manifest.take_fresh(with_newest_timestamp(held.trust, timestamp), state.models)
    counter = Counter(state.manifest_counter, state.director_keyid)
    try:
        held.manifest.take(manifest, state.models, counter)
    except TrustStale as error:
        raise TrustStale(
            f"The file was exported too long ago: {error.what}",
            next_step="check the device's clock; if it is right, export the file again and bring "
            "the new one. The device serves on.",
        ) from error


def _asked(manifest: Manifest, config: AgentConfig) -> Iterator[Asked]:
    """What `ModelView.named_releases` would name of the assignments."""
    if manifest.desired is None:
        return
    for assignment in manifest.desired.assignments:
        offered = None if assignment.offer is None else assignment.offer.release
        refs = [ref for ref in (assignment.current, offered) if ref is not None]
        fallbacks = [manifest.fallback_of(assignment.model, ref.digest) for ref in refs]
        named: dict[str, ReleaseRef] = {
            ref.digest: ref for ref in [*refs, *fallbacks] if ref is not None
        }
        for digest, ref in named.items():
            document = manifest.document(digest)
            variant = None if document is None else document.variant_for(config.hardware_class)
            if variant is None or not manifest.may_serve(assignment.model, ref.version, digest):
                continue
            yield Asked(
                model=assignment.model,
                version=ref.version,
                digest=digest,
                files=variant.artifacts,
                content_keys=variant.content_keys,
            )
