"""An encrypted release, by the commands a pipeline uses, to real agents behind a real broker."""

from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.releases.build import read_build
from real_fleet import RealFleet, running_fleet

MARKER_BYTES = 64  # of the model's middle: long enough not to be there by chance


def everything_in(directory: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def publish_encrypted(running: RealFleet, name: str, version: str) -> Path:
    """Build with --encrypt, then sign, approve and submit as always."""
    fleet, source = running.fleet, running.source(version)
    build = fleet.directory / "builds" / name
    plain = running.publisher.build

    def encrypted(_letter: str, origin: Path) -> Any:
        fleet.command("release", "build", str(origin), "--out", str(build), "--encrypt")
        return read_build(build)

    running.publisher.build = encrypted  # type: ignore[method-assign]
    try:
        running.publisher.publish(name, source, waves="- percent: 100")
    finally:
        running.publisher.build = plain  # type: ignore[method-assign]
    return build


@pytest.mark.slow
def test_it_is_served_everywhere_and_lies_nowhere_in_the_clear(tmp_path: Path) -> None:
    with running_fleet(tmp_path, devices_per_class=1) as running:
        running.publish("plain", "1.0.0")
        running.wait_for("1.0.0")
        build = publish_encrypted(running, "secret", "1.1.0")
        running.wait_for("1.1.0")

        source = next((tmp_path / "sources").rglob("*.onnx"))
        marker = source.read_bytes()[source.stat().st_size // 2 :][:MARKER_BYTES]
        key = (build / "content-key").read_text().strip()
        document = read_build(build).document
        [key_id] = document.content_keys

        for device in running.devices.values():
            kept = everything_in(device.directory)
            assert bytes.fromhex(key) not in kept
            assert key.encode() not in kept
            assert [p.name for p in (device.directory / "data" / "content-keys").iterdir()] == [
                key_id
            ]
        assert key.encode() not in everything_in(build / "blobs") + everything_in(build / "roles")
        assert marker not in everything_in(build)
        [listed] = running.fleet.get("/v1/content-keys")
        assert (listed["content_key"], listed["devices"]) == (key_id, len(running.devices))
        given = [
            row for row in running.fleet.get("/v1/audit") if row["action"].endswith("key.give")
        ]
        assert {row["actor"] for row in given} == {f"device:{name}" for name in running.devices}
