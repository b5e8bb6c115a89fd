"""Keeps the broker to what the registry says, and ends the sessions of whoever is cut off.

By level, not by event: at the start, on every change and now and then, both files are derived from
the registry and put in place if they differ; sessions are ended until that is written down.
"""

import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import structlog

from mailboat_controller.broker import access_files
from mailboat_controller.broker.embedded import MosquittoBroker
from mailboat_controller.durable_file import replace_durably
from mailboat_controller.mqtt.take_over import take_over
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.store import audit, broker_access, device_certificates
from mailboat_controller.store.engine import Store
from mailboat_schemas.errors import MailboatError, ServerUnavailable

ACTOR = "controller"
COMMAND_SECONDS_MAX = 30.0
# mosquitto reads its files in the next turn of its loop, which waits for 0.1 s at most.
SETTLE_SECONDS = 0.3
# Between two reloads, for each device: a large fleet that enrols at once gets in by a few of them.
PACE_SECONDS_PER_DEVICE = 0.0001
SESSIONS_AT_ONCE = 100
FAILURES_AT_ONCE = 3

_log = structlog.get_logger(__name__)


class BrokerNotReloaded(ServerUnavailable):
    """The operator's broker_reload_command did not do its work."""

    code = "E-BROKER-RELOAD"


class BrokerGuard:
    """For any thread. Before `started`, and where the operator runs the broker, there is none."""

    def __init__(
        self,
        *,
        store: Store,
        authority: Authority,
        directory: Path,
        reload_command: Sequence[str] = (),
        partitions: int = 0,
    ) -> None:
        self._store = store
        self._authority = authority
        self._directory = directory
        self._command = tuple(reload_command)
        self._partitions = partitions
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._asked = self._done = 0
        self._loaded = False  # whether the broker has read what is in place
        self._pause_seconds = 0.0
        self._reloaded_at = float("-inf")  # monotonic
        self._told_of_bound = False
        self._resisting: frozenset[str] = frozenset()  # whose sessions did not end last time
        self._broker: MosquittoBroker | None = None

    def write_files(self, now: datetime) -> access_files.Written:
        """Bring the files to what the registry says, without telling the broker.

        Raises:
            OSError: the disk; the old files are as they were. Transient: the database.
        """
        with self._store.read() as tx:
            access = broker_access.read(tx, now)
        devices = len(access.devices)
        self._pause_seconds = devices * PACE_SECONDS_PER_DEVICE
        if not access_files.per_class(access) and not self._told_of_bound:
            self._told_of_bound = True
            _log.warning(
                "the broker lets every device hear the manifests of all classes",
                devices=devices,
                sections_max=access_files.SECTIONS_MAX,
                next_step="split the fleet if manifests must stay within their class",
            )
        written = access_files.write(
            self._directory,
            access,
            fleet=self._authority.fleet,
            authority=self._authority,
            now=now,
            partitions=self._partitions,
        )
        self._loaded = self._loaded and not written
        return written

    def started(self, broker: MosquittoBroker) -> None:
        """Our own broker has just been started, with the files in place."""
        self._broker, self._loaded = broker, True

    def refresh(self, now: datetime) -> None:
        """Have the broker go by the registry as it is now; returns once it has been told.

        Callers that wait together are served by one reload.

        Raises:
            BrokerNotReloaded: the files are in place, the broker goes by the old ones.
            OSError, Transient: see `write_files`.
        """
        with self._asking:
            self._asked += 1
            ticket = self._asked
        with self._lock:
            if self._done >= ticket:
                return
            with self._asking:
                covered = self._asked
            time.sleep(max(0.0, self._reloaded_at + self._pause_seconds - time.monotonic()))
            self.write_files(now)
            if not self._loaded:
                self._reload()
                self._loaded = True
                self._reloaded_at = time.monotonic()
            self._done = covered

    def end_sessions(self, host: str, port: int, now: datetime) -> int:
        """End what is left of the sessions of whoever is cut off; returns how many it were.

        One that cannot be ended keeps nobody else in: it is the last to be tried next time.

        Raises:
            Transient: of the first that failed; those that are left come next time.
        """
        with self._store.read() as tx:
            names = device_certificates.sessions_to_end(tx, now)
        failed: dict[str, MailboatError] = {}
        in_order = sorted(names.items(), key=lambda each: (each[0] in self._resisting, each[0]))
        for name, serials in in_order[:SESSIONS_AT_ONCE]:
            try:
                take_over(host, port, self._stand_in(name, now), name)
            except MailboatError as error:
                failed[name] = error
                if len(failed) >= FAILURES_AT_ONCE:
                    break  # the broker itself, then: each try takes its ten seconds
                continue
            self._note_ended(name, serials, now)
        self._resisting = frozenset(failed)
        if failed:
            raise next(iter(failed.values()))
        return len(names)

    def _note_ended(self, name: str, serials: list[str], now: datetime) -> None:
        with self._store.transaction() as tx:
            device_certificates.note_session_ended(tx, name, serials, now)
            audit.append(
                tx,
                at=now,
                actor=ACTOR,
                action="broker.end_session",
                subject=name,
                reason="its certificates are revoked",
                details={"certificates": serials},
            )
        _log.info("session ended", name=name)

    def look(self, host: str, port: int, now: datetime) -> None:
        """One turn of the loop: files, reload, sessions. What does not work is tried again."""
        try:
            self.refresh(now)
            with self._store.read() as tx:
                waiting = device_certificates.sessions_to_end(tx, now)
            if waiting:
                time.sleep(SETTLE_SECONDS)
                self.end_sessions(host, port, now)
        except (MailboatError, OSError) as error:
            _log.warning("the broker does not go by the registry yet", problem=str(error))

    def _reload(self) -> None:
        if self._broker is not None:
            self._broker.reload()
            return
        if not self._command:
            _log.warning(
                "the broker's files have changed and nobody tells the broker",
                directory=str(self._directory),
                next_step="set broker_reload_command in controller.toml",
            )
            return
        try:
            ended = subprocess.run(
                self._command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_SECONDS_MAX,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _not_reloaded(str(error)) from error
        if ended.returncode != 0:
            said = ended.stderr.decode(errors="replace").strip()[-500:]
            raise _not_reloaded(f"status {ended.returncode}: {said}")

    def _stand_in(self, name: str, now: datetime) -> ssl.SSLContext:
        issued = self._authority.issue_stand_in(name, now=now)
        context = ssl.create_default_context(cafile=str(self._authority.ca_path))
        # OpenSSL reads certificates and keys from files alone.
        with tempfile.TemporaryDirectory(prefix="mailboat-") as directory:
            path = Path(directory) / "stand-in.pem"
            replace_durably(path, issued.certificate + (issued.key or b""))
            context.load_cert_chain(path)
        return context


def _not_reloaded(problem: str) -> BrokerNotReloaded:
    return BrokerNotReloaded(
        f"broker_reload_command failed: {problem}.",
        next_step="correct it in controller.toml; until then the broker goes by older rules.",
    )
