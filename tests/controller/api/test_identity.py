import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mailboat_controller import data_directory
from mailboat_controller.pki.issuing import Authority
from mailboat_schemas.enrolment import Kind
from running_api import RunningApi, certificate_request, write_key
from trust_fleet import CLASS

# method, path, who may; everybody else gets 403, nobody at all 401
RULES = [
    ("GET", "/v1/devices", {"alice", "wall"}),
    ("GET", "/v1/devices/dev-1", {"alice", "wall"}),
    ("GET", "/v1/devices/dev-1/events", {"alice", "wall"}),
    ("POST", "/v1/devices/dev-1/revoke", {"alice"}),
    ("POST", "/v1/enrolment-tokens", {"alice"}),
    ("GET", "/v1/hardware-classes", {"alice", "wall"}),
    ("PUT", f"/v1/hardware-classes/{CLASS}", {"alice"}),
    ("GET", f"/v1/manifests/{CLASS}", {"alice", "dev-1"}),
    ("GET", "/v1/trust/root", {"alice", "build", "dev-1"}),
    ("GET", "/v1/trust/roles/targets", {"alice", "build", "dev-1"}),
    ("GET", f"/v1/artifacts/sha256/{'ab' * 32}", {"alice", "build", "dev-1"}),
    ("PUT", f"/v1/artifacts/sha256/{'ab' * 32}", {"alice", "build"}),
    ("POST", "/v1/submissions", {"alice", "build"}),
    ("GET", "/v1/releases", {"alice", "wall"}),
    ("GET", "/v1/rollouts", {"alice", "wall"}),
    ("POST", "/v1/rollouts/x/start", {"alice"}),
    ("GET", "/v1/audit", {"alice", "wall"}),
    ("GET", "/v1/audit/verify", {"alice", "wall"}),
    ("GET", "/v1/stats", {"alice", "wall"}),
    ("GET", "/metrics", {"alice", "wall"}),
]
OPEN = {"/healthz", "/v1/info", "/v1/enrol"}


@pytest.fixture(scope="module", autouse=True)
def device(api: RunningApi) -> None:
    assert api.enrol("dev-1").status == 201


@pytest.mark.parametrize(
    ("method", "path", "allowed"), RULES, ids=[f"{m} {p}" for m, p, _ in RULES]
)
def test_each_door_opens_for_whom_it_is_meant(
    api: RunningApi, method: str, path: str, allowed: set[str]
) -> None:
    assert api.ask(method, path).status == 401
    for who in ("alice", "build", "wall", "dev-1"):
        status = api.ask(method, path, by=who).status
        assert (status not in {401, 403}) == (who in allowed), f"{who}: {status}"


def test_no_door_is_missing_from_the_list(api: RunningApi) -> None:
    paths = api.ask("GET", "/openapi.json").json["paths"]
    listed = {(method, path.count("/")) for method, path, _ in RULES}

    for path, methods in paths.items():
        if path in OPEN:
            continue
        for method in methods:
            assert (method.upper(), path.count("/")) in listed, f"{method} {path} is not tested"


def test_what_is_open_tells_nothing_to_keep(api: RunningApi) -> None:
    assert api.ask("GET", "/healthz").json == {"status": "ok"}
    assert set(api.ask("GET", "/v1/info").json) == {"product", "version", "contract", "fleet"}


def test_a_certificate_of_another_ca_does_not_pass_the_handshake(
    api: RunningApi, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    other = Authority.create(tmp_path / "pki", "demo", now=now)
    issued = other.issue_credential(Kind.OPERATOR, "alice", now=now)
    (tmp_path / "alice.pem").write_bytes(issued.certificate)
    (tmp_path / "alice.key").write_bytes(issued.key or b"")
    api.identities["forged"] = (tmp_path / "alice.pem", tmp_path / "alice.key")

    with pytest.raises((ssl.SSLError, ConnectionError)):
        api.ask("GET", "/v1/devices", by="forged")


def test_a_certificate_of_ours_that_nobody_registered_may_not_ask(
    api: RunningApi, tmp_path: Path
) -> None:
    issued = api.authority.issue_credential(Kind.OPERATOR, "eve", now=datetime.now(UTC))
    (tmp_path / "eve.pem").write_bytes(issued.certificate)
    (tmp_path / "eve.key").write_bytes(issued.key or b"")
    api.identities["eve"] = (tmp_path / "eve.pem", tmp_path / "eve.key")

    answer = api.ask("GET", "/v1/devices", by="eve")
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
    api.issue(Kind.OPERATOR, "bob")
    assert api.ask("GET", "/v1/devices", by="bob").status == 200
    data_directory.revoke_credential(
        api.settings,
        Kind.OPERATOR,
        "bob",
        reason="left",
        actor="local:test",
        now=datetime.now(UTC),
    )

    answer = api.ask("GET", "/v1/devices", by="bob")
    assert (answer.status, answer.json["code"]) == (403, "E-REVOKED")
