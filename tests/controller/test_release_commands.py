"""`mailboat trust init` and `mailboat release …`, word by word, against a real controller."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from command_line import Said, forget_settings, mailboat
from mailboat_controller.demo.processes import program
from mailboat_schemas.codec import decode
from mailboat_schemas.documents.release import document_digest
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.submission import Submission
from running_controller import RunningController, running_controller
from trust_fleet import CLASS, FLEET

TENSOR = {"name": "x", "dtype": "float32", "shape": [-1, 4]}


@pytest.fixture(autouse=True)
def _no_connection_of_mine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_settings(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningController]:
    with running_controller(tmp_path_factory.mktemp("controller")) as controller:
        yield controller


@dataclass
class Pipeline:
    """A publisher's checkout: sources, build directories, keys, a connection."""

    directory: Path
    controller: RunningController

    @property
    def as_ci(self) -> tuple[str, Path]:
        return "--connection", self.controller.connection("build")

    def key(self, name: str) -> tuple[str, Path]:
        return "--key", self.controller.trust.directory / f"{name}.pem"

    def source(self, version: str, *, content: bytes = b"weights", name: str = "vad") -> Path:
        (self.directory / "model.onnx").write_bytes(content)
        release = {
            "apiVersion": "mailboat/v1",
            "kind": "Release",
            "metadata": {"name": name, "version": version},
            "spec": {
                "interface": {"inputs": [TENSOR], "outputs": [TENSOR]},
                "variants": [
                    {
                        "hardware_classes": [CLASS],
                        "files": [{"path": "m.onnx", "source": "model.onnx", "role": "model"}],
                        "peak_memory": "64MiB",
                    }
                ],
            },
        }
        path = self.directory / "release.yaml"
        path.write_text(json.dumps(release, indent=1))  # JSON is YAML
        return path

    def rollout(self, version: str, *waves: dict[str, Any], name: str | None = None) -> Path:
        content = {
            "apiVersion": "mailboat/v1",
            "kind": "Rollout",
            "metadata": {"name": name or f"to-{version.replace('.', '-')}"},
            "spec": {
                "release": {"model": "vad", "version": version},
                "waves": list(waves) or [{"percent": 100}],
            },
        }
        path = self.directory / "rollout.yaml"
        path.write_text(json.dumps(content, indent=1))  # JSON is YAML
        return path

    def built(self, version: str, **changes: Any) -> Path:
        out = self.directory / f"build-{version}"
        assert mailboat("release", "build", self.source(version, **changes), "--out", out).code == 0
        return out

    def sign(self, build: Path, *more: str | Path, key: str = "ci/vad") -> Said:
        return mailboat("release", "sign", build, *self.key(key), *self.as_ci, *more)

    def approve(self, build: Path, rollout: Path, *more: str | Path) -> Said:
        words = ("--rollout", rollout, *self.key("approver/vad"), *self.as_ci, *more)
        return mailboat("release", "approve", build, *words)

    def submit(self, build: Path, *more: str | Path) -> Said:
        return mailboat("release", "submit", build, *self.as_ci, "--json", *more)

    def ready(self, version: str, **changes: Any) -> Path:
        """Built, signed and approved."""
        build = self.built(version, **changes)
        assert self.sign(build).code == 0
        assert self.approve(build, self.rollout(version)).code == 0
        return build


@pytest.fixture
def pipeline(tmp_path: Path, controller: RunningController) -> Pipeline:
    return Pipeline(tmp_path, controller)


