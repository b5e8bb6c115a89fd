"""The real API on a real port with real certificates, a real database and the real reconciler."""

import asyncio
import json
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from enrolled_fleet import lay_database
from mailboat_controller import data_directory
from mailboat_controller.access.artifact_tokens import ArtifactTokens
from mailboat_controller.access.people import DAYS_DEFAULT, Role
from mailboat_controller.access.token_directory import issue_token
from mailboat_controller.api.app import build_app
from mailboat_controller.api.context import ApiContext
from mailboat_controller.artifacts.artifact_store import ArtifactStore
from mailboat_controller.artifacts.care import ArtifactCare
from mailboat_controller.artifacts.opening import open_store
from mailboat_controller.authority.online import OnlineKeys
from mailboat_controller.config import ControllerSettings
from mailboat_controller.content.keys import ContentKeys
from mailboat_controller.device_logs.orders import LogOrders
from mailboat_controller.https_server import HttpsServer
from mailboat_controller.metrics.fleet_state import FleetReader, FleetState
from mailboat_controller.overrides.orders import Overrides
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.reconcile import Reconciler
from mailboat_controller.releases.admission import Admission
from mailboat_controller.store import classes
from mailboat_controller.store.engine import Store
from mailboat_controller.trust import held_trust
from mailboat_controller.trust.role_admission import RoleAdmission
from mailboat_controller.webhooks.courier import Courier
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.enrolment import Kind
from trust_fleet import CLASS, FLEET, TrustFleet

