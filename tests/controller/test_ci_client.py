"""Submitting by MQTT as a pipeline does: our client and mosquitto_rr, to a real controller."""

import base64
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailboat_controller import ci_client
from mailboat_controller.artifacts.directory import DirectoryStore
from mailboat_controller.broker.embedded import find_mosquitto
from mailboat_controller.connection_file import load_connection
from mailboat_controller.pki.issuing import Authority
from mailboat_schemas.codec import encode
from mailboat_schemas.enrolment import Connection, Kind
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    MalformedPayload,
    ServerUnavailable,
)
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.submission import Submission, SubmissionReply
from mailboat_schemas.topics import Channel, build
from running_controller import RunningController, running_controller
from trust_fleet import FLEET

SECONDS = 60
ROLES = ("release-vad", "approval-vad")


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningController]:
    with running_controller(tmp_path_factory.mktemp("controller")) as controller:
        _put_artifact(controller)
        yield controller


def _artifact(controller: RunningController) -> Path:
    return DirectoryStore(controller.settings.artifacts_dir).path("ab" * 32)


def _put_artifact(controller: RunningController) -> None:
    path = _artifact(controller)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"onnx")


def submission(controller: RunningController, version: str) -> bytes:
    """A release of this version and its approval, under a rollout name of its own."""
    name = f"r-{version.replace('.', '-')}"
    waves = (PlanWave(cap_ppm=1_000_000, count_ppm=1_000_000),)
    controller.trust.release(version, Plan(rollout=name, waves=waves))
    return encode(
        Submission(
            fleet=FLEET,
            roles={role: controller.trust.roles[role] for role in ROLES},
            documents=controller.trust.documents,
        )
    )


def submit(
    controller: RunningController,
    payload: bytes,
    *,
    by: str = "build",
    timeout_seconds: float = SECONDS,
    **changes: object,
) -> SubmissionReply:
    path = controller.connection(by)
    connection = load_connection(path).model_copy(update=changes)
    return ci_client.submit(payload, connection, path.parent, timeout_seconds=timeout_seconds)


class TestAnswers:
    def test_a_submission_is_accepted_and_a_second_time_changes_nothing(
        self, controller: RunningController
    ) -> None:
        payload = submission(controller, "1.0.0")
        first = submit(controller, payload)
        known = controller.known()
        second = submit(controller, payload)

        assert (first.status, first.releases, first.rollouts) == (
            "accepted",
            ("vad@1.0.0",),
            ("r-1-0-0",),
        )
        assert second == first
        assert controller.known() == known

    def test_a_refusal_is_an_answer_with_a_code_and_a_reason(
        self, controller: RunningController
    ) -> None:
        known = controller.known()
        reply = submit(controller, b"garbage")

        assert (reply.status, reply.code) == ("rejected", "E-PAYLOAD-MALFORMED")
        assert reply.reasons
        assert controller.known() == known

    def test_a_missing_artifact_asks_for_the_same_bytes_again(
        self, controller: RunningController
    ) -> None:
        payload = submission(controller, "1.1.0")
        _artifact(controller).unlink()
        early = submit(controller, payload)
        _put_artifact(controller)
        late = submit(controller, payload)

        assert (early.status, early.code, early.missing_artifacts) == (
            "retry",
            "E-ARTIFACT-MISSING",
            ("ab" * 32,),
        )
        assert (late.status, late.releases) == ("accepted", ("vad@1.1.0",))

    def test_jobs_of_one_pipeline_at_the_same_time_all_get_theirs(
        self, controller: RunningController
    ) -> None:
        """The broker lets one connection per name live; each new one ends the one before."""
        controller.connection()  # issued once, whichever test is the first
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(lambda n: submit(controller, b"garbage %d" % n), range(4)))

        assert len({reply.submission for reply in replies}) == 4
        assert {reply.code for reply in replies} == {"E-PAYLOAD-MALFORMED"}


