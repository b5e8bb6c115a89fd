"""`mailboat model build` of a model with code around it, with labels, and with data to watch."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

import small_models
from agent_process import until
from mailboat_controller.bundles import asking
from mailboat_controller.bundles.given import given_samples
from mailboat_controller.bundles.ports import Port
from mailboat_controller.cli import output
from mailboat_controller.cli.demo import run_here

# Each starts processes that load a model.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("patient_promises")]

PREPARE = """\
import json
import numpy as np


def prepare(inputs, bundle):
    scale = json.loads(bundle["scale.json"])["scale"]
    pixels = inputs["pixels"]
    return {"x": pixels.reshape(len(pixels), 16).astype(np.float32) * np.float32(scale)}
"""
NAME = """\
import numpy as np


def name_them(outputs, bundle, inputs):
    labels = bundle["labels.txt"].decode().split()
    return {"label": np.array([labels[i] for i in outputs["p"].argmax(-1)], dtype=object)}
"""
CHECK = """\
import json, sys

first = json.load(sys.stdin)["samples"][0]["outputs"]["label"]["text"][0]
print(json.dumps({"measures": {"letters": len(first)}}))
"""
# What it has already, and a little; two more copies of the model are not in it.
REWRITING_IN_LITTLE_MEMORY = """\
import psutil
from mailboat_controller.bundles import quantizing

quantizing.MEMORY_BYTES_MAX = psutil.Process().memory_info().data + (8 << 20)
quantizing.main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "digits.onnx").write_bytes(small_models.classifier())
    (tmp_path / "labels.txt").write_text("cold\nwarm\nhot\nfire\n")
    (tmp_path / "scale.json").write_text('{"scale": 0.01}')
    (tmp_path / "prepare.py").write_text(PREPARE)
    (tmp_path / "name.py").write_text(NAME)
    (tmp_path / "check.py").write_text(CHECK)
    return tmp_path


def build(folder: Path, *words: str | Path) -> tuple[int, Any, str]:
    """Exit code, the answer as JSON, and what went to standard error."""
    told = ["model", "build", folder / "digits.onnx", "--class", "box", "--json"]
    before = psutil.Process().children()
    code, out, err = run_here([str(word) for word in (*told, "--out", folder / "out", *words)])
    assert "Traceback" not in err
    assert psutil.Process().children() == before
    return code, json.loads(out) if out else None, err


def variant(folder: Path) -> dict[str, Any]:
    content = yaml.safe_load((folder / "out" / "release.yaml").read_text())
    found: dict[str, Any] = content["spec"]["variants"][0]
    return found


def test_code_before_and_behind_a_model_is_built_tried_and_part_of_its_golden_samples(
    folder: Path,
) -> None:
    code, said, err = build(
        folder,
        *("--preprocess", f"{folder}/prepare.py:prepare", "--input", "pixels=uint8:-1x4x4"),
        *("--postprocess", f"{folder}/name.py:name_them", "--output", "label=string:-1"),
        *("--labels", folder / "labels.txt", "--calibration", folder / "scale.json"),
        *("--check", folder / "check.py"),
    )

    assert code == 0, err
    assert said["interface"]["inputs"] == [
        {"name": "pixels", "dtype": "uint8", "shape": [-1, 4, 4]}
    ]
    assert said["trials"][0]["report"]["check"] == {"letters": 4.0}
    assert {file["role"] for file in said["files"]} >= {"preprocess", "postprocess", "check"}
    declared = variant(folder)["pipeline"]
    assert declared["preprocess"] == "prepare"
    assert declared["model_interface"]["inputs"][0]["shape"] == [-1, 16]
    with np.load(folder / "out" / "golden.npz") as golden:
        assert golden["in.pixels"].dtype == np.uint8
        assert set(golden["out.label"].ravel()) <= {"cold", "warm", "hot", "fire"}
    assert run_here(["model", "try", str(folder / "out" / "build")])[0] == 0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (NAME.replace('"p"', '"q"'), "KeyError"),
        (NAME.replace("name_them", "other"), "no function"),
        (NAME.replace("dtype=object", "dtype=np.str_") + "\nwhile True: pass\n", "answer within"),
        ("import os\n" + NAME, "cannot be imported"),
        ("(", "does not compile"),
    ],
    ids=["raises", "missing", "hangs", "imports", "no python"],
)
def test_code_that_fails_is_refused_with_its_own_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    (folder / "name.py").write_text(name)
    monkeypatch.setattr(asking, "INFERENCE_SECONDS_MAX", 10.0 if "while" not in name else 2.0)

    code, _, err = build(
        folder,
        *("--postprocess", f"{folder}/name.py:name_them", "--output", "label=string:-1"),
        *("--labels", folder / "labels.txt"),
    )

    assert code == output.EXIT_FAILURE
    assert problem in err
    assert not (folder / "out").exists()


def test_files_for_the_code_are_bounded_together(folder: Path) -> None:
    with (folder / "huge.bin").open("wb") as file:
        file.truncate(65 << 20)

    code, _, err = build(
        folder,
        *("--postprocess", f"{folder}/name.py:name_them", "--output", "label=string:-1"),
        *("--labels", folder / "labels.txt", "--file", folder / "huge.bin"),
    )

    assert code == output.EXIT_FAILURE
    assert "leave out" in err


