"""Status, garbage, scrub and retirement, as operators reach them: routes and commands."""

import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailboat_controller.artifacts.directory import DirectoryStore
from mailboat_controller.cli.demo import run_here
from mailboat_controller.store import releases
from running_api import RunningApi, running_api
from running_controller import running_controller
from trust_fleet import document

CONTENT = b"a model"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PATH = f"/v1/artifacts/sha256/{DIGEST}"
NOBODYS = b"nobody's"
NOBODYS_DIGEST = hashlib.sha256(NOBODYS).hexdigest()
NOBODYS_PATH = f"/v1/artifacts/sha256/{NOBODYS_DIGEST}"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Holds one file, which a release names."""
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        assert api.ask("PUT", PATH, by="build", body=CONTENT).status == 201
        accept(api, "1.0.0")
        yield api


@pytest.fixture(autouse=True)
def _as_it_was(api: RunningApi) -> Iterator[None]:
    yield
    for days in (8, 16):  # what nobody names is noticed, and goes
        api.clock_ahead = timedelta(days=days)
        assert api.ask("POST", "/v1/artifacts/garbage", by="alice", body={}).status == 200
    api.clock_ahead = timedelta()


def put(api: RunningApi) -> None:
    """What no release names."""
    assert api.ask("PUT", NOBODYS_PATH, by="build", body=NOBODYS).status == 201


def accept(api: RunningApi, version: str, content: bytes = CONTENT) -> None:
    """As if it had been submitted."""
    variant = {
        "hardware_classes": ["edge-x86"],
        "files": [
            {
                "path": "m.onnx",
                "role": "model",
                "sha256": hashlib.sha256(content).hexdigest(),
                "length": len(content),
            }
        ],
        "runtime": {"version": ">=1.18"},
        "peak_memory": 1 << 20,
        "health": {},
    }
    released = document(version, variants=[variant]).canonical_bytes()
    with api.store.transaction() as tx:
        releases.put(
            tx,
            digest=hashlib.sha256(released).hexdigest(),
            model="vad",
            version=version,
            document=released,
            at=datetime.now(UTC),
        )


def mailboat(api: RunningApi, *words: str, by: str = "alice") -> tuple[int, str, str]:
    path = api.connection_file(by)
    text = path.read_text()
    (line,) = [each for each in text.splitlines() if each.startswith("api_url")]
    path.write_text(text.replace(line, f'api_url = "{api.url}"'))
    return run_here([*words, "--connection", str(path)])


def test_nobody_names_it_so_it_goes_a_week_after_it_was_noticed(api: RunningApi) -> None:
    put(api)
    waiting = api.ask("POST", "/v1/artifacts/garbage", by="alice", body={}).json
    assert [row["digest"] for row in waiting["waiting"]] == [NOBODYS_DIGEST]
    api.clock_ahead = timedelta(days=8)

    dry = api.ask("POST", "/v1/artifacts/garbage", by="alice", body={"dry_run": True}).json
    assert (dry["due"], dry["due_bytes"], dry["removed"]) == ([NOBODYS_DIGEST], len(NOBODYS), 0)
    done = api.ask("POST", "/v1/artifacts/garbage", by="alice", body={}).json

    assert (done["removed"], done["removed_bytes"]) == (1, len(NOBODYS))
    assert api.ask("HEAD", NOBODYS_PATH, by="build").status == 404
    assert api.ask("HEAD", PATH, by="build").status == 200
    put(api)


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_a_publisher_who_looks_whether_it_is_there_has_a_week_to_name_it(
    api: RunningApi, method: str
) -> None:
    put(api)
    api.ask("POST", "/v1/artifacts/garbage", by="alice", body={})
    api.clock_ahead = timedelta(days=8)

    body = NOBODYS if method == "PUT" else None
    assert api.ask(method, NOBODYS_PATH, by="build", body=body).status == 200

    done = api.ask("POST", "/v1/artifacts/garbage", by="alice", body={}).json
    assert done["removed"] == 0


def test_a_damaged_file_is_found_told_and_healed(api: RunningApi) -> None:
    assert isinstance(api.artifacts, DirectoryStore)
    path = api.artifacts.path(DIGEST)
    path.chmod(0o644)
    path.write_bytes(b"a medel")

    begun = api.ask("POST", "/v1/artifacts/scrub", by="alice")
    assert (begun.status, begun.json["running"]) == (202, True)
    api.care.scrub(threading.Event())  # as the service's loop does
    code, out, _ = mailboat(api, "artifact", "scrub", "--no-wait")
    assert (code, "Begun" in out) == (0, True)
    api.care.scrub(threading.Event())

    assert api.ask("GET", PATH, by="build").status == 404
    assert api.ask("GET", "/v1/artifacts/scrub", by="vera").json["running"] is False
    code, out, _ = mailboat(api, "artifact", "status")
    assert code == 0
    assert DIGEST in out
    assert "vad 1.0.0" in out
    assert "mailboat release submit" in out

    assert api.ask("PUT", PATH, by="build", body=CONTENT).status == 201
    status = json.loads(mailboat(api, "artifact", "status", "--json", by="vera")[1])
    assert (status["damaged"], status["missing"], status["quarantined"]) == ([], 0, 1)


def test_commands_say_what_they_would_do_and_did(api: RunningApi) -> None:
    put(api)

    assert mailboat(api, "artifact", "gc")[1].startswith("Removed 0 artifacts, 0 bytes.")
    api.clock_ahead = timedelta(days=8)
    code, out, _ = mailboat(api, "artifact", "gc", "--dry-run")
    assert (code, out.splitlines()[0]) == (0, "Would remove 1 artifacts, 8 bytes.")
    _, out, _ = mailboat(api, "artifact", "gc", "--json")
    assert json.loads(out[out.index("{") :])["removed"] == 1  # after what the controller here logs


def test_a_release_is_retired_and_taken_back_by_an_operator(api: RunningApi) -> None:
    accept(api, "4.0.0")
    words = ("release", "retire", "vad", "4.0.0", "--reason", "old")

    assert mailboat(api, *words, by="paul")[0] == 5
    code, out, _ = mailboat(api, *words)
    assert (code, "vad 4.0.0 is retired" in out) == (0, True)
    code, _, err = mailboat(api, *words)
    assert (code, "E-RELEASE-RETIRED" in err) == (6, True)
    standing = api.ask("GET", "/v1/releases/vad/4.0.0/standing", by="vera").json
    assert (standing["standing"], standing["by"], standing["reason"]) == (
        "retired",
        "operator:alice",
        "old",
    )

    code, out, _ = mailboat(api, *words, "--undo")
    assert (code, "kept again" in out) == (0, True)
    assert mailboat(api, "release", "retire", "vad", "9.9.9", "--reason", "x")[0] == 4


def test_a_part_that_is_no_part_is_the_whole(api: RunningApi) -> None:
    for wanted, status, expected in (
        ("bytes=2-4", 206, CONTENT[2:5]),
        ("bytes=-3", 206, CONTENT[-3:]),
        ("bytes=0-", 206, CONTENT),
        ("bytes=2-999", 206, CONTENT[2:]),
        ("bytes=5-2", 200, CONTENT),
        ("bytes=0-1,3-4", 200, CONTENT),
        ("bytes=-", 200, CONTENT),
        ("chapters=1-2", 200, CONTENT),
        ("bytes=-0", 416, b""),
        ("bytes=7-", 416, b""),
    ):
        answer = api.ask("GET", PATH, by="build", headers={"Range": wanted})
        assert (answer.status, answer.content) == (status, expected), wanted


def test_the_disk_keeps_no_redirect(api: RunningApi) -> None:
    answer = api.ask("GET", PATH, by="build", headers={"Mailboat-Accept-Redirect": "1"})

    assert (answer.status, answer.content) == (200, CONTENT)
    assert Path(api.artifacts.place).is_dir()


@pytest.mark.slow
def test_a_running_controller_reads_everything_when_it_is_told_to(tmp_path: Path) -> None:
    with running_controller(tmp_path) as controller:
        artifacts = DirectoryStore(controller.settings.artifacts_dir)
        artifacts.put(DIGEST, [CONTENT], len(CONTENT))
        path = str(controller.person("alice"))

        code, out, _ = run_here(["artifact", "scrub", "--json", "--connection", path])

        assert code == 0
        found = json.loads(out[out.index("{\n") :])["scrub"]
        assert (found["running"], found["checked"], found["damaged"]) == (False, 1, 0)
