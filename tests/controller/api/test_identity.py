"""Every door and whom it opens for; certificates that do not hold."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.routing import Mount, Route

from mailboat_controller import data_directory
from mailboat_controller.api.app import make_app
from mailboat_controller.pki.issuing import Authority
from mailboat_schemas.enrolment import Kind
from running_api import RunningApi, certificate_request, write_key
from trust_fleet import CLASS

WHO = {
    "vera": "viewer",
    "alice": "operator",
    "paul": "approver",
    "wall": "dashboard",
    "build": "ci",
    "dev-1": "device",
    "harbour": "site",
}
PEOPLE = {"viewer", "operator", "approver"}
READERS = PEOPLE | {"dashboard"}
FETCHERS = {"operator", "approver", "ci", "device", "site"}
SOME = "ab" * 32
KEY_ID = "ab" * 16
RENEWAL = "/v1/devices/self/certificate"
RELEASE = "/v1/releases/vad/1.0.0"
DOCUMENT_ROUTE = "/v1/documents/{role}/{level}/{target}"
DELTA_ROUTE = "/v1/deltas/{model}/{base_version}/{version}"

# method, route, an address of it, who may; everybody else gets 403, nobody at all 401
CONFIRM = "/v1/devices/self/certificate/confirmation"
RULES: list[tuple[str, str, str, set[str]]] = [
    ("GET", "/v1/access-tokens", "/v1/access-tokens", {"operator"}),
    ("GET", "/v1/access-tokens/self", "/v1/access-tokens/self", PEOPLE),
    ("POST", "/v1/access-tokens/self/renew", "/v1/access-tokens/self/renew", PEOPLE),
    ("POST", "/v1/access-tokens/{name}/revoke", "/v1/access-tokens/x/revoke", {"operator"}),
    ("GET", "/v1/devices", "/v1/devices", READERS),
    ("GET", "/v1/devices/pending", "/v1/devices/pending", READERS),
    ("POST", "/v1/devices/self/certificate", "/v1/devices/self/certificate", {"device"}),
    ("POST", CONFIRM, CONFIRM, {"device"}),
    ("POST", "/v1/devices/{device}/approve", "/v1/devices/dev-1/approve", {"operator"}),
    ("POST", "/v1/devices/{device}/reject", "/v1/devices/dev-1/reject", {"operator"}),
    ("GET", "/v1/devices/{device}", "/v1/devices/dev-1", READERS),
    ("GET", "/v1/devices/{device}/events", "/v1/devices/dev-1/events", READERS),
    ("GET", "/v1/devices/pending", "/v1/devices/pending", READERS),
    ("POST", "/v1/devices/{device}/approve", "/v1/devices/dev-9/approve", {"operator"}),
    ("POST", "/v1/devices/{device}/reject", "/v1/devices/dev-9/reject", {"operator"}),
    ("POST", "/v1/devices/self/certificate", RENEWAL, {"device"}),
    (
        "POST",
        "/v1/devices/self/certificate/confirmation",
        f"{RENEWAL}/confirmation",
        {"device"},
    ),
    ("POST", "/v1/devices/{device}/revoke", "/v1/devices/dev-1/revoke", {"operator"}),
    ("POST", "/v1/enrolment-tokens", "/v1/enrolment-tokens", {"operator"}),
    ("POST", "/v1/devices/{device}/logs", "/v1/devices/dev-1/logs", {"operator"}),
    ("GET", "/v1/devices/{device}/logs", "/v1/devices/dev-1/logs", {"operator"}),
    (
        "GET",
        "/v1/devices/{device}/logs/{request}",
        f"/v1/devices/dev-1/logs/{16 * 'a'}",
        {"operator"},
    ),
    ("GET", "/v1/devices/{device}/explain", "/v1/devices/dev-1/explain", READERS),
    ("POST", "/v1/devices/{device}/drill", "/v1/devices/dev-1/drill", {"operator"}),
    ("POST", "/v1/devices/{device}/cancel-drill", "/v1/devices/dev-1/cancel-drill", {"operator"}),
    ("GET", "/v1/devices/{device}/drills", "/v1/devices/dev-1/drills", READERS),
    ("GET", "/v1/drills", "/v1/drills", READERS),
    ("POST", "/v1/devices/{device}/hold", "/v1/devices/dev-1/hold", {"operator"}),
    ("POST", "/v1/devices/{device}/release-hold", "/v1/devices/dev-1/release-hold", {"operator"}),
    ("POST", "/v1/devices/{device}/pin", "/v1/devices/dev-1/pin", {"operator"}),
    ("POST", "/v1/devices/{device}/unpin", "/v1/devices/dev-1/unpin", {"operator"}),
    ("POST", "/v1/devices/{device}/labels", "/v1/devices/dev-1/labels", {"operator"}),
    ("POST", "/v1/plans", "/v1/plans", READERS),
    ("GET", "/v1/gitops", "/v1/gitops", READERS),
    ("GET", "/v1/gitops/{name}", "/v1/gitops/fleet", READERS),
    ("POST", "/v1/gitops/{name}/diff", "/v1/gitops/fleet/diff", READERS),
    ("POST", "/v1/gitops/{name}/apply", "/v1/gitops/fleet/apply", {"operator"}),
    ("POST", "/v1/gitops/{name}/pulls", "/v1/gitops/fleet/pulls", {"operator"}),
    ("GET", "/v1/quarantine", "/v1/quarantine", READERS),
    ("GET", "/v1/quarantine/{id}", "/v1/quarantine/1", {"operator"}),
    ("GET", "/v1/traces", "/v1/traces?of=x", READERS),
    ("GET", "/v1/webhooks", "/v1/webhooks", {"operator"}),
    ("POST", "/v1/webhooks", "/v1/webhooks", {"operator"}),
    ("DELETE", "/v1/webhooks/{name}", "/v1/webhooks/x?reason=r", {"operator"}),
    ("POST", "/v1/webhooks/{name}/test", "/v1/webhooks/x/test", {"operator"}),
    ("POST", "/v1/webhooks/{name}/secret", "/v1/webhooks/x/secret", {"operator"}),
    ("POST", "/v1/webhooks/{name}/{verb}", "/v1/webhooks/x/enable", {"operator"}),
    ("GET", "/v1/webhooks/{name}/deliveries", "/v1/webhooks/x/deliveries", {"operator"}),
    ("GET", "/v1/hardware-classes", "/v1/hardware-classes", READERS),
    ("GET", "/v1/hardware-classes/{name}", f"/v1/hardware-classes/{CLASS}", READERS),
    ("PUT", "/v1/hardware-classes/{name}", f"/v1/hardware-classes/{CLASS}", {"operator"}),
    ("GET", "/v1/manifests/{hardware_class}", f"/v1/manifests/{CLASS}", {"operator", "device"}),
    ("GET", "/v1/trust/root", "/v1/trust/root", PEOPLE | {"ci", "device"}),
    ("GET", "/v1/trust/roles/{role}", "/v1/trust/roles/targets", PEOPLE | {"ci", "device"}),
    ("POST", "/v1/artifacts/tokens", "/v1/artifacts/tokens", FETCHERS),
    ("GET", "/v1/artifacts/sha256/{digest}", f"/v1/artifacts/sha256/{SOME}", FETCHERS),
    ("HEAD", "/v1/artifacts/sha256/{digest}", f"/v1/artifacts/sha256/{SOME}", FETCHERS),
    ("PUT", "/v1/artifacts/sha256/{digest}", f"/v1/artifacts/sha256/{SOME}", {"operator", "ci"}),
    ("GET", "/v1/artifacts/status", "/v1/artifacts/status", READERS),
    ("POST", "/v1/artifacts/garbage", "/v1/artifacts/garbage", {"operator"}),
    ("GET", "/v1/artifacts/scrub", "/v1/artifacts/scrub", READERS),
    ("POST", "/v1/artifacts/scrub", "/v1/artifacts/scrub", {"operator"}),
    ("GET", "/v1/documents/{role}", "/v1/documents/config", READERS),
    ("GET", f"{DOCUMENT_ROUTE}", f"/v1/documents/config/class/{CLASS}", READERS),
    ("GET", f"{DOCUMENT_ROUTE}/{{version}}", f"/v1/documents/config/class/{CLASS}/1.0.0", READERS),
    ("POST", "/v1/submissions", "/v1/submissions", {"operator", "approver", "ci"}),
    ("GET", "/v1/trust/status", "/v1/trust/status", READERS),
    ("POST", "/v1/trust/roles", "/v1/trust/roles", {"operator", "approver"}),
    ("GET", "/v1/content-keys", "/v1/content-keys", READERS),
    ("GET", "/v1/content-keys/{key_id}", f"/v1/content-keys/{KEY_ID}", {"operator", "ci"}),
    ("PUT", "/v1/content-keys/{key_id}", f"/v1/content-keys/{KEY_ID}", {"operator", "ci"}),
    ("POST", "/v1/content-keys/{key_id}", f"/v1/content-keys/{KEY_ID}", {"device"}),
    ("GET", "/v1/releases", "/v1/releases", READERS),
    ("GET", "/v1/releases/{model}/{version}", RELEASE, PEOPLE | {"ci", "device"}),
    ("GET", "/v1/releases/{model}/{version}/standing", f"{RELEASE}/standing", READERS),
    ("POST", "/v1/releases/{model}/{version}/reject", f"{RELEASE}/reject", {"approver"}),
    ("GET", "/v1/deltas", "/v1/deltas", READERS),
    ("GET", DELTA_ROUTE, "/v1/deltas/vad/1.0.0/1.1.0", READERS),
    ("POST", f"{DELTA_ROUTE}/{{verb}}", "/v1/deltas/vad/1.0.0/1.1.0/build", {"operator"}),
    ("POST", "/v1/releases/{model}/{version}/retire", f"{RELEASE}/retire", {"operator"}),
    ("POST", "/v1/releases/{model}/{version}/reinstate", f"{RELEASE}/reinstate", {"operator"}),
    ("GET", "/v1/rollouts", "/v1/rollouts", READERS),
    ("GET", "/v1/sites", "/v1/sites", READERS),
    ("POST", "/v1/sites", "/v1/sites", {"operator"}),
    ("GET", "/v1/sites/{name}", "/v1/sites/harbour", READERS),
    ("PATCH", "/v1/sites/{name}", "/v1/sites/harbour", {"operator"}),
    ("POST", "/v1/sites/{name}/remove", "/v1/sites/harbour/remove", {"operator"}),
    ("GET", "/v1/sites/{name}/access/{file}", "/v1/sites/harbour/access/acl", {"site"}),
    (
        "POST",
        "/v1/sites/{name}/certificates/{part}",
        "/v1/sites/harbour/certificates/bridge",
        {"site"},
    ),
    ("GET", "/v1/rollouts/{name}", "/v1/rollouts/x", READERS),
    ("GET", "/v1/rollouts/{name}/timeline", "/v1/rollouts/x/timeline", READERS),
    ("POST", "/v1/rollouts/{name}/{verb}", "/v1/rollouts/x/start", {"operator"}),
    ("GET", "/v1/audit", "/v1/audit", READERS),
    ("GET", "/v1/mlflow/notices", "/v1/mlflow/notices", {"operator", "ci"}),
    ("GET", "/v1/audit/verify", "/v1/audit/verify", READERS),
    ("GET", "/v1/audit/sealed", "/v1/audit/sealed", READERS),
    ("GET", "/v1/audit/head", "/v1/audit/head", READERS),
    ("GET", "/v1/devices/{device}/timeline", "/v1/devices/dev-1/timeline", READERS),
    ("GET", "/v1/stats", "/v1/stats", READERS),
    ("GET", "/metrics", "/metrics", READERS),
]
# What needs no identity: it tells nothing, or proves who asks in its body.
OPEN = {
    ("GET", "/"),
    ("GET", "/console"),
    ("GET", "/healthz"),
    ("GET", "/v1/health"),
    ("GET", "/v1/info"),
    ("GET", "/openapi.json"),
    ("HEAD", "/openapi.json"),
    ("POST", "/v1/enrol"),
    ("POST", "/v1/renewal-challenges"),
    ("POST", "/v1/renewals"),
    ("POST", "/v1/mlflow/webhook"),
}


@pytest.fixture(scope="module", autouse=True)
def device(api: RunningApi) -> None:
    assert api.enrol("dev-1").status == 201
    api.issue(Kind.SITE, "harbour")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [(method, path, allowed) for method, _, path, allowed in RULES],
    ids=[f"{method} {route}" for method, route, _, _ in RULES],
)
def test_each_door_opens_for_whom_it_is_meant(
    api: RunningApi, device: None, method: str, path: str, allowed: set[str]
) -> None:
    assert api.ask(method, path).status == 401
    for name, kind in WHO.items():
        # Whoever may renew would end the token that the other tests use.
        if path.endswith("/renew") and kind in allowed:
            continue
        answer = api.ask(method, path, by=name)
        # A handler may have reasons of its own, in words of its own, to refuse one it knows.
        turned_away = answer.status == 401 or (
            answer.status == 403 and b"may not do this" in (answer.content or b"may not do this")
        )
        assert turned_away == (kind not in allowed), f"{name}: {answer.status}"


def routes() -> Iterator[tuple[str, str]]:
    for included in make_app().routes:
        if isinstance(included, Mount):
            continue  # the console's doors: tests/controller/console/test_doors.py
        router = getattr(included, "original_router", None)
        for route in [included] if router is None else router.routes:
            assert isinstance(route, Route)
            for method in route.methods or set():
                yield method, route.path


def test_no_door_is_missing_from_the_list() -> None:
    """Whoever adds a route says here whom it is for."""
    assert set(routes()) == {(method, route) for method, route, _, _ in RULES} | OPEN


def test_what_is_open_tells_nothing_to_keep(api: RunningApi) -> None:
    assert api.ask("GET", "/healthz").json == {"status": "ok"}
    assert set(api.ask("GET", "/v1/info").json) == {"product", "version", "contract", "fleet"}


@pytest.mark.parametrize("name", ["build", "wall", "dev-1"])
def test_a_connection_that_stays_open_does_not_outlive_its_certificate(
    api: RunningApi, name: str
) -> None:
    """The handshake is over by then; only a request can still be refused."""
    path = {"build": "/v1/trust/root", "wall": "/v1/devices", "dev-1": "/v1/trust/root"}[name]
    connection = HTTPSConnection("127.0.0.1", api.port, context=api.tls(name), timeout=60)
    statuses: list[int] = []
    try:
        for days in (0, 400):
            api.clock_ahead = timedelta(days=days)
            connection.request("GET", path)
            answer = connection.getresponse()
            content = answer.read()
            statuses.append(answer.status)
    finally:
        api.clock_ahead = timedelta()
        connection.close()

    assert (statuses, b"E-CERTIFICATE-EXPIRED" in content) == ([200, 403], True)


def test_a_certificate_of_another_ca_does_not_pass_the_handshake(
    api: RunningApi, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    other = Authority.create(tmp_path / "pki", "demo", now=now)
    issued = other.issue_credential(Kind.CI, "build", now=now)
    (tmp_path / "build.pem").write_bytes(issued.certificate)
    (tmp_path / "build.key").write_bytes(issued.key or b"")
    api.identities["forged"] = (tmp_path / "build.pem", tmp_path / "build.key")

    with pytest.raises((ssl.SSLError, ConnectionError)):
        api.ask("GET", "/v1/devices", by="forged")


def test_a_certificate_of_ours_that_nobody_registered_may_not_ask(
    api: RunningApi, tmp_path: Path
) -> None:
    issued = api.authority.issue_credential(Kind.DASHBOARD, "eve", now=datetime.now(UTC))
    (tmp_path / "eve.pem").write_bytes(issued.certificate)
    (tmp_path / "eve.key").write_bytes(issued.key or b"")
    api.identities["eve"] = (tmp_path / "eve.pem", tmp_path / "eve.key")

    answer = api.ask("GET", "/v1/devices", by="eve")
    assert (answer.status, answer.json["code"]) == (403, "E-NOT-PERMITTED")


def test_a_certificate_of_our_ca_that_says_operator_opens_nothing(
    api: RunningApi, tmp_path: Path
) -> None:
    """People have tokens; even whoever has the CA's key cannot make an operator with it."""
    ca_key = serialization.load_pem_private_key(
        (api.settings.pki_dir / "ca.key").read_bytes(), password=None
    )
    ca = x509.load_pem_x509_certificate(api.authority.ca_pem)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    oid = x509.NameOID
    parts = {
        oid.COMMON_NAME: "alice",
        oid.ORGANIZATION_NAME: "demo",
        oid.ORGANIZATIONAL_UNIT_NAME: "operator",
    }
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(*part) for part in parts.items()]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ca.not_valid_before_utc)
        .not_valid_after(ca.not_valid_after_utc)
        .sign(ca_key, hashes.SHA256())
    )
    path = tmp_path / "operator.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    api.identities["mallory"] = (path, write_key(key, tmp_path / "operator.key"))

    answer = api.ask("GET", "/v1/devices", by="mallory")
    assert (answer.status, answer.json["code"]) == (403, "E-NOT-PERMITTED")


