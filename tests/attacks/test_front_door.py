"""Whoever reaches the controller's API and broker with a stolen token, certificate or CI key."""

import hashlib
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner

from controller_core import EVERYBODY, Core, plan
from mailboat_controller.access.people import Role
from mailboat_controller.authority import roles
from mailboat_controller.authority.keys import load_key
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.store import audit, releases, rollouts, trust_roles
from mailboat_controller.trust.role_admission import RoleAdmission
from mailboat_schemas.codec import encode
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.submission import Submission, SubmissionReply
from running_api import Answer, RunningApi, certificate_request, running_api, write_key
from trust_fleet import CLASS, FLEET, MODEL, TrustFleet, document

APPROVAL, RELEASE = f"approval-{MODEL}", f"release-{MODEL}"
CONTENT = secrets.token_bytes(4096)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ARTIFACT = f"/v1/artifacts/sha256/{DIGEST}"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        assert api.enrol("kiosk-1").status == 201
        assert api.enrol("kiosk-2").status == 201
        assert api.ask("PUT", ARTIFACT, by="build", body=CONTENT).status == 201
        yield api


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["code"]


def audited(api: RunningApi, action: str) -> list[audit.AuditRow]:
    with api.store.read() as tx:
        return [row for row in audit.page(tx, limit=10_000) if row.action == action]


@contextmanager
def later(api: RunningApi, by: timedelta) -> Iterator[None]:
    api.clock_ahead = by
    try:
        yield
    finally:
        api.clock_ahead = timedelta()


# --- people's tokens -----------------------------------------------------------------------------


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_stolen_token_after_it_was_revoked(api: RunningApi) -> None:
    api.admit(Role.OPERATOR, "mallory")
    stolen = api.tokens["mallory"]
    assert api.ask("GET", "/v1/devices", headers=bearer(stolen)).status == 200
    revoked = api.ask(
        "POST", "/v1/access-tokens/mallory/revoke", by="alice", body={"reason": "laptop stolen"}
    )
    assert revoked.status == 200
    assert code(api.ask("GET", "/v1/devices", headers=bearer(stolen))) == (401, "E-TOKEN-REVOKED")
    assert audited(api, "access_token.refuse")[-1].details["code"] == "E-TOKEN-REVOKED"


def test_a_stolen_token_after_its_time(api: RunningApi) -> None:
    api.admit(Role.OPERATOR, "brief", days=1)
    with later(api, timedelta(days=2)):
        answer = api.ask("GET", "/v1/devices", by="brief")
    assert code(answer) == (401, "E-TOKEN-EXPIRED")


def test_a_token_that_was_renewed_is_replayed(api: RunningApi) -> None:
    api.admit(Role.VIEWER, "renewing")
    old = api.tokens["renewing"]
    answer = api.ask("POST", "/v1/access-tokens/self/renew", by="renewing")
    assert answer.status == 201
    new = bearer(answer.json["token"])
    assert api.ask("GET", "/v1/devices", headers=new).status == 200
    assert code(api.ask("GET", "/v1/devices", headers=bearer(old))) == (401, "E-TOKEN-REVOKED")


def test_a_guessed_token(api: RunningApi) -> None:
    known_id = api.tokens["vera"].split("_")[1]
    guess = f"mbt_{known_id}_{secrets.token_hex(32)}"
    assert code(api.ask("GET", "/v1/devices", headers=bearer(guess))) == (401, "E-TOKEN-INVALID")


def test_a_viewer_who_would_like_to_be_an_operator(api: RunningApi) -> None:
    body = {"reason": "because I can"}
    answer = api.ask("POST", "/v1/devices/kiosk-1/revoke", by="vera", body=body)
    assert code(answer) == (403, "E-NOT-PERMITTED")


def test_a_token_in_an_address_where_logs_would_keep_it(api: RunningApi) -> None:
    answer = api.ask("GET", f"/v1/devices?access_token={api.tokens['vera']}")
    assert code(answer) == (400, "E-TOKEN-IN-URL")


# --- tokens for one artifact ---------------------------------------------------------------------


def artifact_token(api: RunningApi, by: str) -> str:
    answer = api.ask("POST", "/v1/artifacts/tokens", by=by, body={"digest": DIGEST})
    assert answer.status == 201, answer.content
    return str(answer.json["token"])


