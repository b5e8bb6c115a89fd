"""The embedded broker: the system's mosquitto as a child, with a configuration we generate.

Order of resolution: a configured broker (``embedded_broker = false``), else the system's mosquitto,
else an error that names the package. The configuration is the very file an operator copies,
``broker-config/mosquitto/central.conf``, with its placeholders filled in.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_controller.pki.issuing import TlsFiles
from mailboat_schemas.errors import ConfigurationInvalid, OperatorNeeded

# Debian keeps it in /usr/sbin, which is not on the PATH of ordinary users.
SEARCHED_BESIDE_PATH = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
START_SECONDS_MAX = 10
STOP_SECONDS_MAX = 10
_POLL_SECONDS = 0.02
_LOG_TAIL_BYTES = 2000
_PLACEHOLDER = re.compile(r"\$\{([A-Z_]+)\}")


class BrokerDied(OperatorNeeded):
    """The child ended, or never listened. The message carries the end of its log."""

    code = "E-BROKER"


def find_mosquitto() -> Path:
    """
    Raises:
        OperatorNeeded: it is not installed.
    """
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), *SEARCHED_BESIDE_PATH))
    found = shutil.which("mosquitto", path=places)
    if found is None:
        raise OperatorNeeded(
            "There is no mosquitto on this machine, and no other broker is configured.",
            next_step="install it (Debian, Ubuntu: apt install mosquitto; Fedora: dnf install "
            "mosquitto; Alpine: apk add mosquitto; macOS: brew install mosquitto), or set "
            "embedded_broker = false with mqtt_host and mqtt_port of a broker you run.",
        )
    return Path(found)


def template_directory() -> Path:
    """``broker-config/mosquitto``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "broker_config"
    return (installed if installed.is_dir() else package.parents[1] / "broker-config") / "mosquitto"


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """Replace every ``${NAME}``.

    Raises:
        ConfigurationInvalid: a placeholder has no value, or a value holds a line break.
    """

    def value(found: re.Match[str]) -> str:
        text = values.get(found[1])
        if text is None or "\n" in text:
            raise ConfigurationInvalid(
                f"The broker template's ${{{found[1]}}} cannot be filled in with {text!r}.",
                next_step="look at broker-config/mosquitto/README.md for the placeholders.",
            )
        return text

    return _PLACEHOLDER.sub(value, template)


class MosquittoBroker:
    """One mosquitto child that listens on one port with TLS and our access rules, which stand in
    its directory before it is started."""

    def __init__(
        self, directory: Path, *, fleet: str, files: TlsFiles, host: str = "127.0.0.1", port: int
    ) -> None:
        self._directory = directory
        self._fleet = fleet
        self._files = files
        self.host = host
        self.port = port or _free_port(host)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def config_path(self) -> Path:
        return self._directory / "mosquitto.conf"

    @property
    def log_path(self) -> Path:
        return self._directory / "mosquitto.log"

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            OperatorNeeded: not installed; BrokerDied: it did not come up, with its log.
        """
        program = find_mosquitto()
        self._write_configuration()
        self._end_predecessor()
        self._refuse_taken_port()
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                [str(program), "-c", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_without_ours(os.environ),
                # Ctrl-C reaches the whole group; we stop the broker last, by ourselves.
                start_new_session=True,
            )
        replace_durably(self._pid_path, str(self._child.pid).encode())
        self._wait_until_it_listens()

    def problem(self) -> str | None:
        """None while it runs; else how it ended, for the log and the health page."""
        if self._child is None:
            return "mosquitto has not been started"
        status = self._child.poll()
        return None if status is None else f"mosquitto ended with status {status}: {self._tail()}"

    def reload(self) -> None:
        """Make it read its access rules and revocation list again; connections stay."""
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Stop it, saving its state; safe to repeat."""
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = None
        self._pid_path.unlink(missing_ok=True)

    @property
    def _pid_path(self) -> Path:
        return self._directory / "mosquitto.pid"

    def _write_configuration(self) -> None:
        data = self._directory / "data"
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        values = {
            "FLEET": self._fleet,
            "MQTT_HOST": self.host,
            "MQTT_PORT": str(self.port),
            "CA_FILE": str(self._files.ca),
            "SERVER_CERTIFICATE": str(self._files.certificate),
            "SERVER_KEY": str(self._files.key),
            # Both are derived from the registry: `access_files.py`.
            "ACL_FILE": str(self._directory / "acl"),
            "CRL_FILE": str(self._directory / "crl.pem"),
            "DATA_DIR": f"{data}/",  # mosquitto appends its file name without a slash
            # Started by root it would change to the user mosquitto, who may not enter our data
            # directory. Started by anybody else the setting has no effect.
            "RUN_AS": "root" if os.geteuid() == 0 else "mosquitto",
        }
        content = fill_in((template_directory() / "central.conf").read_text(), values)
        replace_durably(self.config_path, content.encode(), mode=PUBLIC_MODE)

    def _end_predecessor(self) -> None:
        """End the child of a controller that was killed: it still has our port and our files."""
        try:
            pid = int(self._pid_path.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return
        if os.fsencode(self.config_path) not in command:
            return  # the number belongs to another program by now
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS_MAX
        while _runs(pid) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _refuse_taken_port(self) -> None:
        """Whoever has the port would answer in our child's place, and look like it."""
        try:
            socket.create_server((self.host, self.port)).close()
        except OSError as error:
            raise self._died(f"{self.host}:{self.port}: {error.strerror or error}.") from error

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            problem = self.problem()
            if problem is not None:
                raise self._died(problem)
            if self._answers():
                return
            time.sleep(_POLL_SECONDS)
        problem = f"it does not listen on {self.host}:{self.port}: {self._tail()}"
        self.stop()
        raise self._died(problem)

    def _answers(self) -> bool:
        """Whether TLS with our certificate is spoken. An open port alone says nothing: mosquitto
        listens before it reads its certificates, and may still die of them."""
        try:
            context = ssl.create_default_context(cafile=str(self._files.ca))
            context.check_hostname = False  # the address is ours; the certificate proves the rest
            with (
                socket.create_connection((self.host, self.port), timeout=1) as plain,
                context.wrap_socket(plain),
            ):
                return True
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLCertVerificationError):
            return False
        except ssl.SSLError:
            return True  # TLS 1.2 asks for our client certificate already here
        except OSError:
            return False

    def _died(self, problem: str) -> BrokerDied:
        return BrokerDied(
            f"The embedded broker did not start: {problem}",
            next_step=f"read {self.log_path}; often another program has port {self.port}: set "
            "mqtt_port in controller.toml.",
        )

    def _tail(self) -> str:
        try:
            content = self.log_path.read_bytes()[-_LOG_TAIL_BYTES:]
        except OSError:
            return "it wrote no log."
        return content.decode(errors="replace").strip() or "it wrote no log."


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _free_port(host: str) -> int:
    try:
        with socket.create_server((host, 0)) as listener:
            port: int = listener.getsockname()[1]
            return port
    except OSError as error:
        raise ConfigurationInvalid(
            f"The embedded broker cannot listen on {host}: {error.strerror or error}.",
            next_step="set mqtt_host in controller.toml to an address of this machine.",
        ) from error


def _without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """What speaks to the whole network is told no passphrase and no PIN."""
    return {name: value for name, value in environment.items() if not name.startswith("MAILBOAT_")}
