"""A real controller, and a real site behind a cable: broker and cache from its kit, and agents."""

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mailboat_controller.broker.embedded import find_mosquitto
from mailboat_controller.cli.demo import run_here
from mailboat_controller.demo.fleet import FLEET, PIPELINE, Device, Fleet, until
from mailboat_controller.demo.models import CLASSES, MODEL_NAME
from mailboat_controller.demo.narrator import Narrator
from mailboat_controller.demo.processes import Process, program
from real_fleet import RealFleet
from site_cache import NGINX
from site_network import CENTRE_NAME, SiteNetwork
from unused_port import unused_port

SITE = "harbour"
BROKER_PORT, CACHE_PORT = 8883, 8444
LINK_SECONDS_MAX = 240  # for a bridge to come back: it waits for up to a minute between its tries
# Everything quicker than in the field.
_AGENT_SETTINGS = {
    "telemetry_window_seconds": 2,
    "reconnect_seconds_min": 0.2,
    "reconnect_seconds_max": 2,
    "manifest_poll_seconds": 5,
    "keepalive_seconds": 5,
    "report_seconds_min": 0.2,
}
_NGINX = """\
user root;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log info;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {kit}/site-cache.conf;
}}
"""


class SiteFleet(Fleet):
    """All devices are at the site; the controller is at the cable's other end."""

    def __init__(self, directory: Path, network: SiteNetwork) -> None:
        narrator = Narrator(io.StringIO(), started=time.monotonic())
        super().__init__(
            directory, narrator, run_here, devices_per_class=1, choose_port=unused_port
        )
        self.network = network
        self.kit, self.site_data = directory / "site", directory / "site-data"
        logs = directory / "logs"
        self.broker = Process(
            "site-broker",
            network.at_site(str(find_mosquitto()), "-c", str(self.kit / "mosquitto.conf")),
            logs / "site-broker.log",
        )
        self.cache = Process(
            "site-cache",
            network.at_site(str(NGINX), "-c", str(self.site_data / "nginx.conf")),
            logs / "site-cache.log",
        )

    @property
    def as_operator(self) -> tuple[str, str]:
        return self._as_operator

    def prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.command("trust", "init", str(self.trust), "--model", MODEL_NAME)
        self.command(
            *("init", "--fleet", FLEET, "--data-dir", str(self.data)),
            *("--trust", str(self.trust / "controller"), "--public-host", CENTRE_NAME),
            *("--listen-port", str(self.api_port), "--mqtt-port", str(self.mqtt_port)),
        )
        config = self.data / "controller.toml"
        own = f'server_names = ["localhost", "127.0.0.1", "{self.network.centre}"]\n'
        text = config.read_text().replace(
            'listen_host = "127.0.0.1"', f'listen_host = "{self.network.centre}"'
        )
        config.write_text(own + f'mqtt_host = "{self.network.centre}"\n' + text)
        self._here(self.operator)
        out = ("--out", str(self.ci.parent))
        self.command("credential", "issue", PIPELINE, "--kind", "ci", *out, "--config", str(config))
        self._here(self.ci)
        self.start_controller()
        for name in CLASSES:
            path = self.directory / f"{name}.yaml"
            path.write_text(
                "apiVersion: mailboat/v1\nkind: HardwareClass\n"
                f"metadata: {{name: {name}, description: site}}\n"
                "spec: {arch: x86_64, memory_budget: 512MiB, disk_budget: 1GiB}\n"
            )
            self.command("class", "apply", "-f", str(path), *self._as_operator)
        self._set_up_site(config)
        for name in CLASSES:
            self._enrol_at_site(name)
        for device in self.devices.values():
            device.process.start()

    def stop(self) -> None:
        super().stop()
        self.broker.stop()
        self.cache.stop()

    def site(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/sites/{SITE}")
        return found

    def wait_for_link(self, link: str) -> None:
        until(f"the site is {link}", lambda: self.site()["link"] == link, LINK_SECONDS_MAX)

    def refresh(self) -> subprocess.CompletedProcess[bytes]:
        """What the site's timer runs every minute."""
        reload = f"kill -HUP $(cat {self.site_data}/mosquitto.pid)"
        return subprocess.run(
            self.network.at_site(str(self.kit / "refresh")),
            env={**os.environ, "SITE_RELOAD": reload},
            capture_output=True,
            timeout=120,
            check=False,
        )

    def as_approver(self) -> tuple[str, str]:
        flag, path = super().as_approver()
        self._here(Path(path))
        return flag, path

    def _here(self, connection: Path) -> None:
        """The centre's name is known at the site alone; here it is an address."""
        connection.write_text(connection.read_text().replace(CENTRE_NAME, self.network.centre))

    def _set_up_site(self, config: Path) -> None:
        cache = ("--cache-url", f"https://localhost:{CACHE_PORT}") if NGINX else ()
        self.command(
            *("site", "add", SITE, "--broker-host", "localhost", "--policy", "normal"),
            *("--broker-port", str(BROKER_PORT), *cache, *self._as_operator),
        )
        packed = self.directory / "site.tar"
        self.command(
            *("site", "kit", SITE, "--out", str(packed), "--config", str(config)),
            *("--install-dir", str(self.kit), "--data-dir", str(self.site_data)),
            *("--user", "root", "--listen", "127.0.0.1"),
        )
        self.kit.mkdir()
        self.site_data.mkdir()
        with tarfile.open(packed) as archive:
            for entry in archive.getmembers():
                entry.name = entry.name.partition("/")[2]
                archive.extract(entry, self.kit, filter="data")
        self.broker.start()
        if NGINX:
            (self.site_data / "nginx.conf").write_text(
                _NGINX.format(directory=self.site_data, kit=self.kit)
            )
            self.cache.start()

    def _enrol_at_site(self, hardware_class: str) -> None:
        kit = self.directory / f"kit-{hardware_class}.json"
        self.command(
            *("device", "enroll-token", "--class", hardware_class, "--out", str(kit)),
            *("--site", SITE, *self._as_operator),
        )
        name = f"{hardware_class.partition('-')[0]}-1"
        directory = self.directory / "devices" / name
        directory.mkdir(parents=True)
        config = directory / "agent.toml"
        enrol = ("enroll", "--kit", str(kit), "--device", name, "--config", str(config))
        done = subprocess.run(
            self.network.at_site(program("mailboat-agent"), *enrol),
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        hurry = "".join(f"{key} = {value}\n" for key, value in _AGENT_SETTINGS.items())
        config.write_text(hurry + config.read_text())
        run = self.network.at_site(program("mailboat-agent"), "run", "--config", str(config))
        self.devices[name] = Device(
            name=name,
            hardware_class=hardware_class,
            directory=directory,
            link=self.wires.link(),  # unused: all of them share the cable
            process=Process(name, run, self.directory / "logs" / f"{name}.log"),
        )


class SiteStory(RealFleet):
    """A `RealFleet` whose fleet is at a site."""

    def __init__(self, fleet: SiteFleet) -> None:
        super().__init__(fleet)
        self.site_fleet = fleet
        self.soak_seconds = 0.5

    def source(self, version: str) -> Path:
        path = super().source(version)
        content = yaml.safe_load(path.read_text())
        for variant in content["spec"]["variants"]:
            variant["health"]["soak"] |= {"seconds": self.soak_seconds}
        path.write_text(yaml.safe_dump(content))
        return path


@contextmanager
def running_site(directory: Path, network: SiteNetwork) -> Iterator[SiteStory]:
    fleet = SiteFleet(directory, network)
    with fleet.wires:
        try:
            fleet.prepare()
            yield SiteStory(fleet)
        finally:
            network.heal()
            fleet.stop()
