"""The demo's fleet: a controller with a real broker, and six agents, as real processes.

Everything goes through the commands a person would type; what they print is kept in the data
directory. Devices reach the centre through links that the story can cut.
"""

import json
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailboat_controller.client import ApiClient
from mailboat_controller.demo.link import Link, Wires
from mailboat_controller.demo.models import CLASSES, MODEL_NAME
from mailboat_controller.demo.narrator import Narrator, StepFailed
from mailboat_controller.demo.processes import Process, program
from mailboat_schemas.errors import MailboatError, Transient

FLEET = "demo"
PIPELINE = "vision"
APPROVER = "paula"
DEVICES_PER_CLASS = 3
COMMAND_SECONDS_MAX = 60
READY_SECONDS_MAX = 30
_POLL_SECONDS = 0.1
_LOG_TAIL_CHARS = 1500

# Everything quicker than in the field: a newcomer watches.
_AGENT_SETTINGS = {
    "telemetry_window_seconds": 2,
    "reconnect_seconds_min": 0.2,
    "reconnect_seconds_max": 2,
    "manifest_poll_seconds": 5,
    "keepalive_seconds": 5,
    "report_seconds_min": 0.2,
}
_CLASS_DOCUMENT = """\
apiVersion: mailboat/v1
kind: HardwareClass
metadata: {{name: {name}, description: demo}}
spec:
  arch: x86_64
  memory_budget: 512MiB
  disk_budget: 1GiB
"""


# The words of a command to its exit status, standard output and standard error.
RunCommand = Callable[[Sequence[str]], tuple[int, str, str]]


@dataclass
class Device:
    """One agent: its process, its own directory, its link to the centre."""

    name: str
    hardware_class: str
    directory: Path
    link: Link
    process: Process

    @property
    def config(self) -> Path:
        return self.directory / "agent.toml"

    def read(self, name: str) -> dict[str, Any]:
        """A file the agent keeps for people: ``status.json`` or ``serving.json``."""
        try:
            content: dict[str, Any] = json.loads((self.directory / "data" / name).read_text())
        except (OSError, ValueError):
            return {}
        return content

    def model(self) -> dict[str, Any]:
        """What the agent's own status says of the demo's model, network or not."""
        models = self.read("status.json").get("report", {}).get("models", [])
        return next((dict(each) for each in models if each["model"] == MODEL_NAME), {})

    @property
    def events_unconfirmed(self) -> int | None:
        """Events in the outbox that the controller has not confirmed; None when unknown."""
        count = self.read("status.json").get("unconfirmed", {}).get("events")
        return count if isinstance(count, int) else None

    @property
    def serving_port(self) -> int | None:
        port = self.read("serving.json").get("port")
        return port if isinstance(port, int) else None


