"""Exported files for tests, written by the real export from a fleet in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mailboat_agent.config import AgentConfig
from mailboat_controller.byte_stream import OpenAt
from mailboat_controller.transfer.export import write_carrier
from mailboat_controller.transfer.selection import Wanted, contents_of
from mailboat_schemas.carrier import Contents
from mailboat_schemas.codec import encode
from mailboat_schemas.desired import FreshTimestamp
from model_fleet import ModelFleet
from trust_fleet import CLASS, FLEET


def timestamp_of(fleet: ModelFleet, hardware_class: str = CLASS) -> bytes:
    role = fleet.roles["timestamp"]
    return encode(FreshTimestamp(fleet=FLEET, hardware_class=hardware_class, timestamp=role))


def opened_from(artifacts: dict[str, bytes]) -> Callable[[str], OpenAt]:
    """As a server that resumes gives them."""

    def open_artifact(digest: str) -> OpenAt:
        @contextmanager
        def open_at(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
            yield offset, iter([artifacts[digest][offset:]])

        return open_at

    return open_artifact


def export(
    path: Path,
    fleet: ModelFleet,
    bundle: bytes,
    *,
    wanted: Wanted | None = None,
    timestamp: bytes | None = None,
    artifacts: dict[str, bytes] | None = None,
) -> Contents:
    """What `mailboat release export` would write of this bundle."""
    timestamp = timestamp or timestamp_of(fleet)
    contents = contents_of(bundle, timestamp, wanted or Wanted())
    write_carrier(
        path,
        contents,
        manifest=bundle,
        timestamp=timestamp,
        open_artifact=opened_from(fleet.artifacts if artifacts is None else artifacts),
        on_progress=lambda _bytes: None,
    )
    return contents


def config_of(data_dir: Path, fleet: ModelFleet, **changes: object) -> AgentConfig:
    """Of a device of this fleet that is never connected."""
    root = data_dir.parent / "trust-root.json"
    root.write_bytes(fleet.factory_root)
    settings: dict[str, object] = {
        "fleet": FLEET,
        "device": "kiosk-1",
        "hardware_class": CLASS,
        "data_dir": data_dir,
        "api_url": "https://controller.example",
        "mqtt_host": "broker.example",
        "mqtt_port": 8883,
        "ca": root,
        "certificate": root,
        "key": root,
        "trust_root": root,
    }
    return AgentConfig.model_validate(settings | changes)