HARDWARE_CLASS: dict[str, Any] = {
    "apiVersion": "mailboat/v1",
    "kind": "HardwareClass",
    "metadata": {"name": CLASS},
    "spec": {"arch": "x86_64", "memory_budget": "256MiB", "disk_budget": "1GiB"},
}
# The server keeps a connection thrice as long; who is nearer to that is not asked any more.
IDLE_SECONDS_MAX = 10
CLOSED_MEANWHILE = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)  # before an answer
Files = tuple[tuple[str, int, int], ...]  # path, inode, time of the last change in ns
PEOPLE = {"alice": Role.OPERATOR, "vera": Role.VIEWER, "paul": Role.APPROVER}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes
    all_headers: Mapping[str, list[str]] = field(default_factory=dict)  # also those sent twice

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass
class RunningApi:
    """One controller without broker and loop. ``identities`` are (certificate, key) paths and
    ``tokens`` what people send; ``by`` names one of either."""

    directory: Path
    settings: ControllerSettings
    trust: TrustFleet
    store: Store
    artifacts: ArtifactStore
    authority: Authority
    reconciler: Reconciler
    port: int = 0
    woken: int = 0
    identities: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    clock_ahead: timedelta = timedelta()
    app: Any = None
    _contexts: dict[Files, ssl.SSLContext] = field(default_factory=dict)
    _idle: dict[Files, tuple[HTTPSConnection, float]] = field(default_factory=dict)
    care: ArtifactCare = field(init=False)
    courier: Courier = field(init=False)

    def __post_init__(self) -> None:
        self.care = ArtifactCare(self.store, self.artifacts, self.settings.artifacts, self.now)
        webhooks = self.settings.webhooks
        if webhooks.ca is None:  # to read the machine's takes longer than all the rest
            webhooks = webhooks.model_copy(update={"ca": self.authority.ca_path})
        self.courier = Courier(
            self.store,
            webhooks,
            fleet=FLEET,
            secrets_dir=self.settings.webhook_secrets_dir,
            now=self.now,
            rng=random.Random(1),
        )

    def now(self) -> datetime:
        return datetime.now(UTC) + self.clock_ahead

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def connection_file(self, name: str) -> Path:
        return self.directory / "connections" / name / "connection.toml"

    def issue(self, kind: Kind, name: str) -> None:
        out = self.connection_file(name).parent
        settings = self.settings.model_copy(update={"listen_port": self.port})
        now = datetime.now(UTC)
        data_directory.issue_credential(settings, kind, name, out, actor="local:test", now=now)
        self.identities[name] = (out / f"{name}.pem", out / f"{name}.key")

    def admit(self, role: Role, name: str, *, days: int = DAYS_DEFAULT) -> None:
        """Give a person a token, as `mailboat token issue` does."""
        settings = self.settings.model_copy(update={"listen_port": self.port})
        out = self.connection_file(name).parent
        issue_token(settings, name, role, out, days=days, actor="local:test", now=self.now())
        self.tokens[name] = (out / "token").read_text().strip()

    def ask(
        self,
        method: str,
        path: str,
        *,
        by: str | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; a dict or list is sent as JSON."""
        sent = dict(headers or {})
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        if by in self.tokens:
            sent.setdefault("Authorization", f"Bearer {self.tokens[by]}")
        files = self._files_of(by)
        connection, answered_at = self._idle.pop(files, (None, 0.0))
        if connection is not None:
            if time.monotonic() - answered_at < IDLE_SECONDS_MAX and _may_be_sent_again(body):
                with suppress(*CLOSED_MEANWHILE):
                    return self._answered(connection, files, method, path, body, sent)
            connection.close()
        context = self._tls_of(by, files)
        connection = HTTPSConnection("127.0.0.1", self.port, context=context, timeout=60)
        return self._answered(connection, files, method, path, body, sent)

    def _answered(
        self,
        connection: HTTPSConnection,
        files: Files,
        method: str,
        path: str,
        body: Any,
        sent: Mapping[str, str],
    ) -> Answer:
        """Kept open for the next request: most of a short one is its handshake."""
        answer = None
        try:
            answer = _answered(connection, method, path, body, sent)
            return answer
        finally:
            if answer is None or connection.sock is None or files in self._idle:
                connection.close()
            else:
                self._idle[files] = (connection, time.monotonic())

    def hang_up(self) -> None:
        while self._idle:
            self._idle.popitem()[1][0].close()

    def _files_of(self, by: str | None) -> Files:
        """With which a handshake is made, and whether they are still the same."""
        files = (self.authority.ca_path, *self.identities.get(by or "", ()))
        return tuple((str(path), path.stat().st_ino, path.stat().st_mtime_ns) for path in files)

    def _tls_of(self, by: str | None, files: Files) -> ssl.SSLContext:
        """The context of the last request with these very files: to read them takes a while."""
        if files not in self._contexts:
            self._contexts[files] = self.tls(by)
        return self._contexts[files]

    def tls(self, by: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.ca_path))
        if by in self.identities:
            context.load_cert_chain(*self.identities[by])
        return context

    def kit(self, **order: Any) -> dict[str, Any]:
        answer = self.ask(
            "POST",
            "/v1/enrolment-tokens",
            by="alice",
            body={"hardware_class": CLASS, **order},
        )
        assert answer.status == 201, answer.content
        return dict(answer.json)

    def enrol(
        self,
        device: str,
        *,
        token: str | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Answer:
        key = key or ec.generate_private_key(ec.SECP256R1())
        request = {
            "token": token or self.kit()["token"],
            "device": device,
            "certificate_request": certificate_request(key),
        }
        answer = self.ask("POST", "/v1/enrol", body=request)
        if answer.status == 201:
            certificate = self.directory / f"{device}.pem"
            certificate.write_text(answer.json["certificate"])
            self.identities[device] = (certificate, write_key(key, certificate.with_suffix(".key")))
        return answer


def _may_be_sent_again(body: object) -> bool:
    return body is None or isinstance(body, bytes | str)


def _answered(
    connection: HTTPSConnection, method: str, path: str, body: Any, sent: Mapping[str, str]
) -> Answer:
    connection.request(method, path, body, sent)
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    every: dict[str, list[str]] = {}
    for name, value in response.getheaders():
        every.setdefault(name.lower(), []).append(value)
    return Answer(response.status, found, response.read(), every)


def certificate_request(key: Any, name: str = "anything") -> str:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def write_key(key: ec.EllipticCurvePrivateKey, path: Path) -> Path:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@contextmanager
def running_api(directory: Path, **settings_changed: Any) -> Iterator[RunningApi]:
    """A controller with `PEOPLE`, pipeline ``build``, dashboard ``wall``, one class."""
    now = datetime.now(UTC)
    trust = TrustFleet(directory / "ceremony", now=now)
    lay_database(directory / "data")
    settings = data_directory.create(
        directory / "data",
        fleet=FLEET,
        trust=trust.directory,
        now=now,
        mqtt_port=1,  # where nobody ever listens
    )
    # Tests fail to log in more often than people; `settings_changed` sets what a test is about.
    settings = settings.model_copy(update={"rate_refused_per_minute": 6000} | settings_changed)
    store = Store(settings.store_url)
    with store.transaction() as tx:
        classes.put(tx, HardwareClass.model_validate(HARDWARE_CLASS), now)
        held_trust.import_directory(tx, settings.trust_dir, now)
    reconciler = Reconciler(store, OnlineKeys.load(settings.keys_dir), FLEET)
    api = RunningApi(
        directory=directory,
        settings=settings,
        trust=trust,
        store=store,
        artifacts=open_store(settings.artifacts, settings.artifacts_dir),
        authority=Authority.load(settings.pki_dir),
        reconciler=reconciler,
    )
    with _served(api):
        for name, role in PEOPLE.items():
            api.admit(role, name)
        for name, kind in (("build", Kind.CI), ("wall", Kind.DASHBOARD)):
            api.issue(kind, name)
        yield api
    store.close()


@contextmanager
def _served(api: RunningApi) -> Iterator[None]:
    admission = Admission(api.store, api.reconciler, api.artifacts, FLEET)

    def wake() -> None:
        api.woken += 1

    reader = FleetReader()

    def fleet_state() -> FleetState:
        with api.store.read() as tx:
            return reader.read(tx, api.now())

    context = ApiContext(
        fleet_state=fleet_state,
        settings=api.settings,
        store=api.store,
        artifacts=api.artifacts,
        artifact_care=api.care,
        content_keys=ContentKeys.of(api.settings, api.store),
        authority=api.authority,
        now=api.now,
        artifact_tokens=ArtifactTokens(api.settings.artifact_token_keys),
        refused=lambda code: api.refused.update([code]),
        submit=lambda content, sender: admission.submit(content, sender, datetime.now(UTC)),
        take_roles=lambda roles, actor, reason: RoleAdmission(api.store, api.reconciler).take(
            roles, actor=actor, reason=reason, now=datetime.now(UTC)
        ),
        order=lambda name, trigger, actor, reason, wave: api.reconciler.order(
            name, trigger, actor=actor, reason=reason, now=datetime.now(UTC), wave=wave
        ),
        rollouts=api.reconciler.summaries,
        rollout_status=api.reconciler.status,
        wake=wake,
        metrics=lambda: b"# metrics\n",
        roll_ups=lambda: {"fleet/demo": {"t": 1.0, "devices": 0}},
        log_orders=LogOrders(
            api.store, api.reconciler.sign_order, FLEET, now=api.now, queued=lambda: None
        ),
        overrides=Overrides(api.store, api.reconciler, FLEET, now=api.now, queued=lambda: None),
        courier=api.courier,
        api_url="https://controller.example:8443",
        mqtt_host="broker.example",
        mqtt_port=8883,
    )
    files = api.authority.server_files(("localhost", "127.0.0.1"), now=datetime.now(UTC))
    api.app = build_app(context)
    server = HttpsServer(api.app, host="127.0.0.1", port=0, files=files)
    api.port = server.bind()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        yield
    finally:
        api.hang_up()
        server.stop()
        thread.join()
