"""What an agent starts with, when a renewal of its certificate was cut at the worst moment."""

import secrets
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mailboat_agent.artifacts.wrapped_keys import WrappedKeys
from mailboat_agent.config import AgentConfig
from mailboat_agent.identity.credentials import Credentials
from mailboat_agent.identity.device_key import (
    certificate_request,
    confirmed_of,
    key_der,
    make_key,
    successor_of,
)
from mailboat_schemas.content_key import (
    WrappedContentKey,
    content_key_id,
    device_key_id,
    wrap_to_device,
)
from mailboat_schemas.errors import ConfigurationInvalid
from model_fleet import DEVICE, Certificates
from small_disk import run_on_small_disk
from trust_fleet import CLASS, FLEET

SUPPORT = Path(__file__).parent.parent / "support"
HERE = Path(__file__).parent


class Cut:
    """A device whose new certificate is confirmed, so that only the new key counts, and not yet
    taken. Two content keys are wrapped to the old key."""

    def __init__(self, directory: Path, elsewhere: Path) -> None:
        certificates = Certificates(elsewhere / "pki")
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.key, self.certificate = directory / "device.key", directory / "device.pem"
        self.config = AgentConfig(
            fleet=FLEET,
            device=DEVICE,
            hardware_class=CLASS,
            data_dir=directory,
            api_url="https://localhost:1",
            mqtt_host="localhost",
            mqtt_port=1,
            ca=certificates.ca_path,
            certificate=self.certificate,
            key=self.key,
            trust_root=elsewhere / "root.json",
        )
        self.old, self.new = make_key(self.key), make_key(successor_of(self.key))
        for key, path in (
            (self.old, self.certificate),
            (self.new, confirmed_of(self.certificate)),
        ):
            request = certificate_request(key, DEVICE, FLEET)
            path.write_bytes(certificates.sign_request(request, DEVICE))
        self.content_keys = sorted((secrets.token_bytes(32) for _ in range(2)), key=content_key_id)
        for content_key in self.content_keys:
            self.wrap(content_key, self.old)

    def wrap(self, content_key: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        to, key_id = key.public_key(), content_key_id(content_key)
        wrapped = wrap_to_device(content_key, to, fleet=FLEET, device=DEVICE)
        keys = WrappedKeys(self.directory)
        keys.put(WrappedContentKey.of(key_id, device_key_id(to), wrapped))

    def start(self) -> Credentials:
        return Credentials(self.config, WrappedKeys(self.directory), now=datetime.now(UTC))

    def opens(self, credentials: Credentials) -> bool:
        opened = [credentials.content_keys.open(content_key_id(key)) for key in self.content_keys]
        return opened == self.content_keys


def test_a_disk_that_refuses_keeps_no_agent_from_starting(tmp_path: Path) -> None:
    """And no content key is thrown away because it is the next key's already."""
    device = Cut(tmp_path / "data", tmp_path)
    first, second = (content_key_id(key) for key in device.content_keys)
    device.wrap(device.content_keys[0], device.new)  # so far the exchange had come
    obstacle = device.directory / "content-keys" / f"{second}.new"
    obstacle.symlink_to("elsewhere")  # what is written there first; a link is not followed

    credentials = device.start()
    assert key_der(credentials.identity.key) == key_der(device.old)
    assert device.opens(credentials)
    assert WrappedKeys(device.directory).ids() >= {first, second}

    obstacle.unlink(missing_ok=True)
    credentials = device.start()
    assert key_der(credentials.identity.key) == key_der(device.new)
    assert device.opens(credentials)
    assert not successor_of(device.key).exists()


def test_a_damaged_key_that_waits_keeps_no_agent_from_starting(tmp_path: Path) -> None:
    device = Cut(tmp_path / "data", tmp_path)
    successor_of(device.key).write_bytes(bytes(200))

    credentials = device.start()
    assert key_der(credentials.identity.key) == key_der(device.old)
    assert device.opens(credentials)


def test_a_damaged_key_of_its_own_does(tmp_path: Path) -> None:
    device = Cut(tmp_path / "data", tmp_path)
    confirmed_of(device.certificate).unlink()
    device.key.write_bytes(bytes(200))

    with pytest.raises(ConfigurationInvalid, match="no private key"):
        device.start()


@pytest.mark.slow
def test_a_full_disk_gives_up_its_ballast_for_the_exchange(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_on_small_disk(
        tmp_path / "disk",
        4 << 20,
        f"""
        import sys
        sys.path[:0] = [{str(SUPPORT)!r}, {str(HERE)!r}]
        from mailboat_agent.ballast import ballast_bytes, restore_ballast
        from mailboat_agent.identity.device_key import key_der
        from test_credentials import Cut

        device = Cut(DISK, pathlib.Path({str(elsewhere)!r}))
        restore_ballast(DISK)
        fill()
        credentials = device.start()
        assert key_der(credentials.identity.key) == key_der(device.new)
        assert device.opens(credentials)
        assert ballast_bytes(DISK) == 0
        (DISK / "filler").unlink()
        """,
    )


@pytest.mark.slow
def test_a_full_disk_without_ballast_goes_on_with_the_key_it_has(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_on_small_disk(
        tmp_path / "disk",
        4 << 20,
        f"""
        import sys
        sys.path[:0] = [{str(SUPPORT)!r}, {str(HERE)!r}]
        from mailboat_agent.identity.device_key import key_der
        from test_credentials import Cut

        device = Cut(DISK, pathlib.Path({str(elsewhere)!r}))
        fill()
        credentials = device.start()
        assert key_der(credentials.identity.key) == key_der(device.old)
        assert device.opens(credentials)
        (DISK / "filler").unlink()
        credentials = device.start()
        assert key_der(credentials.identity.key) == key_der(device.new)
        assert device.opens(credentials)
        """,
    )
