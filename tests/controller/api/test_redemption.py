"""Who fetches a release over HTTPS and counts as exposed to it: devices, and nobody else."""

import hashlib

import pytest

from mailboat_controller.store import redemptions
from mailboat_schemas.codec import encode
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.submission import Submission
from running_api import Answer, RunningApi
from trust_fleet import CLASS, FLEET

CONTENT = b"a model"
FILE = hashlib.sha256(CONTENT).hexdigest()
PATH = f"/v1/artifacts/sha256/{FILE}"
EVERYBODY = Plan(rollout="first", waves=(PlanWave(count_ppm=1_000_000, cap_ppm=1_000_000),))
VARIANT = {
    "hardware_classes": [CLASS],
    "files": [{"path": "m.onnx", "role": "model", "sha256": FILE, "length": len(CONTENT)}],
    "runtime": {"version": ">=1.18"},
    "peak_memory": 1 << 20,
    "health": {},
}


@pytest.fixture(scope="module")
def release(api: RunningApi) -> str:
    """On its way to everybody."""
    for name in ("cam-1", "cam-2", "cam-3"):
        assert api.enrol(name).status == 201
    assert api.ask("PUT", PATH, by="build", body=CONTENT).status == 201
    digest = api.trust.release("1.0.0", EVERYBODY, variants=[VARIANT])
    roles = {name: api.trust.roles[name] for name in ("release-vad", "approval-vad")}
    documents = {digest: api.trust.documents[digest]}
    sent = encode(Submission(fleet=FLEET, roles=roles, documents=documents))
    headers = {"Content-Type": "application/vnd.msgpack"}
    assert api.ask("POST", "/v1/submissions", by="build", body=sent, headers=headers).status == 200
    api.reconciler.run(api.now())
    return digest


def exposed(api: RunningApi, release: str) -> set[str]:
    with api.store.read() as tx:
        return set(redemptions.of_release(tx, release, since_epoch=0))


def by_token(api: RunningApi, of: str) -> Answer:
    ordered = api.ask("POST", "/v1/artifacts/tokens", by=of, body={"digest": FILE}).json
    return api.ask("GET", PATH, headers={"Authorization": f"Bearer {ordered['token']}"})


def test_a_device_that_gets_bytes_is_exposed_by_its_certificate_or_by_its_token(
    api: RunningApi, release: str
) -> None:
    first = api.ask("GET", PATH, by="cam-1", headers={"Range": "bytes=0-2"})
    assert (first.status, exposed(api, release)) == (206, {"cam-1"})

    assert by_token(api, "cam-2").status == 200
    assert exposed(api, release) == {"cam-1", "cam-2"}


def test_who_gets_no_bytes_or_is_no_device_is_not(api: RunningApi, release: str) -> None:
    before = exposed(api, release)

    assert api.ask("HEAD", PATH, by="cam-3").status == 200
    same = api.ask("GET", PATH, by="cam-3", headers={"If-None-Match": f'"{FILE}"'})
    assert same.status == 304
    assert api.ask("POST", "/v1/artifacts/tokens", by="cam-3", body={"digest": FILE}).status == 201
    assert by_token(api, "build").status == by_token(api, "alice").status == 200

    assert exposed(api, release) == before