class TestTrustInit:
    def test_makes_a_ceremony_and_says_where_what_goes(self, tmp_path: Path) -> None:
        trust = tmp_path / "trust"
        said = mailboat("trust", "init", trust, "--model", "vad", "--model", "asr", "--json")

        assert said.code == 0
        assert said.json == {
            "directory": str(trust),
            "factory_root": str(trust / "root.json"),
            "models": ["vad", "asr"],
            "encrypted": False,
        }
        assert (trust / "ci" / "asr.pem").exists()

    def test_takes_quorums_and_the_passphrase_from_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MAILBOAT_KEY_PASSPHRASE", "correct horse")
        quorums = ("--root", "2-of-3", "--targets", "1-of-2", "--approval", "2-of-2")
        said = mailboat("trust", "init", tmp_path / "t", "--model", "vad", *quorums, "--json")

        assert said.json["encrypted"] is True
        assert "correct horse" not in said.out + said.err
        assert len(list((tmp_path / "t" / "offline").iterdir())) == 5
        assert len(list((tmp_path / "t" / "approver").iterdir())) == 2
        # The same shell may start the controller: its own keys have no passphrase.
        data = ("--data-dir", tmp_path / "data", "--trust", tmp_path / "t")
        assert mailboat("init", "--fleet", "demo", *data).code == 0

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            ((), 2),
            (("--model", "Vad"), 1),
            (("--model", "vad", "--model", "vad"), 1),
            (("--model", "vad", "--root", "3-of-2"), 1),
            (("--model", "vad", "--root", "0-of-0"), 1),
            (("--model", "vad", "--root", "two"), 1),
            (("--model", "vad", "--root", "²-of-3"), 1),
            (("--model", "vad", "--root", "1-of-" + "9" * 5000), 1),
            (("--model", "vad", "--approval", "1-of-17"), 1),
        ],
    )
    def test_refuses_what_cannot_be_and_makes_nothing(
        self, tmp_path: Path, words: tuple[str, ...], code: int
    ) -> None:
        assert mailboat("trust", "init", tmp_path / "trust", *words).code == code
        assert not (tmp_path / "trust").exists()

    def test_never_writes_into_a_directory_that_has_something(self, tmp_path: Path) -> None:
        (tmp_path / "key.pem").write_text("mine")

        assert mailboat("trust", "init", tmp_path, "--model", "vad").code == 6
        assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


class TestBuild:
    def test_says_what_was_built(self, pipeline: Pipeline) -> None:
        out = pipeline.directory / "out"
        said = mailboat("release", "build", pipeline.source("9.0.0"), "--out", out, "--json")

        assert said.code == 0
        assert said.json == {
            "model": "vad",
            "version": "9.0.0",
            "digest": document_digest((out / "release.json").read_bytes()),
            "directory": str(out),
            "files": 1,
            "bytes": 7,
            "content_keys": [],
        }
        assert said.err == ""

    def test_points_at_mistakes(self, pipeline: Pipeline) -> None:
        source = pipeline.source("9.0.0")
        source.write_text(source.read_text().replace("peak_memory", "peek_memory"))
        said = mailboat("release", "build", source, "--out", pipeline.directory / "out")

        assert said.code == 1
        assert "release.yaml:" in said.err
        assert "did you mean 'peak_memory'?" in said.err

    def test_without_a_place_to_build_into_is_a_usage_error(self, pipeline: Pipeline) -> None:
        assert mailboat("release", "build", pipeline.source("9.0.0")).code == 2

    def test_errors_are_json_for_programs(self, pipeline: Pipeline) -> None:
        """By the installed program: what stands on its two outputs is what a script reads."""
        words = [
            "release",
            "build",
            str(pipeline.directory / "none.yaml"),
            "--out",
            "out",
            "--json",
        ]
        done = subprocess.run(
            [program("mailboat"), *words], cwd=pipeline.directory, capture_output=True, check=False
        )

        assert (done.returncode, done.stdout) == (1, b"")
        assert json.loads(done.stderr)["code"] == "E-DOCUMENT"