def test_an_artifact_token_for_another_artifact(api: RunningApi) -> None:
    token = artifact_token(api, "kiosk-1")
    assert api.ask("GET", ARTIFACT, headers=bearer(token)).content == CONTENT
    other = f"/v1/artifacts/sha256/{'ab' * 32}"
    assert code(api.ask("GET", other, headers=bearer(token))) == (403, "E-ARTIFACT-TOKEN-OTHER")


def test_an_artifact_token_for_anything_else(api: RunningApi) -> None:
    token = artifact_token(api, "kiosk-1")
    answer = api.ask("GET", "/v1/trust/root", headers=bearer(token))
    assert code(answer) == (403, "E-ARTIFACT-TOKEN-OTHER")


def test_an_artifact_token_in_the_hands_of_another_device(api: RunningApi) -> None:
    token = artifact_token(api, "kiosk-1")
    answer = api.ask("GET", ARTIFACT, by="kiosk-2", headers=bearer(token))
    assert code(answer) == (403, "E-ARTIFACT-TOKEN-OTHER")


def test_an_artifact_token_replayed_after_a_quarter_of_an_hour(api: RunningApi) -> None:
    token = artifact_token(api, "kiosk-1")
    with later(api, timedelta(minutes=16)):
        answer = api.ask("GET", ARTIFACT, headers=bearer(token))
    assert answer.json["code"] == "E-ARTIFACT-TOKEN-EXPIRED"


def test_an_artifact_token_altered(api: RunningApi) -> None:
    token = artifact_token(api, "kiosk-1")
    altered = token[:-1] + ("0" if token[-1] != "0" else "1")
    answer = api.ask("GET", ARTIFACT, headers=bearer(altered))
    assert answer.json["code"] == "E-ARTIFACT-TOKEN-INVALID"


def test_an_artifact_token_of_a_device_revoked_since(api: RunningApi) -> None:
    assert api.enrol("stolen-1").status == 201
    token = artifact_token(api, "stolen-1")
    body = {"reason": "stolen from the shop"}
    assert api.ask("POST", "/v1/devices/stolen-1/revoke", by="alice", body=body).status == 200
    assert api.ask("GET", ARTIFACT, headers=bearer(token)).json["code"] == "E-REVOKED"


# --- devices and certificates --------------------------------------------------------------------


def test_a_revoked_device_at_the_api(api: RunningApi) -> None:
    assert api.enrol("stolen-2").status == 201
    assert api.ask("GET", "/v1/trust/root", by="stolen-2").status == 200
    body = {"reason": "stolen from the shop"}
    assert api.ask("POST", "/v1/devices/stolen-2/revoke", by="alice", body=body).status == 200
    assert code(api.ask("GET", "/v1/trust/root", by="stolen-2")) == (403, "E-REVOKED")
    assert audited(api, "device.revoke")[-1].reason == "stolen from the shop"


def test_a_revoked_device_that_enrols_again_under_its_name(api: RunningApi) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert api.enrol("stolen-3", key=key).status == 201
    body = {"reason": "stolen"}
    assert api.ask("POST", "/v1/devices/stolen-3/revoke", by="alice", body=body).status == 200
    assert code(api.enrol("stolen-3", key=key)) == (409, "E-CONFLICT")


def test_an_enrolment_token_used_twice(api: RunningApi) -> None:
    token = api.kit()["token"]
    assert api.enrol("once-1", token=token).status == 201
    assert api.enrol("once-2", token=token).json["code"] == "E-NOT-PERMITTED"


def test_an_enrolment_token_after_its_time(api: RunningApi) -> None:
    token = api.kit()["token"]
    with later(api, timedelta(days=365)):
        answer = api.enrol("late-1", token=token)
    assert answer.json["code"] == "E-NOT-PERMITTED"


def test_an_enrolment_that_takes_another_devices_name(api: RunningApi) -> None:
    assert code(api.enrol("kiosk-1")) == (409, "E-CONFLICT")


def test_an_enrolment_that_takes_the_controllers_name(api: RunningApi) -> None:
    assert code(api.enrol("controller")) == (409, "E-CONFLICT")


def test_no_certificate_at_all(api: RunningApi) -> None:
    answer = api.ask("GET", f"/v1/manifests/{CLASS}")
    assert answer.status == 401
    assert answer.json["code"] in {"E-CERTIFICATE-REQUIRED", "E-IDENTITY-REQUIRED"}