class TestNoAnswer:
    def test_without_a_broker_says_so_at_once(self, controller: RunningController) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        started = time.monotonic()

        with pytest.raises(ServerUnavailable, match=f"127.0.0.1:{port} refused"):
            submit(controller, b"x", mqtt_port=port)
        assert time.monotonic() - started < SECONDS / 2

    @pytest.mark.slow  # the library connects for 5 s, in a thread that nothing can end
    def test_a_broker_that_says_nothing_is_given_up_in_time(
        self, controller: RunningController
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            started = time.monotonic()
            with pytest.raises(ServerUnavailable):
                submit(controller, b"x", timeout_seconds=1, mqtt_port=silent.getsockname()[1])
            assert time.monotonic() - started < SECONDS / 2

    def test_a_certificate_of_another_authority_is_refused(
        self, controller: RunningController, tmp_path: Path
    ) -> None:
        path = controller.connection()
        now = datetime.now(UTC)
        stranger = Authority.create(tmp_path / "pki", FLEET, now=now)
        issued = stranger.issue_credential(Kind.CI, "build", now=now)
        (tmp_path / "build.pem").write_bytes(issued.certificate)
        (tmp_path / "build.key").write_bytes(issued.key or b"")
        shutil.copy(path.with_name("ca.pem"), tmp_path)

        with pytest.raises(ServerUnavailable):
            ci_client.submit(b"x", load_connection(path), tmp_path, timeout_seconds=0.5)

    def test_a_broker_of_another_authority_is_refused(
        self, controller: RunningController, tmp_path: Path
    ) -> None:
        path = controller.connection()
        for name in ("build.pem", "build.key"):
            shutil.copy(path.with_name(name), tmp_path)
        stranger = Authority.create(tmp_path / "pki", FLEET, now=datetime.now(UTC))
        (tmp_path / "ca.pem").write_bytes(stranger.ca_pem)

        with pytest.raises(ServerUnavailable, match="certificate verify failed"):
            ci_client.submit(b"x", load_connection(path), tmp_path, timeout_seconds=SECONDS)

    @pytest.mark.parametrize("spoilt", ["ca.pem", "build.pem", "build.key"])
    @pytest.mark.parametrize("content", [None, b"not a certificate"])
    def test_files_that_cannot_be_used_are_the_readers_own_to_mend(
        self, controller: RunningController, tmp_path: Path, spoilt: str, content: bytes | None
    ) -> None:
        path = controller.connection()
        shutil.copytree(path.parent, tmp_path / "own")
        (tmp_path / "own" / spoilt).unlink()
        if content is not None:
            (tmp_path / "own" / spoilt).write_bytes(content)

        with pytest.raises(ConfigurationInvalid):
            ci_client.submit(b"x", load_connection(path), tmp_path / "own", timeout_seconds=3)

    @pytest.mark.parametrize(
        "changes",
        [{"fleet": "other"}, {"name": "other"}],
        ids=["another fleet", "another name than the certificate's"],
    )
    def test_without_the_right_to_publish_nobody_answers(
        self, controller: RunningController, changes: dict[str, str]
    ) -> None:
        """mosquitto says so only in the PUBACK, which the client library keeps to itself."""
        known = controller.known()

        with pytest.raises(ServerUnavailable, match="did not answer") as problem:
            submit(controller, b"x", timeout_seconds=0.5, **changes)
        assert "fleet and name" in problem.value.next_step
        assert controller.known() == known


@pytest.fixture
def lonely_broker(tmp_path: Path) -> Iterator[Connection]:
    """A broker with TLS and nobody behind it; files for a pipeline stand in ``tmp_path``."""
    now = datetime.now(UTC)
    authority = Authority.create(tmp_path / "pki", FLEET, now=now)
    files = authority.server_files(("localhost", "127.0.0.1"), now=now)
    issued = authority.issue_credential(Kind.CI, "build", now=now)
    (tmp_path / "build.pem").write_bytes(issued.certificate)
    (tmp_path / "build.key").write_bytes(issued.key or b"")
    (tmp_path / "ca.pem").write_bytes(authority.ca_pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    lines = [
        f"listener {port} 127.0.0.1",
        f"cafile {files.ca}",
        f"certfile {files.certificate}",
        f"keyfile {files.key}",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "user root",
    ]
    config.write_text("\n".join(lines) + "\n")
    broker = subprocess.Popen([str(find_mosquitto()), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield Connection(
            fleet=FLEET,
            name="build",
            api_url="https://127.0.0.1:1",
            mqtt_host="127.0.0.1",
            mqtt_port=port,
            ca="ca.pem",
            certificate="build.pem",
            key="build.key",
        )
    finally:
        broker.terminate()
        broker.wait()


class TestWithoutAController:
    def test_time_runs_out(self, lonely_broker: Connection, tmp_path: Path) -> None:
        with pytest.raises(ServerUnavailable, match="did not answer within 1 s"):
            ci_client.submit(b"x", lonely_broker, tmp_path, timeout_seconds=1)


def test_what_is_no_reply_is_not_read_as_one() -> None:
    for content in (b"", b"null", b"{}", b'{"status": "maybe", "submission": "x"}'):
        with pytest.raises(MalformedPayload):
            ci_client._read(content)


def _tls_words(directory: Path, connection: Connection) -> list[str]:
    return [
        *("--cafile", str(directory / connection.ca)),
        *("--cert", str(directory / connection.certificate)),
        *("--key", str(directory / connection.key)),
        *("-h", connection.mqtt_host, "-p", str(connection.mqtt_port)),
    ]


@pytest.mark.skipif(shutil.which("mosquitto_rr") is None, reason="mosquitto_rr is not installed")
class TestByMosquittoRr:
    """docs/protocol.md promises that a shell can do what our command does."""

    def _ask(self, controller: RunningController, path: Path, job: str) -> SubmissionReply:
        connection_path = controller.connection("shell")
        connection = load_connection(connection_path)
        names = {"fleet": connection.fleet, "pipeline": connection.name}
        done = subprocess.run(
            [
                *("mosquitto_rr", "-V", "5", "-q", "1", "-W", str(SECONDS)),
                *("-t", build(Channel.SUBMIT, **names)),
                *("-e", build(Channel.REPLY, **names, job=job)),
                # Debian's mosquitto_rr (2.0.11) sends an empty message with -f and with -s.
                *("-m", base64.b64encode(path.read_bytes()).decode()),
                *_tls_words(connection_path.parent, connection),
            ],
            capture_output=True,
            check=True,
        )
        return SubmissionReply.model_validate(json.loads(done.stdout))

    def test_the_same_bytes_are_accepted_and_again_change_nothing(
        self, controller: RunningController, tmp_path: Path
    ) -> None:
        path = tmp_path / "submission.bin"
        path.write_bytes(submission(controller, "1.2.0"))
        first = self._ask(controller, path, "1")
        known = controller.known()
        second = self._ask(controller, path, "2")

        assert (first.status, first.releases) == ("accepted", ("vad@1.2.0",))
        assert second == first
        # Our own client, as another pipeline: the bytes are the submission, whoever brings them.
        assert submit(controller, path.read_bytes()) == first
        assert controller.known() == known

    def test_a_refusal_says_why(self, controller: RunningController, tmp_path: Path) -> None:
        path = tmp_path / "submission.bin"
        path.write_bytes(b"garbage")

        assert self._ask(controller, path, "3").code == "E-PAYLOAD-MALFORMED"


def test_threads_end_with_the_answer(controller: RunningController) -> None:
    before = threading.active_count()
    submit(controller, b"garbage")

    assert threading.active_count() == before
