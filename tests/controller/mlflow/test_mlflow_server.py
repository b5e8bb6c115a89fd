"""Against a real MLflow: a model is logged, its alias set, and its release handed in."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent_process import until
from command_line import Said, mailboat
from mailboat_controller.authority.keys import load_key
from mailboat_controller.client import ApiClient
from mailboat_controller.https_stream import HttpsStream
from mailboat_controller.mlflow import seen
from mailboat_controller.mlflow.following import Follower
from mailboat_controller.mlflow.mapping import MlflowMapping
from mailboat_controller.mlflow.registry import MlflowRegistry
from mailboat_controller.mlflow.settings import MlflowSettings
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.documents.yaml_source import load_document
from mlflow_server import MlflowServer, mlflow_server
from running_api import RunningApi, running_api
from small_models import classifier
from trust_fleet import CLASS

# Importing MLflow and logging with it takes a minute and more on a slow machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    directory = tmp_path_factory.mktemp("controller")
    shared = directory / "mlflow.secret"
    shared.touch(mode=0o600)
    shared.write_text("a secret that both sides know")
    settings = MlflowSettings(webhook_secret_file=shared)
    with running_api(directory, mlflow=settings) as api:
        yield api


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory, api: RunningApi) -> Iterator[MlflowServer]:
    directory = tmp_path_factory.mktemp("mlflow")
    model = directory / "cups.onnx"
    model.write_bytes(classifier())
    with mlflow_server(directory, api.authority.ca_path) as server:
        server.log(
            {"name": "cups", "path": str(model)},
            {"name": "unsigned", "path": str(model), "signed": False},
            {"name": "other-shape", "path": str(model), "outputs": 7},
            {"name": "in-two-files", "path": str(model), "kind": "external"},
            {"name": "python", "kind": "python"},
        )
        yield server


@pytest.fixture
def room(tmp_path: Path, api: RunningApi, mlflow: MlflowServer) -> "Room":
    return Room(tmp_path, api, mlflow)


class Room:
    """A directory with a mapping, its pattern, and samples; and the commands on them."""

    def __init__(self, directory: Path, api: RunningApi, server: MlflowServer) -> None:
        self.directory = directory
        self.api = api
        self.server = server
        samples = np.random.default_rng(1).normal(size=(4, 1, 16)).astype(np.float32)
        np.savez(directory / "samples.npz", **{"in.x": samples})
        (directory / "release.yaml").write_text(json.dumps(PATTERN))

    def map(self, *entries: dict[str, Any], interval: int = 5) -> Path:
        defaults = {"alias": "champion", "release": "release.yaml", "samples": "samples.npz"}
        path = self.directory / "mlflow.yaml"
        spec = {
            "server": {"url": self.server.url, "ca": str(self.server.certificates.ca_path)},
            "interval_seconds": interval,
            "models": [defaults | entry for entry in entries],
        }
        head = {"apiVersion": "mailboat/v1", "kind": "MlflowMapping", "metadata": {"name": "cups"}}
        path.write_text(json.dumps(head | {"spec": spec}))
        return path

    def words(self) -> tuple[str | Path, ...]:
        key = self.api.trust.directory / "ci" / "vad.pem"
        return ("--key", key, "--connection", self.api.connection_file("build"))

    def poll(self, mapping: Path) -> Said:
        words = (*self.words(), "--state", self.directory / "state", "--json")
        return mailboat("mlflow", "poll", mapping, *words)

    @contextmanager
    def follower(self, path: Path, say: Callable[[str], None]) -> Iterator[Follower]:
        written = load_document(path, MlflowMapping)
        state = self.directory / "state"
        with (
            HttpsStream(self.server.certificates.ca_path) as stream,
            ApiClient.open(self.api.connection_file("build")) as client,
            seen.opened(state) as kept,
        ):
            yield Follower(
                mapping=written,
                path=path,
                registry=MlflowRegistry(stream, written.spec.server, path.parent),
                api=client,
                signer=load_key(self.api.trust.directory / "ci" / "vad.pem"),
                state=kept,
                directory=state,
                now=lambda: datetime.now(UTC),
                say=say,
            )

    def check(self, mapping: Path) -> Said:
        connection = self.api.connection_file("build")
        return mailboat("mlflow", "check", mapping, "--connection", connection, "--json")

    def release(self, version: str) -> ReleaseDocument:
        answer = self.api.ask("GET", f"/v1/releases/vad/{version}", by="alice")
        assert answer.status == 200, answer.content
        return ReleaseDocument.parse(answer.content)


PATTERN = {
    "apiVersion": "mailboat/v1",
    "kind": "Release",
    "metadata": {"name": "vad", "version": "1.0.0"},
    "spec": {
        "interface": {
            "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 16]}],
            "outputs": [{"name": "p", "dtype": "float32", "shape": [-1, 4]}],
        },
        "variants": [
            {
                "hardware_classes": [CLASS],
                "files": [
                    {"path": "model.onnx", "source": "model.onnx", "role": "model"},
                    {"path": "golden.npz", "source": "golden.npz", "role": "golden"},
                ],
                "peak_memory": "512MiB",
                "health": {"latency_p95_ms_max": 5000, "cold_start_ms_max": 60000},
            }
        ],
    },
}


def told(said: Said) -> list[dict[str, Any]]:
    """What the command printed; the controller of the same process logs before it."""
    begin = said.out.index("[\n") if "[\n" in said.out else 0
    return list(json.loads(said.out[begin:]))


def test_what_an_alias_names_becomes_a_release_that_nobody_has_approved(room: Room) -> None:
    mapping = room.map({"registered": "cups", "version": "1.0.{version}", "metrics": ["accuracy"]})
    assert told(room.poll(mapping))[0]["because"] == "no version has this alias"
    room.server.set_alias("cups", "champion", "1")

    checked = room.check(mapping)
    polled = room.poll(mapping)

    assert (checked.code, checked.json[0]["release"]) == (0, "vad@1.0.1")
    assert polled.code == 0, polled
    assert told(polled)[0]["state"] == "submitted"
    release = room.release("1.0.1")
    origin = release.provenance
    assert origin.registry.startswith(f"mlflow://127.0.0.1:{room.server.url[-5:]}/cups/1@sha256:")
    assert origin.evaluation == "accuracy=0.93"
    assert origin.dataset.startswith("cups-2026@")
    assert origin.build == f"mlflow run {room.server.version('cups', '1')['run_id']}"
    assert room.api.ask("GET", "/v1/rollouts", by="alice").json == []
    tags = room.server.tags("cups", "1")
    assert tags["mailboat.release"] == "vad@1.0.1"
    assert tags["mailboat.digest"] == told(polled)[0]["digest"]
    assert tags["mailboat.state"] == "submitted"


def test_looking_again_changes_nothing_even_when_what_was_seen_is_lost(room: Room) -> None:
    mapping = room.map({"registered": "cups", "version": "1.1.{version}"})
    room.server.set_alias("cups", "champion", "1")
    first = told(room.poll(mapping))[0]

    again = told(room.poll(mapping))[0]
    (room.directory / "state" / "seen.json").unlink()
    afresh = told(room.poll(mapping))[0]

    assert first["state"] == "submitted"
    assert again["state"] == "nothing"
    assert afresh["state"] == "submitted"
    assert afresh["digest"] == first["digest"]
    assert room.check(mapping).json[0]["because"] == "do nothing: it was submitted"


def test_an_alias_that_moves_gives_the_next_release_and_one_that_goes_gives_none(
    room: Room,
) -> None:
    mapping = room.map({"registered": "cups", "version": "1.2.{version}"})
    following = room.server.register_again("cups", "1")
    room.server.set_alias("cups", "champion", "1")
    room.poll(mapping)

    room.server.set_alias("cups", "champion", following)
    moved = told(room.poll(mapping))[0]
    room.server.delete_alias("cups", "champion")
    gone = room.poll(mapping)

    assert moved["release"] == f"vad@1.2.{following}"
    assert told(gone)[0]["because"] == "no version has this alias"
    assert gone.code == 0
    room.release("1.2.1")


def test_what_is_no_onnx_model_of_its_signature_in_one_file_is_refused_for_good(
    room: Room,
) -> None:
    names = {
        "unsigned": "E-MLFLOW-SIGNATURE",
        "other-shape": "E-MLFLOW-SIGNATURE",
        "in-two-files": "E-MODEL-REFUSED",
        "python": "E-MLFLOW-FLAVOUR",
    }
    for name in names:
        room.server.set_alias(name, "champion", "1")
    mapping = room.map(
        *({"registered": name, "version": f"2.{n}.{{version}}"} for n, name in enumerate(names))
    )

    polled = room.poll(mapping)

    rows = {row["key"].partition("@")[0]: row for row in told(polled)}
    assert polled.code == 1
    assert {name: row["because"].partition(":")[0] for name, row in rows.items()} == names
    assert {row["state"] for row in rows.values()} == {"refused"}
    assert "save_as_external_data=False" in rows["in-two-files"]["next_step"]
    assert "mlflow.onnx.log_model" in rows["python"]["next_step"]
    assert "infer_signature" in rows["unsigned"]["next_step"]
    assert room.server.tags("python", "1")["mailboat.state"].startswith("refused: E-MLFLOW-FLAVOUR")
    assert {row["state"] for row in told(room.poll(mapping))} == {"nothing"}


def test_a_model_over_the_bound_is_not_fetched(room: Room) -> None:
    room.server.set_alias("cups", "champion", "1")
    mapping = room.map({"registered": "cups", "version": "3.0.{version}", "bytes_max": 1000})

    polled = told(room.poll(mapping))[0]

    assert polled["because"].startswith("E-MLFLOW-TOO-LARGE")
    assert not (room.directory / "state" / "work").exists()


def test_mlflows_own_webhook_brings_the_release_long_before_the_next_poll(room: Room) -> None:
    secret = room.api.settings.mlflow.webhook_secret_file
    assert secret is not None
    room.server.add_webhook(f"{room.api.url}/v1/mlflow/webhook", secret.read_text().strip())
    mapping = room.map(
        {"registered": "cups", "alias": "told", "version": "6.0.{version}"}, interval=86_400
    )
    words = (*room.words(), "--follow", "--state", room.directory / "state")
    following = subprocess.Popen(
        [sys.executable, "-m", "mailboat_controller", "mlflow", "poll", mapping, *words],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    assert "no version has this alias" in following.stdout.readline() + following.stdout.readline()

    def submitted() -> bool:
        # MLflow goes by a list of webhooks that it reads once a second.
        room.server.set_alias("cups", "told", "1")
        return room.api.ask("GET", "/v1/releases/vad/6.0.1", by="alice").status == 200

    try:
        until(submitted)
    finally:
        following.terminate()
        following.communicate(timeout=60)

    notices = room.api.ask("GET", "/v1/mlflow/notices", by="build").json["notices"]
    assert {(notice["registered"], notice["alias"]) for notice in notices} >= {("cups", "told")}


def test_an_alias_that_moves_while_its_model_is_tried_costs_that_release_only(room: Room) -> None:
    following = room.server.register_again("cups", "1")
    room.server.set_alias("cups", "moving", "1")
    mapping = room.map({"registered": "cups", "alias": "moving", "version": "7.0.{version}"})

    def move(text: str) -> None:
        if "a trial for" in text:
            room.server.set_alias("cups", "moving", following)

    with room.follower(mapping, move) as follower:
        found = follower.look()[0]

    assert (found.state, found.release) == ("submitted", f"vad@7.0.{following}")
    state = room.server.tags("cups", "1")["mailboat.state"]
    assert state.startswith("failed: E-MLFLOW-ALIAS-MOVED")
    assert room.api.ask("GET", "/v1/releases/vad/7.0.1", by="alice").status == 404


def test_a_server_that_is_away_is_said_and_tried_again_at_the_next_look(room: Room) -> None:
    mapping = room.map({"registered": "cups", "version": "4.0.{version}"})
    whole = mapping.read_text()
    mapping.write_text(whole.replace(room.server.url, "https://127.0.0.1:1"))

    away = room.poll(mapping)
    room.server.set_alias("cups", "champion", "1")
    mapping.write_text(whole)

    assert (away.code, told(away)[0]["state"]) == (1, "unreachable")
    assert "127.0.0.1:1" in told(away)[0]["because"]
    assert told(room.poll(mapping))[0]["state"] == "submitted"


def test_a_version_that_was_made_elsewhere_is_not_taken_over(room: Room) -> None:
    room.server.set_alias("cups", "champion", "1")
    room.poll(room.map({"registered": "cups", "version": "5.0.{version}"}))
    following = room.server.register_again("cups", "1")
    room.server.ask(
        "POST",
        "model-versions/set-tag",
        {"name": "cups", "version": following, "key": "release", "value": "5.0.1"},
    )
    room.server.set_alias("cups", "champion", following)
    mapping = room.map({"registered": "cups", "version_tag": "release"})

    polled = room.poll(mapping)

    assert told(polled)[0]["state"] == "failed"
    assert told(polled)[0]["because"].startswith("E-CONFLICT: There is a release vad 5.0.1 already")
    assert room.check(mapping).code == 1