def test_a_certificate_of_another_authority(api: RunningApi, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "pki", FLEET, now=datetime.now(UTC))
    issued = other.issue_credential(Kind.CI, "build", now=datetime.now(UTC))
    (tmp_path / "x.pem").write_bytes(issued.certificate)
    (tmp_path / "x.key").write_bytes(issued.key or b"")
    api.identities["forged"] = (tmp_path / "x.pem", tmp_path / "x.key")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        api.ask("GET", "/v1/trust/root", by="forged")


def test_an_expired_certificate(api: RunningApi, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = api.authority.issue_device(
        certificate_request(key),
        device="kiosk-1",
        enrolment_number=1,
        now=datetime.now(UTC) - timedelta(days=400),
        days=1,
    )
    (tmp_path / "x.pem").write_bytes(issued.certificate)
    api.identities["expired"] = (tmp_path / "x.pem", write_key(key, tmp_path / "x.key"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        api.ask("GET", "/v1/trust/root", by="expired")


def test_a_certificate_in_a_devices_name_over_another_key(api: RunningApi, tmp_path: Path) -> None:
    """Whoever has the authority's key still has no device's key."""
    key = ec.generate_private_key(ec.SECP256R1())
    issued = api.authority.issue_device(
        certificate_request(key), device="kiosk-1", enrolment_number=1, now=api.now(), days=1
    )
    (tmp_path / "x.pem").write_bytes(issued.certificate)
    api.identities["twin"] = (tmp_path / "x.pem", write_key(key, tmp_path / "x.key"))
    assert api.ask("GET", "/v1/trust/root", by="twin").status == 403


def test_a_device_that_would_like_to_revoke_another(api: RunningApi) -> None:
    answer = api.ask("POST", "/v1/devices/kiosk-2/revoke", by="kiosk-1", body={"reason": "x"})
    assert answer.json["code"] == "E-NOT-PERMITTED"


def test_an_artifact_under_a_digest_it_does_not_have(api: RunningApi) -> None:
    path = f"/v1/artifacts/sha256/{'cd' * 32}"
    assert code(api.ask("PUT", path, by="build", body=CONTENT)) == (422, "E-DIGEST")
    assert api.ask("GET", path, by="build").status == 404


@pytest.mark.parametrize("name", ["..%2f..%2fcontroller.toml", "../../controller.toml", "AB" * 32])
def test_path_traversal_in_the_address_of_an_artifact(api: RunningApi, name: str) -> None:
    answer = api.ask("GET", f"/v1/artifacts/sha256/{name}", by="build")
    assert answer.status in {404, 422}
    assert b"fleet" not in answer.content


def test_more_guesses_than_anybody_needs(tmp_path: Path) -> None:
    with running_api(tmp_path, rate_refused_per_minute=5) as api:
        guess = bearer(f"mbt_{'0' * 16}_{'0' * 64}")
        answers = [api.ask("GET", "/v1/devices", headers=guess) for _ in range(7)]
        seen = [answer.json["code"] for answer in answers]
        assert (seen[0], seen[-1]) == ("E-TOKEN-INVALID", "E-RATE-LIMITED")
        # Nobody who shares the guesser's address is kept out for it.
        assert api.ask("GET", "/v1/devices", by="alice").status == 200


# --- submissions with a stolen CI key ------------------------------------------------------------


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    """A controller's own trust, database and reconciler, with 1.0.0 released and approved."""
    core = Core(tmp_path)
    core.release("1.0.0", plan("first"))
    yield core
    core.store.close()


def assert_rejected(core: Core, reply: SubmissionReply, *codes: str) -> None:
    """Refused under its code, written down with its sender, and nothing of it kept."""
    assert (reply.status, reply.code in codes) == ("rejected", True), reply
    with core.store.read() as tx:
        entry = audit.page(tx, limit=1000)[-1]
        assert [row.version for row in releases.every(tx)] == ["1.0.0"]
        assert [row.rollout.name for row in rollouts.every(tx)] == ["first"]
    assert (entry.actor, entry.action) == ("ci:build", "submission.refuse")
    assert entry.details["code"] == reply.code


def ci(core: Core) -> CryptoSigner:
    return load_key(core.trust.directory / "ci" / f"{MODEL}.pem")


def submit(
    core: Core, documents: dict[str, bytes] | None = None, **given: bytes
) -> SubmissionReply:
    content = Submission(
        fleet=FLEET,
        roles={role.replace("_", "-"): each for role, each in given.items()},
        documents=core.trust.documents if documents is None else documents,
    )
    return core.admission.submit(encode(content), "ci:build", core.now)


def approval_by(core: Core, version: str, *signers: CryptoSigner) -> bytes:
    content = next(
        each
        for each in core.trust.documents.values()
        if ReleaseDocument.parse(each).version == version
    )
    return roles.add_approval(
        core.trust.roles[APPROVAL],
        signers,
        model=MODEL,
        version=version,
        document=content,
        plan=plan("second", EVERYBODY).to_custom(),
        now=core.now,
    )


def test_ci_approves_itself_at_the_controller(core: Core) -> None:
    core.trust.release("1.1.0", approve=False)
    reply = submit(
        core,
        release_vad=core.trust.roles[RELEASE],
        approval_vad=approval_by(core, "1.1.0", ci(core)),
    )
    assert_rejected(core, reply, "E-SIGNATURE")


def test_a_submission_signed_with_keys_of_ones_own(core: Core, tmp_path: Path) -> None:
    stranger = TrustFleet(tmp_path / "stranger", now=core.now)
    for version in ("1.0.0", "6.6.6"):
        stranger.release(version)
    reply = submit(core, stranger.documents, release_vad=stranger.roles[RELEASE])
    assert_rejected(core, reply, "E-SIGNATURE")


def test_a_replayed_submission_changes_nothing(core: Core) -> None:
    with core.store.read() as tx:
        before = core.manifest().counter, len(audit.page(tx, limit=1000))
    first = core.submission(RELEASE, APPROVAL)
    replies = [core.admission.submit(first, "ci:build", core.now) for _ in range(3)]
    assert {reply.status for reply in replies} == {"accepted"}
    with core.store.read() as tx:
        assert (core.manifest().counter, len(audit.page(tx, limit=1000))) == before


def test_yesterdays_roles_submitted_again(core: Core) -> None:
    yesterday = dict(core.trust.roles)
    core.trust.withdraw("1.0.0")
    assert core.submit(APPROVAL).status == "accepted"
    reply = submit(core, approval_vad=yesterday[APPROVAL])
    assert_rejected(core, reply, "E-REBASE")


def test_a_submission_for_another_fleet(core: Core) -> None:
    content = Submission(fleet="sister", roles={RELEASE: core.trust.roles[RELEASE]}, documents={})
    reply = core.admission.submit(encode(content), "ci:build", core.now)
    assert_rejected(core, reply, "E-FLEET")


def test_a_version_released_again_with_other_bytes(core: Core) -> None:
    other = document("1.0.0", security_version=5).canonical_bytes()
    role = roles.add_release(
        core.trust.roles[RELEASE],
        ci(core),
        model=MODEL,
        version="1.0.0",
        document=other,
        now=core.now,
    )
    digest = hashlib.sha256(other).hexdigest()
    reply = submit(core, {digest: other}, release_vad=role)
    assert_rejected(core, reply, "E-IMMUTABLE")


def test_another_interface_under_a_minor_version(core: Core) -> None:
    changed = {
        "inputs": [{"name": "z", "dtype": "float32", "shape": [-1, 9]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 1]}],
    }
    other = document("1.1.0", interface=changed).canonical_bytes()
    role = roles.add_release(
        core.trust.roles[RELEASE],
        ci(core),
        model=MODEL,
        version="1.1.0",
        document=other,
        now=core.now,
    )
    reply = submit(core, {hashlib.sha256(other).hexdigest(): other}, release_vad=role)
    assert_rejected(core, reply, "E-SEMVER")


def test_an_approval_of_what_was_never_released(core: Core) -> None:
    ghost = document("6.6.6").canonical_bytes()
    approver = load_key(core.trust.directory / "approver" / f"{MODEL}.pem")
    role = roles.add_approval(
        core.trust.roles[APPROVAL],
        [approver],
        model=MODEL,
        version="6.6.6",
        document=ghost,
        plan=plan("ghost").to_custom(),
        now=core.now,
    )
    reply = submit(core, {hashlib.sha256(ghost).hexdigest(): ghost}, approval_vad=role)
    assert_rejected(core, reply, "E-NOT-RELEASED")


def test_a_role_from_the_future_that_would_push_every_clock(core: Core) -> None:
    content = document("1.1.0").canonical_bytes()
    role = roles.add_release(
        core.trust.roles[RELEASE],
        ci(core),
        model=MODEL,
        version="1.1.0",
        document=content,
        now=core.now + timedelta(days=3000),
    )
    reply = submit(core, {hashlib.sha256(content).hexdigest(): content}, release_vad=role)
    assert_rejected(core, reply, "E-ROLE-ISSUED")


def test_a_fast_forward_of_a_role_by_ci(core: Core) -> None:
    held = roles.Metadata.from_bytes(core.trust.roles[RELEASE])
    held.signed.version = 1 << 31
    reply = submit(core, release_vad=roles.sign(held.signed, [ci(core)]))
    assert_rejected(core, reply, "E-REBASE")


def test_a_release_role_that_delegates_to_somebody_else(core: Core) -> None:
    held = roles.Metadata.from_bytes(core.trust.roles[RELEASE])
    own = CryptoSigner.generate_ed25519().public_key
    role = roles.DelegatedRole("deeper", [own.keyid], 1, terminating=False, paths=["release/*"])
    held.signed.delegations = roles.Delegations({own.keyid: own}, {"deeper": role})
    held.signed.version += 1
    reply = submit(core, release_vad=roles.sign(held.signed, [ci(core)]))
    assert_rejected(core, reply, "E-ROLE-SHAPE")


def test_a_document_of_another_model_under_this_models_path(core: Core) -> None:
    other = document("1.1.0", model="asr").canonical_bytes()
    role = roles.add_release(
        core.trust.roles[RELEASE],
        ci(core),
        model=MODEL,
        version="1.1.0",
        document=other,
        now=core.now,
    )
    reply = submit(core, {hashlib.sha256(other).hexdigest(): other}, release_vad=role)
    assert_rejected(core, reply, "E-PATH")


# --- changes of keys -----------------------------------------------------------------------------


def take_roles(core: Core, **given: bytes) -> str:
    """The code under which a change of keys is refused; nothing of it is kept."""
    with core.store.read() as tx:
        before = {role: held[0] for role, held in trust_roles.newest(tx).items()}
    admission = RoleAdmission(core.store, core.reconciler)
    with pytest.raises(MailboatError) as refused:
        admission.take(
            {role.replace("_", "-"): each for role, each in given.items()},
            actor="operator:mallory",
            reason="trust me",
            now=core.now,
        )
    with core.store.read() as tx:
        assert {role: held[0] for role, held in trust_roles.newest(tx).items()} == before
        entry = audit.page(tx, limit=1000)[-1]
    assert entry.actor == "operator:mallory"
    return refused.value.code


def delegating(core: Core, *keys: CryptoSigner) -> bytes:
    """Targets version + 1, by the offline key: approvals are signed by these."""
    held = roles.Metadata.from_bytes(core.trust.roles["targets"]).signed
    for keyid in list(held.delegations.roles[APPROVAL].keyids):
        held.revoke_key(keyid, APPROVAL)
    for key in keys:
        held.add_key(key.public_key, APPROVAL)
    held.version += 1
    return roles.sign(held, [load_key(core.trust.directory / "offline" / "targets.pem")])


def approval_again(core: Core, signer: CryptoSigner) -> bytes:
    held = roles.Metadata.from_bytes(core.trust.roles[APPROVAL]).signed
    held.version += 1
    return roles.sign(held, [signer])


def test_one_key_for_the_role_that_releases_and_the_one_that_approves(core: Core) -> None:
    targets = delegating(core, ci(core))
    code = take_roles(core, targets=targets, approval_vad=approval_again(core, ci(core)))
    assert code == "E-KEY-SHARED"


def test_an_operator_names_an_approver_without_the_offline_keys(core: Core) -> None:
    own = CryptoSigner.generate_ed25519()
    held = roles.Metadata.from_bytes(delegating(core, own)).signed
    targets = roles.sign(held, [own])
    assert take_roles(core, targets=targets) == "E-SIGNATURE"


def test_an_operator_submits_a_root_of_their_own(core: Core) -> None:
    own = CryptoSigner.generate_ed25519()
    held = roles.Metadata.from_bytes(core.trust.roots[-1]).signed
    held.version += 1
    assert take_roles(core, root=roles.sign(held, [own])) == "E-SIGNATURE"
