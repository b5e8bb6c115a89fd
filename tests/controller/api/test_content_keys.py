"""Content keys over HTTPS: in from publishers, out to the devices they are for, wrapped to each."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import text

from mailboat_controller.authority import roles
from mailboat_controller.authority.keys import load_key
from mailboat_controller.content import keys as content_keys_module
from mailboat_controller.content.kek import FileKek
from mailboat_controller.content.keys import ContentKeyNotAssigned, ContentKeys
from mailboat_controller.store import devices, trust_roles
from mailboat_schemas.codec import encode
from mailboat_schemas.content_key import (
    WrappedContentKey,
    WrongContentKey,
    content_key_id,
    device_key_id,
    unwrap,
)
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.documents.release import document_digest
from mailboat_schemas.sealing import salt_of, seal
from mailboat_schemas.submission import Submission
from running_api import HARDWARE_CLASS, Answer, RunningApi, running_api
from trust_fleet import CLASS, EVERYBODY, FLEET, MODEL, document

KEY, OTHER_KEY = bytes(range(32)), bytes(range(32, 64))
KEY_ID, OTHER_ID = content_key_id(KEY), content_key_id(OTHER_KEY)
MODEL_FILE = b"weights of an encrypted model"
DEVICE = "kiosk-1"


DEVICE_KEY = ec.generate_private_key(ec.SECP256R1())


def with_device(directory: Path) -> AbstractContextManager[RunningApi]:
    @contextmanager
    def running() -> Iterator[RunningApi]:
        with running_api(directory) as api:
            assert api.enrol(DEVICE, key=DEVICE_KEY).status == 201
            yield api

    return running()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    """With device `kiosk-1`; nothing is released yet. For tests that change what others rely on."""
    with with_device(tmp_path) as api:
        yield api


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """With device `kiosk-1` and an encrypted release for its class, whose key is here."""
    with with_device(tmp_path_factory.mktemp("released")) as api:
        assert put(api).status == 201
        release(api)
        yield api


def put(api: RunningApi, key: bytes = KEY, key_id: str | None = None, by: str = "build") -> Answer:
    path = f"/v1/content-keys/{key_id or content_key_id(key)}"
    return api.ask("PUT", path, by=by, body={"key": key.hex()})


def ask(api: RunningApi, key_id: str = KEY_ID, by: str = DEVICE) -> Answer:
    return api.ask("POST", f"/v1/content-keys/{key_id}", by=by)


def encrypted(key: bytes) -> bytes:
    digest = hashlib.sha256(MODEL_FILE).hexdigest()
    return b"".join(seal([MODEL_FILE], key, salt_of(key, digest, len(MODEL_FILE))))


def described(version: str, key: bytes) -> bytes:
    """The document of an encrypted release."""
    artifact = encrypted(key)
    digest = hashlib.sha256(artifact).hexdigest()
    file: dict[str, Any] = {
        "path": "m.onnx",
        "role": "model",
        "sha256": hashlib.sha256(MODEL_FILE).hexdigest(),
        "length": len(MODEL_FILE),
        "sealed": {"content_key": content_key_id(key), "sha256": digest, "length": len(artifact)},
    }
    variant = {
        "hardware_classes": [CLASS],
        "files": [file],
        "runtime": {"version": ">=1.18"},
        "peak_memory": 1 << 20,
        "health": {},
    }
    return document(version, variants=[variant]).canonical_bytes()


def upload(api: RunningApi, key: bytes = KEY) -> None:
    artifact = encrypted(key)
    path = f"/v1/artifacts/sha256/{hashlib.sha256(artifact).hexdigest()}"
    assert api.ask("PUT", path, by="build", body=artifact).status == 201


def sign(api: RunningApi, content: bytes, version: str) -> None:
    """Release it, and approve it for everybody."""
    names = {"model": MODEL, "version": version, "document": content, "now": api.trust.now}
    held = api.trust
    ci, approver = (load_key(held.directory / who / f"{MODEL}.pem") for who in ("ci", "approver"))
    held.roles["release-vad"] = roles.add_release(held.roles["release-vad"], ci, **names)
    held.roles["approval-vad"] = roles.add_approval(
        held.roles["approval-vad"], [approver], plan=EVERYBODY.to_custom(), **names
    )


def release(api: RunningApi) -> None:
    """Everything that makes devices of the class want the key."""
    upload(api)
    content = described("1.0.0", KEY)
    sign(api, content, "1.0.0")
    documents = {document_digest(content): content}
    answer = submit(api, documents, "release-vad", "approval-vad")
    assert answer.json["status"] == "accepted", answer.content


def submit(api: RunningApi, documents: dict[str, bytes], *names: str) -> Answer:
    signed = {name: api.trust.roles[name] for name in names}
    content = encode(Submission(fleet=FLEET, roles=signed, documents=documents))
    headers = {"Content-Type": "application/vnd.msgpack"}
    return api.ask("POST", "/v1/submissions", by="build", body=content, headers=headers)


def audited(api: RunningApi, action: str) -> list[Any]:
    return [row for row in api.ask("GET", "/v1/audit", by="vera").json if row["action"] == action]


def everything_kept(api: RunningApi) -> bytes:
    return b"".join(p.read_bytes() for p in api.directory.rglob("*") if p.is_file())


class TestHandingOver:
    def test_keeps_a_key_wrapped_and_may_be_repeated(self, api: RunningApi) -> None:
        first, again = put(api), put(api)

        assert (first.status, again.status) == (201, 200)
        assert first.json["handed_over_by"] == "ci:build"
        assert [row["subject"] for row in audited(api, "content-key.take")] == [KEY_ID]
        assert KEY.hex() not in (first.content + again.content).decode()
        kept = everything_kept(api)
        assert KEY not in kept
        assert KEY.hex().encode() not in kept
        # No release has it yet.
        assert ask(api).json["code"] == "E-CONTENT-KEY-NOT-ASSIGNED"

        # What comes after a lost key-encryption key is not wrapped under a new one.
        kek = api.settings.data_dir / "content-keys" / "kek"
        kek.unlink()
        answer = put(api, OTHER_KEY)
        assert (answer.status, answer.json["code"]) == (503, "E-CONTENT-KEK")
        assert not kek.exists()

    def test_takes_no_other_key_under_an_id(self, released: RunningApi) -> None:
        for key_id in (KEY_ID, OTHER_ID[::-1]):
            answer = put(released, OTHER_KEY, key_id)
            assert (answer.status, answer.json["code"]) == (422, "E-CONTENT-KEY")
        assert ask(released).status == 200

    @pytest.mark.parametrize("key", ["", "ab", "g" * 64, "ab" * 33, 7])
    def test_a_request_that_is_none_is_refused_without_repeating_it(
        self, released: RunningApi, key: object
    ) -> None:
        path = f"/v1/content-keys/{OTHER_ID}"
        answer = released.ask("PUT", path, by="build", body={"key": key})
        assert answer.status == 422
        assert "g" * 64 not in answer.content.decode()

    def test_nobody_reads_a_key_back(self, released: RunningApi) -> None:
        for by, path in (("build", f"/v1/content-keys/{KEY_ID}"), ("alice", "/v1/content-keys")):
            answer = released.ask("GET", path, by=by)
            assert answer.status == 200
            assert KEY.hex() not in answer.content.decode()
        for by in ("alice", "build", "wall"):
            assert ask(released, by=by).status in (401, 403)

    def test_is_bounded(self, released: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
        held = len(released.ask("GET", "/v1/content-keys", by="wall").json)
        monkeypatch.setattr(content_keys_module, "CONTENT_KEYS_MAX", held)
        assert put(released, b"n" * 32).status == 409
        assert put(released).status == 200  # what is here stays usable
        monkeypatch.setattr(content_keys_module, "CONTENT_KEYS_MAX", held + 1)
        assert put(released, b"n" * 32).status == 201


def test_a_submission_waits_for_the_encrypted_artifact_and_for_the_key(api: RunningApi) -> None:
    content = described("1.0.0", KEY)
    sign(api, content, "1.0.0")
    documents = {document_digest(content): content}

    def answer() -> Any:
        return submit(api, documents, "release-vad", "approval-vad").json

    missing = answer()
    assert missing["code"] == "E-ARTIFACT-MISSING"
    assert missing["missing_artifacts"] == [hashlib.sha256(encrypted(KEY)).hexdigest()]
    upload(api)
    keyless = answer()
    assert (keyless["status"], keyless["code"]) == ("retry", "E-CONTENT-KEY-MISSING")
    put(api)
    assert answer()["status"] == "accepted"


class TestGiving:
    def test_a_device_of_the_class_gets_it_wrapped_to_its_own_key(
        self, released: RunningApi
    ) -> None:
        answer = ask(released)

        assert answer.status == 200, answer.content
        assert answer.headers["cache-control"] == "no-store"
        given = WrappedContentKey.model_validate_json(answer.content)
        assert given.device_key == device_key_id(DEVICE_KEY.public_key())
        names = {"key_id": KEY_ID, "fleet": FLEET}
        assert unwrap(given.wrapped, DEVICE_KEY, device=DEVICE, **names) == KEY
        with pytest.raises(WrongContentKey):
            unwrap(given.wrapped, DEVICE_KEY, device="kiosk-2", **names)
        assert KEY not in everything_kept(released)

    def test_who_was_given_which_key_is_audited_once_however_often_it_asks(
        self, released: RunningApi
    ) -> None:
        for _ in range(3):
            assert ask(released).status == 200
        [row] = audited(released, "content-key.give")
        assert (row["actor"], row["subject"]) == (f"device:{DEVICE}", KEY_ID)
        assert row["details"]["device_key"] == device_key_id(DEVICE_KEY.public_key())
        listed = released.ask("GET", "/v1/content-keys", by="vera").json
        assert (listed[0]["content_key"], listed[0]["devices"]) == (KEY_ID, 1)

    def test_waits_for_no_writer_once_it_is_written_down(self, released: RunningApi) -> None:
        """One stolen device could ask all day, and everybody's events wait for the writer."""
        assert ask(released).status == 200
        with released.store.transaction():
            assert ask(released).status == 200

    def test_not_to_a_device_of_another_class(self, released: RunningApi) -> None:
        other = HARDWARE_CLASS | {"metadata": {"name": "cam-arm"}}
        document = HardwareClass.model_validate(other).model_dump(mode="json", by_alias=True)
        path = "/v1/hardware-classes/cam-arm"
        assert released.ask("PUT", path, by="alice", body=document).status in (200, 201)
        token = released.kit(hardware_class="cam-arm")["token"]
        assert released.enrol("cam-1", token=token).status == 201

        answer = ask(released, by="cam-1")

        assert (answer.status, answer.json["code"]) == (403, "E-CONTENT-KEY-NOT-ASSIGNED")
        assert "device:cam-1" not in [row["actor"] for row in audited(released, "content-key.give")]

    def test_not_the_key_of_another_release_that_is_here_too(self, released: RunningApi) -> None:
        put(released, OTHER_KEY)
        assert ask(released, OTHER_ID).json["code"] == "E-CONTENT-KEY-NOT-ASSIGNED"

    def test_not_while_its_key_encryption_key_is_away_and_again_afterwards(
        self, released: RunningApi
    ) -> None:
        kek = released.settings.data_dir / "content-keys" / "kek"
        kek.rename(kek.with_name("elsewhere"))
        answer = ask(released)
        assert (answer.status, answer.json["code"]) == (503, "E-CONTENT-KEK")
        assert "retry-after" in answer.headers
        kek.with_name("elsewhere").rename(kek)
        assert ask(released).status == 200

    def test_a_row_moved_to_another_id_opens_as_nothing(self, released: RunningApi) -> None:
        """Somebody with the database, without the key-encryption key."""
        put(released, OTHER_KEY)
        with released.store.transaction() as tx:
            read = text("SELECT wrapped FROM content_keys WHERE key_id = :id")
            own, other = (tx.execute(read, {"id": id_}).scalar() for id_ in (KEY_ID, OTHER_ID))
        write = text("UPDATE content_keys SET wrapped = :wrapped WHERE key_id = :id")
        for wrapped, status in ((other, 503), (own, 200)):
            with released.store.transaction() as tx:
                tx.execute(write, {"id": KEY_ID, "wrapped": wrapped})
            assert ask(released).status == status

    def test_not_after_the_release_was_withdrawn_nor_to_a_revoked_device(
        self, api: RunningApi
    ) -> None:
        put(api)
        release(api)
        assert ask(api).status == 200
        held = api.trust
        approver = load_key(held.directory / "approver" / f"{MODEL}.pem")
        held.roles["approval-vad"] = roles.remove_approval(
            held.roles["approval-vad"], [approver], model=MODEL, version="1.0.0", now=held.now
        )
        with api.store.transaction() as tx:  # nothing has been published since
            trust_roles.put(tx, "approval-vad", 3, held.roles["approval-vad"], held.now)
        answer = ask(api)
        assert (answer.status, answer.json["code"]) == (403, "E-CONTENT-KEY-NOT-ASSIGNED")
        assert "not approved" in answer.json["detail"]

        revoke = {"reason": "stolen"}
        assert api.ask("POST", f"/v1/devices/{DEVICE}/revoke", by="alice", body=revoke).status < 300
        answer = ask(api)
        assert (answer.status, answer.json["code"]) == (403, "E-REVOKED")

    def test_not_to_a_device_that_is_revoked_while_a_slow_token_works(
        self, released: RunningApi
    ) -> None:
        assert released.enrol("kiosk-8").status == 201

        class SlowKek(FileKek):
            def unwrap(self, wrapped: bytes, binding: bytes) -> bytes:
                with released.store.transaction() as tx:
                    devices.revoke(tx, "kiosk-8")
                return super().unwrap(wrapped, binding)

        kek = SlowKek(released.settings.data_dir / content_keys_module.KEK_FILE, ours=True)
        public_key = DEVICE_KEY.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        with pytest.raises(ContentKeyNotAssigned, match="revoked"):
            ContentKeys(released.store, kek, FLEET).give(
                KEY_ID, "kiosk-8", public_key, now=released.now()
            )
        assert "device:kiosk-8" not in [e["actor"] for e in audited(released, "content-key.give")]

    def test_not_to_a_device_that_was_revoked_after_it_passed_the_door(
        self, released: RunningApi
    ) -> None:
        assert released.enrol("kiosk-9").status == 201
        keys = ContentKeys.of(released.settings, released.store)
        public_key = DEVICE_KEY.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        assert keys.give(KEY_ID, "kiosk-9", public_key, now=released.now())
        with released.store.transaction() as tx:
            devices.revoke(tx, "kiosk-9")
        with pytest.raises(ContentKeyNotAssigned, match="revoked"):
            keys.give(KEY_ID, "kiosk-9", public_key, now=released.now())