class TestSignAndApprove:
    def test_say_what_was_signed(self, pipeline: Pipeline) -> None:
        build = pipeline.built("9.0.0")
        signed = pipeline.sign(build, "--json")
        waves = ({"pilots": ["dev-1"]}, {"percent": 8}, {"percent": 100})
        rollout = pipeline.rollout("9.0.0", *waves)
        approved = pipeline.approve(build, rollout, "--devices-per-class", "100", "--json")

        assert (signed.code, approved.code) == (0, 0)
        assert signed.json["role"] == "release-vad"
        assert [wave["cap_ppm"] for wave in approved.json["plan"]["waves"]] == [
            0,
            pytest.approx(212_000, abs=100),
            1_000_000,
        ]
        assert {path.name for path in (build / "roles").iterdir()} == {
            "release-vad.json",
            "approval-vad.json",
        }

    def test_work_without_a_network_from_role_files(self, pipeline: Pipeline) -> None:
        build = pipeline.built("9.0.0")
        trust = pipeline.controller.trust.directory / "controller" / "trust"
        role = ("--role-file", trust / "release-vad.json")
        said = mailboat("release", "sign", build, *pipeline.key("ci/vad"), *role, "--json")

        assert said.code == 0

    @pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", "root"])
    def test_nothing_is_added_to_what_is_no_role(
        self, pipeline: Pipeline, content: bytes | str | None
    ) -> None:
        role = pipeline.directory / "role.json"
        if isinstance(content, bytes):
            role.write_bytes(content)
        elif content == "root":
            role.write_bytes(pipeline.controller.trust.factory_root)
        build = pipeline.built("9.0.0")
        words = ("--role-file", role, *pipeline.key("ci/vad"))

        assert mailboat("release", "sign", build, *words).code == 1
        assert not (build / "roles").exists()

    def test_need_a_key_that_opens(self, pipeline: Pipeline) -> None:
        build = pipeline.built("9.0.0")
        assert pipeline.sign(build, key="ci/nobody").code == 1

    def test_need_a_build(self, pipeline: Pipeline) -> None:
        said = pipeline.sign(pipeline.directory)
        assert (said.code, "mailboat release build" in said.err) == (1, True)

    def test_a_model_that_nobody_delegated_is_not_found(self, pipeline: Pipeline) -> None:
        assert pipeline.sign(pipeline.built("9.0.0", name="unheard-of")).code == 4

    def test_a_rollout_of_another_release_is_not_signed(self, pipeline: Pipeline) -> None:
        build = pipeline.built("9.0.0")
        said = pipeline.approve(build, pipeline.rollout("9.0.1"))

        assert (said.code, "vad 9.0.1" in said.err) == (1, True)
        assert not (build / "roles").exists()

    def test_a_partial_wave_needs_the_size_of_a_class(self, pipeline: Pipeline) -> None:
        build = pipeline.built("9.0.0")
        said = pipeline.approve(build, pipeline.rollout("9.0.0", {"percent": 10}))

        assert (said.code, "--devices-per-class" in said.err) == (1, True)


