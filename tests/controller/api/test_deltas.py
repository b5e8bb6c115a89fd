"""Deltas over HTTP: what is queued and why, and what a person orders."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mailboat_controller.cli.demo import run_here
from mailboat_controller.store import audit, releases
from running_api import RunningApi
from trust_fleet import CLASS, document

ADDRESS = "/v1/deltas/vad/3.0.0/3.1.0"


def hand_in(api: RunningApi, version: str, *contents: bytes) -> None:
    """A release that nobody approves."""
    files = []
    for number, content in enumerate(contents):
        digest = hashlib.sha256(content).hexdigest()
        api.artifacts.put(digest, iter([content]), len(content))
        role = "other" if number else "model"
        names = {"path": f"f{number}", "role": role}
        files.append({**names, "sha256": digest, "length": len(content)})
    variant = {
        "hardware_classes": [CLASS],
        "files": files,
        "runtime": {"version": ">=1.18"},
        "peak_memory": 1,
        "health": {},
    }
    content = document(version, variants=[variant]).canonical_bytes()
    with api.store.transaction() as tx:
        releases.put(
            tx,
            digest=hashlib.sha256(content).hexdigest(),
            model="vad",
            version=version,
            document=content,
            at=api.now(),
        )


def test_a_person_orders_what_nobody_runs_yet_and_drops_it_again(api: RunningApi) -> None:
    same = b"labels " * 1000
    hand_in(api, "3.0.0", b"a" * 9000, same)
    hand_in(api, "3.1.0", b"b" * 9000, same)

    before = api.ask("GET", ADDRESS, by="vera").json
    assert [(each["path"], each["queued"], each["delta"]) for each in before] == [
        ("f0", False, None),
        ("f1", True, None),
    ]
    assert before[1]["note"] == "unchanged: nothing is fetched"

    woken = api.woken
    order = {"reason": "to see what it costs", "hardware_class": CLASS}
    answer = api.ask("POST", f"{ADDRESS}/build", by="alice", body=order)

    assert answer.status == 200
    (file, _) = answer.json
    assert (file["queued"], file["pending"], file["delta"]["state"]) == (True, True, "waiting")
    assert file["delta"]["ordered_by"] == "operator:alice"
    assert api.woken > woken
    (queued,) = api.ask("GET", "/v1/deltas?state=waiting", by="wall").json
    assert queued["purposes"][0]["base_version"] == "3.0.0"
    with api.store.read() as tx:
        entry = [row for row in audit.page(tx) if row.action == "delta.build"][-1]
    assert (entry.subject, entry.reason) == ("vad@3.1.0", "to see what it costs")

    answer = api.ask("POST", f"{ADDRESS}/drop", by="alice", body={})
    assert answer.json[0]["delta"]["state"] == "dropped"
    assert api.ask("GET", "/v1/deltas?state=waiting", by="wall").json == []


def test_releases_and_classes_that_are_not_there_are_said_so(api: RunningApi) -> None:
    missing = api.ask("GET", "/v1/deltas/vad/8.0.0/9.0.0", by="vera")
    assert (missing.status, missing.json["code"]) == (404, "E-NOT-FOUND")

    same = api.ask("GET", "/v1/deltas/vad/9.0.0/9.0.0", by="vera")
    assert same.status == 409

    hand_in(api, "4.0.0", b"c" * 9000)
    hand_in(api, "4.1.0", b"d" * 9000)
    other = api.ask("GET", "/v1/deltas/vad/4.0.0/4.1.0?hardware_class=toaster", by="vera")
    assert other.status == 404


def test_the_command_shows_the_queue_and_one_pair_of_releases(api: RunningApi) -> None:
    hand_in(api, "5.0.0", b"e" * 9000)
    hand_in(api, "5.1.0", b"f" * 9000)
    alice = ["--connection", str(api.connection_file("alice"))]
    pair = ["release", "delta", "vad", "--from", "5.0.0", "--to", "5.1.0"]

    status, printed, _ = run_here([*pair, "--build", *alice])
    assert status == 0
    assert f"{CLASS}\tf0\t9000\t-\t-\twaiting" in printed

    status, printed, _ = run_here(["release", "deltas", "--state", "waiting", *alice])
    assert status == 0
    assert "vad 5.1.0 f0\t5.0.0\twaiting" in printed
    status, printed, _ = run_here(["release", "deltas", "-o", "json", *alice])
    assert {row["state"] for row in json.loads(printed)} >= {"waiting"}

    status, _, problem = run_here([*pair, "--explain", "--timeout-seconds", "1", *alice])
    assert status == 9  # nobody builds here
    assert "building: 1 of 1 files to go" in problem

    assert run_here([*pair, "--drop", *alice])[0] == 0
    assert run_here([*pair, "--drop", "--build", *alice])[0] == 1


def test_a_publisher_sees_on_their_own_disk_what_a_release_would_cost(tmp_path: Path) -> None:
    source: dict[str, Any] = {
        "apiVersion": "mailboat/v1",
        "kind": "Release",
        "metadata": {"name": "vad", "version": ""},
        "spec": {
            "interface": {
                "inputs": [{"name": "x", "dtype": "float32", "shape": [-1]}],
                "outputs": [{"name": "y", "dtype": "float32", "shape": [-1]}],
            },
            "variants": [
                {
                    "hardware_classes": [CLASS],
                    "files": [
                        {"path": "m.onnx", "source": "model", "role": "model"},
                        {"path": "words", "source": "words", "role": "labels"},
                    ],
                    "peak_memory": "1MiB",
                }
            ],
        },
    }
    (tmp_path / "words").write_bytes(b"yes no " * 100)
    text = b"one two three four " * 500
    for version, model in (("1.0.0", text), ("1.1.0", text.replace(b"two", b"2", 9))):
        (tmp_path / "model").write_bytes(model)
        source["metadata"] = {"name": "vad", "version": version}
        (tmp_path / "release.yaml").write_text(json.dumps(source))
        out = tmp_path / "builds" / version
        assert (
            run_here(["release", "build", str(tmp_path / "release.yaml"), "--out", str(out)])[0]
            == 0
        )
    pair = ["release", "delta", "vad", "--from", "1.0.0", "--dir", str(tmp_path / "builds")]

    status, printed, _ = run_here([*pair, "--to", "1.1.0", "--explain"])

    assert status == 0
    lines = [line.split("\t") for line in printed.splitlines()]
    assert lines[0][:4] == ["CLASS", "FILE", "WAY", "BYTES"]
    wins = [line[2] for line in lines if line[-1] == "wins"]
    assert {"full-zstd/1", "zstd-patch/1", "tensor-delta/1"} & set(wins)
    assert lines[-1][1:3] + lines[-1][-1:] == ["words", "as it is", "unchanged: nothing is fetched"]
    assert run_here([*pair, "--to", "7.0.0"])[0] == 4