def test_a_certificate_over_another_key_does_not_speak_for_a_device(
    api: RunningApi, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = api.authority.issue_device(
        certificate_request(key), device="dev-1", enrolment_number=1, now=datetime.now(UTC), days=1
    )
    (tmp_path / "x.pem").write_bytes(issued.certificate)
    api.identities["twin"] = (tmp_path / "x.pem", write_key(key, tmp_path / "x.key"))

    assert api.ask("GET", "/v1/trust/root", by="twin").status == 403


def test_a_revoked_credential_is_refused_from_the_next_request_on(api: RunningApi) -> None:
    api.issue(Kind.DASHBOARD, "hall")
    assert api.ask("GET", "/v1/devices", by="hall").status == 200
    data_directory.revoke_credential(
        api.settings,
        Kind.DASHBOARD,
        "hall",
        reason="left",
        actor="local:test",
        now=datetime.now(UTC),
    )

    answer = api.ask("GET", "/v1/devices", by="hall")
    assert (answer.status, answer.json["code"]) == (403, "E-REVOKED")


def test_an_answer_without_a_body_names_the_error_all_the_same(api: RunningApi) -> None:
    answer = api.ask("HEAD", f"/v1/artifacts/sha256/{SOME}", by="vera")

    assert (answer.status, answer.content) == (403, b"")
    assert answer.headers["mailboat-error-code"] == "E-NOT-PERMITTED"