class TestSubmit:
    def test_brings_a_release_to_the_controller_and_again_changes_nothing(
        self, pipeline: Pipeline
    ) -> None:
        build = pipeline.ready("1.0.0")
        first = pipeline.submit(build)
        known = pipeline.controller.known()
        second = pipeline.submit(build)

        assert (first.code, second.code) == (0, 0)
        assert first.json["status"] == "accepted"
        assert first.json["releases"] == ["vad@1.0.0"]
        assert first.json["rollouts"] == ["to-1-0-0"]
        assert (first.json["uploaded"], second.json["uploaded"]) == (1, 0)
        assert {**second.json, "uploaded": 1} == first.json
        assert pipeline.controller.known() == known

    def test_by_https_gets_the_same_answer(self, pipeline: Pipeline) -> None:
        build = pipeline.ready("1.1.0")
        by_https = pipeline.submit(build, "--http")
        by_mqtt = pipeline.submit(build)

        assert by_https.json["releases"] == ["vad@1.1.0"]
        assert {**by_mqtt.json, "uploaded": by_https.json["uploaded"]} == by_https.json

    def test_only_written_sends_nothing(self, pipeline: Pipeline) -> None:
        build = pipeline.ready("1.2.0")
        known = pipeline.controller.known()
        path = pipeline.directory / "submission.bin"
        said = pipeline.submit(build, "--only-write", path)
        submission = decode(Submission, path.read_bytes())

        assert (said.code, said.json) == (0, {"path": str(path)})
        assert (submission.fleet, set(submission.roles)) == (
            FLEET,
            {"release-vad", "approval-vad"},
        )
        assert pipeline.controller.known() == known
        assert pipeline.submit(build, "--only-write", path / "x").code == 1

    def test_release_and_approval_may_come_one_after_the_other(self, pipeline: Pipeline) -> None:
        build = pipeline.built("1.3.0")
        pipeline.sign(build)
        released = pipeline.submit(build)
        (build / "roles" / "release-vad.json").unlink()
        pipeline.approve(build, pipeline.rollout("1.3.0"))
        approved = pipeline.submit(build)

        assert (released.json["releases"], released.json["rollouts"]) == (["vad@1.3.0"], [])
        assert (approved.json["releases"], approved.json["rollouts"]) == ([], ["to-1-3-0"])

    def test_what_is_not_signed_is_not_submitted(self, pipeline: Pipeline) -> None:
        said = pipeline.submit(pipeline.built("9.0.0"))

        assert (said.code, said.out) == (1, "")
        assert "mailboat release sign" in said.err

    def test_the_wrong_key_ends_with_eight(self, pipeline: Pipeline) -> None:
        build = pipeline.built("9.0.0")
        pipeline.sign(build, key="approver/vad")
        said = pipeline.submit(build)

        assert (said.code, said.json["code"]) == (8, "E-SIGNATURE")
        assert said.json["reasons"]

    def test_old_ground_ends_with_six_and_signing_anew_helps(self, pipeline: Pipeline) -> None:
        slower = pipeline.built("1.4.1", content=b"slower")
        pipeline.sign(slower)
        assert pipeline.submit(pipeline.ready("1.4.0")).code == 0
        refused = pipeline.submit(slower)
        pipeline.sign(slower)

        assert (refused.code, refused.json["code"]) == (6, "E-REBASE")
        assert pipeline.submit(slower).code == 0

    def test_another_content_of_a_released_version_ends_with_six(self, pipeline: Pipeline) -> None:
        assert pipeline.submit(pipeline.ready("1.5.0")).code == 0
        said = pipeline.submit(pipeline.ready("1.5.0", content=b"quietly exchanged"))

        assert (said.code, said.json["code"]) == (6, "E-IMMUTABLE")

    def test_a_rollout_name_that_is_taken_ends_with_six(self, pipeline: Pipeline) -> None:
        assert pipeline.submit(pipeline.ready("1.6.0")).code == 0
        build = pipeline.built("1.6.1")
        pipeline.sign(build)
        pipeline.approve(build, pipeline.rollout("1.6.1", name="to-1-6-0"))
        said = pipeline.submit(build)

        assert (said.code, said.json["code"]) == (6, "E-CONFLICT")

    def test_a_build_whose_files_are_gone_uploads_nothing(self, pipeline: Pipeline) -> None:
        build = pipeline.ready("9.0.0")
        shutil.rmtree(build / "blobs")
        said = pipeline.submit(build)

        assert (said.code, "mailboat release build" in said.err) == (1, True)

    def test_a_file_that_was_changed_in_the_build_is_refused(self, pipeline: Pipeline) -> None:
        build = pipeline.ready("9.0.1", content=os.urandom(20))
        (blob,) = (build / "blobs").iterdir()
        blob.write_bytes(b"something else entir")
        said = pipeline.submit(build)

        assert (said.code, "E-DIGEST" in said.err) == (1, True)

    def test_without_the_right_to_upload_ends_with_five(self, pipeline: Pipeline) -> None:
        build = pipeline.ready("9.0.2", content=os.urandom(20))
        wall = pipeline.controller.connection("wall", Kind.DASHBOARD)

        assert mailboat("release", "submit", build, "--connection", wall).code == 5

    def test_a_broker_that_is_away_ends_with_nine(self, pipeline: Pipeline) -> None:
        build = pipeline.ready("1.7.0")
        away = pipeline.directory / "away"
        shutil.copytree(pipeline.controller.connection("build").parent, away)
        connection = away / "connection.toml"
        port = f"mqtt_port = {pipeline.controller.mqtt_port}"
        connection.write_text(connection.read_text().replace(port, "mqtt_port = 1"))
        said = mailboat("release", "submit", build, "--connection", connection, "--json")

        assert (said.code, said.out) == (9, "")
        assert "--http" in said.err

    def test_is_read_by_people_too(self, pipeline: Pipeline) -> None:
        build = pipeline.ready("1.8.0")
        said = mailboat("release", "submit", build, *pipeline.as_ci)

        assert said.out == "accepted: vad@1.8.0, to-1-8-0\n"