class Fleet:
    """Sets up, starts and stops everything below one directory."""

    def __init__(
        self,
        directory: Path,
        narrator: Narrator,
        run_command: RunCommand,
        *,
        devices_per_class: int = DEVICES_PER_CLASS,
        rings: Mapping[str, int] | None = None,
        choose_port: Callable[[], int] | None = None,
    ) -> None:
        """``rings`` are devices of each class by the value of their label ``ring``; None: all of
        them without one. ``choose_port`` names one that nobody has; None: the kernel does.

        ``run_command`` runs the words of a ``mailboat`` command and returns status and output.

        It is the very code of the command line, in this process: starting Python anew for each of
        some thirty commands would be most of the demo's time on a small machine.
        """
        self.directory = directory
        self._run_command = run_command
        self.devices_per_class = sum(rings.values()) if rings else devices_per_class
        self._rings = rings or {"": devices_per_class}
        self._narrator = narrator
        choose_port = choose_port or free_port
        self.api_port, self.mqtt_port = choose_port(), choose_port()
        self.wires = Wires(mqtt_port=self.mqtt_port, api_port=self.api_port)
        self.devices: dict[str, Device] = {}
        self.controller = Process(
            "controller",
            [program("mailboat"), "serve", "--config", str(self.data / "controller.toml")],
            directory / "logs" / "controller.log",
        )

    @property
    def data(self) -> Path:
        return self.directory / "controller"

    @property
    def trust(self) -> Path:
        return self.directory / "trust"

    @property
    def operator(self) -> Path:
        return self.data / "connections" / "operator" / "connection.toml"

    @property
    def _as_operator(self) -> tuple[str, str]:
        return ("--connection", str(self.operator))

    @property
    def ci(self) -> Path:
        return self.directory / "ci" / "connection.toml"

    def command(self, *words: str, ok: Iterable[int] = (0,)) -> dict[str, Any]:
        """Run ``mailboat …`` as a person would; returns what it printed as JSON.

        Raises:
            StepFailed: it ended with another status than those in ``ok``.
        """
        shown = (word.replace(f"{self.directory}/", "") for word in words)
        self._narrator.command("mailboat " + shlex.join(shown))
        status, printed, problem = self._run_command([*words, "--json"])
        if status not in set(ok):
            raise StepFailed(
                f"`mailboat {shlex.join(words)}` ended with {status}: {problem[-_LOG_TAIL_CHARS:]}"
            )
        try:
            content = json.loads(printed)
        except ValueError:
            content = {}
        return content if isinstance(content, dict) else {"rows": content}

    def prepare(self) -> None:
        """Trust, controller, classes, credentials, enrolment; then everybody starts."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.command("trust", "init", str(self.trust), "--model", MODEL_NAME)
        self.command(
            *("init", "--fleet", FLEET, "--data-dir", str(self.data)),
            *("--trust", str(self.trust / "controller")),
            *("--listen-port", str(self.api_port), "--mqtt-port", str(self.mqtt_port)),
        )
        config = ("--config", str(self.data / "controller.toml"))
        out = ("--out", str(self.ci.parent))
        self.command("credential", "issue", PIPELINE, "--kind", "ci", *out, *config)
        self.start_controller()
        for name in CLASSES:
            path = self.directory / f"{name}.yaml"
            path.write_text(_CLASS_DOCUMENT.format(name=name))
            self.command("class", "apply", "-f", str(path), *self._as_operator)
            for ring, count in self._rings.items():
                self._enrol(name, ring, count)
        for device in self.devices.values():
            device.process.start()

    def as_approver(self) -> tuple[str, str]:
        """The approver's connection, whose token is issued when it is first needed."""
        out = self.directory / APPROVER
        if not out.exists():
            self.command(
                *("token", "issue", APPROVER, "--role", "approver", "--out", str(out)),
                *("--config", str(self.data / "controller.toml")),
            )
        return ("--connection", str(out / "connection.toml"))

    def start_controller(self) -> None:
        (self.data / "serving.json").unlink(missing_ok=True)
        self.controller.start()

        def ready() -> bool:
            if not self.controller.running:
                raise StepFailed(
                    f"The controller ended: {self.controller.log_tail()[-_LOG_TAIL_CHARS:]}"
                )
            return (self.data / "serving.json").exists()

        until("the controller is ready", ready, READY_SECONDS_MAX)

    def _enrol(self, name: str, ring: str, count: int) -> None:
        kit_path = self.directory / f"kit-{name}{ring and '-'}{ring}.json"
        uses = ("--uses", str(max(1, count)))
        label = ("--label", f"ring={ring}") if ring else ()
        self.command(
            *("device", "enroll-token", "--class", name, "--out", str(kit_path), *uses, *label),
            *self._as_operator,
        )
        kit = json.loads(kit_path.read_text())
        self._narrator.command(f"mailboat-agent enroll --kit {kit_path.name} …   (on each device)")
        family = name.partition("-")[0]
        taken = sum(each.hardware_class == name for each in self.devices.values())
        running = []
        for number in range(taken + 1, taken + count + 1):
            device = self._device(f"{family}-{number}", name)
            # The same kit, but this device's way to the centre is its own link.
            own = {
                **kit,
                "api_url": f"https://127.0.0.1:{device.link.api_port}",
                "mqtt_host": "127.0.0.1",
                "mqtt_port": device.link.mqtt_port,
            }
            own_kit = device.directory / "kit.json"
            own_kit.write_text(json.dumps(own))
            words = ["enroll", "--kit", str(own_kit), "--device", device.name]
            words += ["--config", str(device.config)]
            running.append(
                (
                    device,
                    own_kit,
                    subprocess.Popen(
                        [program("mailboat-agent"), *words],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,
                    ),
                )
            )
        for device, own_kit, child in running:
            _, problem = child.communicate(timeout=COMMAND_SECONDS_MAX)
            own_kit.unlink()  # it holds the token
            if child.returncode != 0:
                raise StepFailed(f"{device.name} could not enrol: {problem.decode()[-1000:]}")
            hurry = "".join(f"{key} = {value}\n" for key, value in _AGENT_SETTINGS.items())
            device.config.write_text(hurry + device.config.read_text())

    def _device(self, name: str, hardware_class: str) -> Device:
        directory = self.directory / "devices" / name
        directory.mkdir(parents=True)
        device = Device(
            name=name,
            hardware_class=hardware_class,
            directory=directory,
            link=self.wires.link(),
            process=Process(
                name,
                [program("mailboat-agent"), "run", "--config", str(directory / "agent.toml")],
                self.directory / "logs" / f"{name}.log",
            ),
        )
        self.devices[name] = device
        return device

    def get(self, path: str, **parameters: Any) -> Any:
        """What the controller's API says, as the operator."""
        with ApiClient.open(self.operator) as api:
            return api.get(path, **parameters)

    def events(self, device: str) -> list[dict[str, Any]]:
        """Every event the controller has of a device, in the order in which it stored them."""
        with ApiClient.open(self.operator) as api:
            return list(api.pages(f"/v1/devices/{device}/events", "id"))

    def serving_ports(self) -> dict[str, int]:
        ports = {name: device.serving_port for name, device in self.devices.items()}
        return {name: port for name, port in ports.items() if port}

    def stop(self) -> None:
        """Agents first, all at once; the controller stops its broker last."""
        for device in self.devices.values():
            device.process.ask_to_stop()
        for device in self.devices.values():
            device.process.stop()
        self.controller.stop()


def until(what: str, holds: Callable[[], object], seconds: float) -> None:
    """Wait until something holds; a server that is away for a moment is waited for too.

    Raises:
        StepFailed: it did not hold in time.
    """
    deadline = time.monotonic() + seconds
    problem = ""
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except Transient as error:
            problem = f" ({error.what})"
        except MailboatError as error:
            raise StepFailed(f"Waiting until {what}: {error}") from error
        time.sleep(_POLL_SECONDS)
    raise StepFailed(f"Waited {seconds:.0f} s until {what}, in vain.{problem}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
