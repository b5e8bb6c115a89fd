"""What `poll` makes of an alias whose release the controller has, without an MLflow beside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import mailboat
from mailboat_schemas.codec import encode
from mailboat_schemas.submission import Submission
from mlflow_answers import Answers, mlflow_answers
from model_fleet import Certificates
from running_api import RunningApi, running_api
from trust_fleet import FLEET

pytestmark = pytest.mark.slow

PATTERN = """\
apiVersion: mailboat/v1
kind: Release
metadata: {name: vad, version: 1.0.0}
spec:
  interface:
    inputs: [{name: x, dtype: float32, shape: [-1, 4]}]
    outputs: [{name: y, dtype: float32, shape: [-1, 3]}]
  variants:
  - hardware_classes: [kiosk-x86]
    files: [{path: model.onnx, source: model.onnx, role: model}]
    peak_memory: 512MiB
"""
MAPPING = """\
apiVersion: mailboat/v1
kind: MlflowMapping
metadata: {name: cups}
spec:
  server: {url: "%s", ca: "%s"}
  models: [{registered: cups, alias: champion, release: release.yaml}]
"""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running_api(tmp_path / "controller") as api:
        yield api


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[Answers]:
    certificates = Certificates(tmp_path / "pki")
    with mlflow_answers(certificates) as answers:
        (tmp_path / "release.yaml").write_text(PATTERN)
        (tmp_path / "mlflow.yaml").write_text(MAPPING % (answers.url, certificates.ca_path))
        answers.offer(("model.onnx", 137))
        answers.say("mlflow/runs/get", {"run": {}})
        yield answers


def submit(api: RunningApi, **provenance: str) -> str:
    path = api.artifacts.path("ab" * 32)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"onnx")
    digest = api.trust.release("1.0.3", approve=False, provenance=provenance)
    roles = {"release-vad": api.trust.roles["release-vad"]}
    documents = {digest: api.trust.documents[digest]}
    content = encode(Submission(fleet=FLEET, roles=roles, documents=documents))
    headers = {"Content-Type": "application/vnd.msgpack"}
    answer = api.ask("POST", "/v1/submissions", by="build", body=content, headers=headers)
    assert answer.status == 200, answer.content
    return digest


def poll(api: RunningApi, directory: Path) -> dict[str, Any]:
    key = api.trust.directory / "ci" / "vad.pem"
    words = ("--key", key, "--connection", api.connection_file("build"), "--json")
    said = mailboat("mlflow", "poll", directory / "mlflow.yaml", *words, "--state", directory / "s")
    (told,) = json.loads(said.out[said.out.index("[\n") :])
    return dict(told)


def test_a_release_that_is_there_is_found_and_one_of_a_model_registered_anew_is_not_it(
    api: RunningApi, answers: Answers, tmp_path: Path
) -> None:
    host = answers.url.removeprefix("https://")
    registry = f"mlflow://{host}/cups/3@sha256:ab"
    digest = submit(api, registry=registry, build="mlflow run r1")

    found = poll(api, tmp_path)
    again = poll(api, tmp_path)
    version = {"name": "cups", "version": "3", "run_id": "r2"}
    answers.say("mlflow/registered-models/alias", {"model_version": version})
    anew = poll(api, tmp_path)
    later = poll(api, tmp_path)

    assert (found["state"], found["digest"]) == ("submitted", digest)
    assert (again["state"], again["because"]) == ("nothing", "it was submitted")
    assert anew["state"] == "failed"
    assert anew["because"].startswith("E-CONFLICT: There is a release vad 1.0.3 already")
    assert later["because"].startswith("it is tried again at")
