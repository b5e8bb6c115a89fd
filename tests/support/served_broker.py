"""A mosquitto under `start-broker`, as docker-compose.yml runs it: as a process on this machine,
and in a container of the public image where a Docker engine is."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from broker_site import NOW, Site
from docker_engine import REPOSITORY, SERVICES, need_engine
from mailboat_controller.broker.embedded import fill_in, template_directory

START_BROKER = REPOSITORY / "controller" / "docker" / "start-broker"
IMAGE: str = SERVICES["broker"]["image"]
PORT = 8883  # in the container
WAIT_SECONDS_MAX = 60.0
POLL_SECONDS = 0.1
_IN_CONTAINER = ("/broker", "/broker-state")


class ServedBroker:
    """``files`` is where the controller's part would put the broker's files; ``state`` its own."""

    def __init__(self, directory: Path) -> None:
        self.site = Site(directory)
        self.files = directory / "config"
        self.state = directory / "state"
        self.files.mkdir()
        self.state.mkdir()
        self.log = directory / "log"
        self.log.touch()

    def put_files(self, *, config: str = "", state: str = "", port: int = 0) -> None:
        """Args: config, state: where the broker will see them, if not here."""
        within = config or str(self.files)
        authority = self.site.authority
        server = authority.server_files(["localhost", "127.0.0.1"], now=NOW)
        values = {
            "FLEET": "demo",
            "MQTT_HOST": "0.0.0.0" if config else "127.0.0.1",  # noqa: S104  of its container
            "MQTT_PORT": str(port or self.site.broker.port),
            "CA_FILE": f"{within}/ca.pem",
            "SERVER_CERTIFICATE": f"{within}/server.pem",
            "SERVER_KEY": f"{within}/server.key",
            "ACL_FILE": f"{within}/acl",
            "CRL_FILE": f"{within}/crl.pem",
            "DATA_DIR": f"{state or self.state}/",
            "RUN_AS": "root" if os.geteuid() == 0 else "mosquitto",
        }
        text = fill_in((template_directory() / "central.conf").read_text(), values)
        (self.files / "ca.pem").write_bytes(server.ca.read_bytes())
        (self.files / "server.pem").write_bytes(server.certificate.read_bytes())
        (self.files / "server.key").write_bytes(server.key.read_bytes())
        (self.files / "mosquitto.conf").write_text(text)
        self.put_rules()

    def put_rules(self) -> None:
        """What the controller has written, as `reload-broker` hands it over."""
        for name in ("acl", "crl.pem"):
            part = self.files / f"{name}.part"
            part.write_bytes((self.site.directory / "broker" / name).read_bytes())
            part.rename(self.files / name)

    def has_read(self) -> str:
        try:
            return (self.state / "loaded").read_text()
        except FileNotFoundError:
            return ""


@contextmanager
def as_process(broker: ServedBroker) -> Iterator["subprocess.Popen[bytes]"]:
    command = [str(START_BROKER), str(broker.files), str(broker.state)]
    # A group of its own: the shell and the broker under it end together.
    with broker.log.open("ab") as log:
        process = subprocess.Popen(command, start_new_session=True, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(WAIT_SECONDS_MAX)


@contextmanager
def in_container(broker: ServedBroker) -> Iterator[None]:
    """
    Raises:
        pytest.skip.Exception: there is no engine, or not the image.
    """
    need_engine(IMAGE)
    # What cleans up after a killed test run would be one more image to pull.
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
    from testcontainers.core.container import DockerContainer

    config, state = _IN_CONTAINER
    broker.put_files(config=config, state=state, port=PORT)
    (broker.files / "start-broker").write_bytes(START_BROKER.read_bytes())
    container = (
        DockerContainer(IMAGE, user=f"{os.geteuid()}:{os.getegid()}")
        .with_exposed_ports(PORT)
        .with_volume_mapping(str(broker.files), config, "ro")
        .with_volume_mapping(str(broker.state), state, "rw")
        .with_kwargs(entrypoint=["/bin/sh", f"{config}/start-broker", config, state])
    )
    with container:
        broker.site.broker.host = "127.0.0.1"
        broker.site.broker.port = int(container.get_exposed_port(PORT))
        yield


def until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS_MAX} s: {what}"
        time.sleep(POLL_SECONDS)