def test_classes_that_the_data_knows_make_the_golden_samples_an_accuracy(folder: Path) -> None:
    data = folder / "data.npz"
    inputs = np.random.default_rng(3).normal(size=(60, 1, 16)).astype(np.float32)
    np.savez(data, x=inputs)
    assert build(folder, "--data", data, "--samples", "60")[0] == 0
    with np.load(folder / "out" / "golden.npz") as golden:
        truth = golden["out.p"].argmax(-1)
    truth[:6] = (truth[:6] + 1) % 4  # the model is wrong in one of ten
    np.savez(data, **{"in.x": inputs, "out.p": truth})

    code, said, err = build(folder, "--data", data, "--samples", "60")

    assert code == 0, err
    assert said["accuracy"] == {"p": pytest.approx(0.9)}
    assert variant(folder)["health"]["metrics"] == {"p": {"metric": "top1", "at_least": 0.88}}
    assert said["trials"][0]["report"]["metrics"]["p"] == pytest.approx(0.9)


def test_labels_judge_an_output_by_its_decisions_and_data_to_watch_makes_a_drift_gate(
    folder: Path,
) -> None:
    live = folder / "live.npz"
    np.savez(live, x=np.random.default_rng(4).normal(size=(30, 1, 16)).astype(np.float32))

    code, said, err = build(folder, "--labels", folder / "labels.txt", "--reference", live)

    assert code == 0, err
    health = variant(folder)["health"]
    assert health["metrics"] == {"p": {"metric": "top1", "at_least": 0.93}}
    assert health["soak"]["drift"]["outputs_max"] > 0
    assert json.loads((folder / "out" / "reference.json").read_text())["samples"] == 30
    assert said["latencies"][0]["p95_ms"] > 0
    assert said["declared"]["health"]["latency_p95_ms_max"] > 0

    assert build(folder)[0] == 0  # and without them nothing of it stays
    assert not (folder / "out" / "reference.json").exists()
    assert "metrics" not in variant(folder)["health"]


def test_an_answer_of_gigabytes_is_not_gathered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ANSWERS_BYTES_MAX", 100)

    code, _, err = build(folder)

    assert code == output.EXIT_FAILURE
    assert "over 100 bytes" in err


def test_an_output_that_no_golden_sample_holds_is_refused(folder: Path) -> None:
    wide = numpy_helper.from_array(np.array([1, 20_000_000]), "s")  # 80 MB of floats
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "s"], ["y"])],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [wide],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "digits.onnx")

    code, _, err = build(folder)

    assert code == output.EXIT_FAILURE
    assert "outputs are over" in err


def test_a_build_directory_with_other_bytes_in_it_is_no_release(folder: Path) -> None:
    assert build(folder)[0] == 0
    blobs = sorted((folder / "out" / "build" / "blobs").iterdir())
    content = blobs[0].read_bytes()
    for altered in (content[:-1], content + b"x", bytes(len(content))):
        blobs[0].write_bytes(altered)
        code, out, err = run_here(["model", "try", str(folder / "out" / "build")])
        assert code == output.EXIT_FAILURE, out
        assert "release build" in err


def test_rewriting_that_takes_more_memory_than_it_may_is_an_answer_or_an_end(
    folder: Path,
) -> None:
    (folder / "digits.onnx").write_bytes(small_models.classifier(hidden=200_000))
    order = {"model": str(folder / "digits.onnx"), "to": "fp16", "out": str(folder / "small.onnx")}

    done = subprocess.run(
        [sys.executable, "-c", REWRITING_IN_LITTLE_MEMORY],
        input=json.dumps(order | {"samples": None, "per_channel": False}) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode != 0 or "error" in json.loads(done.stdout)
    assert not (folder / "small.onnx").exists()


def test_samples_are_made_of_files_as_the_guide_says(folder: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "file_samples.py"
    words = [sys.executable, str(example), str(example.parent), str(folder / "samples.npz")]
    subprocess.run(words, check=True, timeout=60)

    given = given_samples(folder / "samples.npz", [Port("bytes", "INT32", ("n", 2048))])

    assert given.inputs["bytes"].shape[1:] == (1, 2048)
    assert given.inputs["bytes"].max() <= 256


# --- ended in between ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "told to end"])
@pytest.mark.parametrize("waits_for", ["Loading", "Asking", "Measuring"])
def test_a_build_that_is_ended_leaves_nothing_behind(
    folder: Path, number: signal.Signals, waits_for: str
) -> None:
    temporary, home = folder / "tmp", folder / "home"
    temporary.mkdir()
    home.mkdir()
    main = "from mailboat_controller.cli import main; main()"
    words = ["build", str(folder / "digits.onnx"), "--class", "box", "--out", str(home / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", main, "model", *words],
        env=os.environ | {"TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith(waits_for):
                break
        if waits_for == "Measuring":  # what a trial keeps meanwhile is gone, too
            places = ("mailboat-trial-*", "mailboat-device-*/mailboat-trial-*")
            until(lambda: [found for place in places for found in temporary.glob(place)])
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number)  # as a terminal does
        rest = process.stderr.read()
        code = process.wait(60)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()

    assert code == 128 + number
    assert "Traceback" not in rest
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    assert list(temporary.iterdir()) == []
    assert list(home.iterdir()) == []
