"""`mailboat model try`, `build`, `quantize`: real models, real workers, the device's own trial."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import yaml

import small_models
from mailboat_controller.bundles import (
    asking,
    device_process,
    promising,
    proposal,
    quantizing,
    smaller,
)
from mailboat_controller.bundles.device_process import DeviceProcess, DeviceProcessEnded
from mailboat_controller.cli import output
from mailboat_controller.cli.demo import run_here
from mailboat_controller.demo import wheels
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.documents.reference import Reference

# Each starts processes that load a model.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("patient_promises")]

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL_CACHE = Path(os.environ.get("MAILBOAT_MODEL_CACHE", REPOSITORY / ".cache" / "models"))


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def mailboat(*words: str | Path) -> Said:
    before = psutil.Process().children()  # multiprocessing's tracker, where others used it
    said = Said(*run_here([str(word) for word in words]))
    assert "Traceback" not in said.err
    assert psutil.Process().children() == before  # nothing is left behind, however it ended
    return said


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "digits.onnx"
    path.write_bytes(small_models.classifier())
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that was built; copied where a test changes it."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "digits.onnx").write_bytes(small_models.classifier())
    said = mailboat(
        "model",
        "build",
        folder / "digits.onnx",
        "--class",
        "box",
        "--out",
        folder / "out",
        "--json",
    )
    assert said.code == 0, said.err
    (folder / "said.json").write_text(said.out)
    return folder / "out"


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def edit(bundle: Path, **health: Any) -> None:
    path = bundle / "release.yaml"
    content = yaml.safe_load(path.read_text())
    variant = content["spec"]["variants"][0]
    for key in ("peak_memory",):
        if key in health:
            variant[key] = health.pop(key)
    variant["health"] |= health
    path.write_text(yaml.safe_dump(content))


def files(bundle: Path) -> dict[str, bytes]:
    """All but what was measured, which is never the same twice."""
    paths = (path for path in bundle.rglob("*") if path.is_file())
    return {
        str(path.relative_to(bundle)): path.read_bytes()
        for path in paths
        if path.name != "measured.json"
    }


# --- build ---------------------------------------------------------------------------------------


def test_a_bundle_is_made_of_a_model_and_has_passed_the_trial_it_declares(bundle: Path) -> None:
    said = json.loads((bundle.parent / "said.json").read_text())
    variant = yaml.safe_load((bundle / "release.yaml").read_text())["spec"]["variants"][0]

    assert said["trial"]["passed"] is True
    assert all(gate["passed"] for gate in said["gates"])
    assert said["answers_identical"] is True
    assert variant["hardware_classes"] == ["box"]
    assert variant["runtime"]["version"] == ">=1.18"  # opset 15
    with np.load(bundle / "golden.npz") as golden:
        assert golden["in.x"].shape == (16, 1, 16)
        assert golden["out.p"].shape == (16, 1, 4)
    assert not (bundle / "reference.json").exists()  # made-up inputs are no reference
    assert json.loads((bundle / "measured.json").read_text())["digest"] == said["digest"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x1c\x00\x00\x00TFL3" + bytes(100), "TensorFlow Lite"),
        (b"PK\x03\x04" + bytes(100), "not an ONNX model"),
        (b"", "not an ONNX model"),
    ],
)
def test_what_is_no_onnx_model_is_refused_before_anything_is_started(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)

    said = mailboat("model", "build", path, "--class", "box", "--out", tmp_path / "out")

    assert said.code == output.EXIT_FAILURE
    assert problem in said.err
    assert not (tmp_path / "out").exists()


def test_a_model_over_the_bound_is_not_read_into_memory(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promising, "MODEL_BYTES_MAX", 1000)

    said = mailboat("model", "build", model, "--class", "box", "--out", model.parent / "out")

    assert said.code == output.EXIT_FAILURE
    assert "over 1000 bytes" in said.err


@pytest.mark.parametrize(
    "words",
    [
        ["--shape", "x=ax4"],
        ["--value", "x"],
        ["--range", "x=2:1"],
        ["--peak-memory", "lots"],
        ["--quantize", "int3"],
    ],
)
def test_an_option_that_does_not_read_says_how_it_is_written(model: Path, words: list[str]) -> None:
    out = model.parent / "out"

    said = mailboat("model", "build", model, "--class", "box", "--out", out, *words)

    assert said.code == output.EXIT_FAILURE
    assert "next step: write" in said.err


def test_a_bundle_is_for_some_class(model: Path) -> None:
    said = mailboat("model", "build", model, "--out", model.parent / "out")

    assert said.code == output.EXIT_FAILURE
    assert "--class" in said.err


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes(model: Path) -> None:
    data = model.parent / "data.npz"
    np.savez(data, x=np.random.default_rng(3).normal(size=(20, 1, 16)).astype(np.float32))
    told = ["--peak-memory", "256MiB", "--latency-p95-ms-max", "10000", "--data", data]
    one, two = model.parent / "one", model.parent / "two"

    for out in (one, two, one):  # and once again where there is one
        assert mailboat("model", "build", model, "--class", "box", "--out", out, *told).code == 0

    assert files(one) == files(two)
    reference = Reference.parse((one / "reference.json").read_bytes())
    assert reference.samples == 20
    with np.load(one / "golden.npz") as golden:
        assert len(golden["in.x"]) == 16


@pytest.mark.slow
def test_a_batch_size_that_is_asked_for_is_held_to_its_throughput(model: Path) -> None:
    out = model.parent / "out"
    words = (
        "model",
        "build",
        model,
        "--class",
        "box",
        "--out",
        out,
        "--batch",
        "4",
        "--batch",
        "1",
    )

    said = mailboat(*words, "--json")

    assert said.code == 0, said.err
    variant = yaml.safe_load((out / "release.yaml").read_text())["spec"]["variants"][0]
    declared = {
        each["size"]: each["throughput_per_second_min"] for each in variant["health"]["batches"]
    }
    calm = {size: size * 1000 / proposal.LATENCY_MS_MIN for size in (1, 4)}
    assert {size: 0 < bound <= calm[size] for size, bound in declared.items()} == {1: True, 4: True}
    gates = {gate["gate"]: gate["passed"] for gate in said.json["gates"]}
    assert gates["throughput, batch 1"] is gates["throughput, batch 4"] is True


@pytest.mark.slow
def test_a_model_that_answers_differently_every_time_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dice.onnx").write_bytes(small_models.dice())

    said = mailboat(
        "model", "build", tmp_path / "dice.onnx", "--class", "box", "--out", tmp_path / "out"
    )

    assert said.code == output.EXIT_FAILURE
    assert "E-ANSWERS-VARY" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_inputs_that_the_model_refuses_are_guessed_again(tmp_path: Path) -> None:
    path = tmp_path / "tokens.onnx"
    path.write_bytes(small_models.embedding(vocabulary=2))

    said = mailboat("model", "build", path, "--class", "box", "--out", tmp_path / "out")

    assert said.code == 0, said.err
    assert "It does not take" in said.err
    with np.load(tmp_path / "out" / "golden.npz") as golden:
        assert golden["in.tokens"].max() < 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (small_models.classifier()[:-40], "load"),
        (small_models.reading_other_files(), "another file"),
        (b"\x08\x07garbage", "load"),
    ],
    ids=["truncated", "external data", "garbage"],
)
def test_what_a_device_would_refuse_is_refused_with_its_reason(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    (tmp_path / "model.onnx").write_bytes(content)

    said = mailboat(
        "model", "build", tmp_path / "model.onnx", "--class", "box", "--out", tmp_path / "out"
    )

    assert said.code == output.EXIT_FAILURE
    assert "E-MODEL-REFUSED" in said.err
    assert problem in said.err


@pytest.mark.slow
def test_a_model_that_hangs_is_ended_and_not_guessed_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging.onnx").write_bytes(small_models.hanging())
    monkeypatch.setattr(asking, "INFERENCE_SECONDS_MAX", 1.0)

    said = mailboat(
        "model", "build", tmp_path / "hanging.onnx", "--class", "box", "--out", tmp_path / "out"
    )

    assert said.code == output.EXIT_FAILURE
    assert "did not answer within 1 s" in said.err
    assert "It does not take" not in said.err


@pytest.mark.slow
def test_data_that_promises_what_the_model_does_not_answer_is_refused(model: Path) -> None:
    data = model.parent / "data.npz"
    np.savez(data, **{"in.x": np.ones((2, 1, 16), np.float32), "out.p": np.ones((2, 1, 4))})

    said = mailboat(
        "model", "build", model, "--class", "box", "--out", model.parent / "out", "--data", data
    )

    assert said.code == output.EXIT_FAILURE
    assert "E-PROMISE-BROKEN" in said.err


@pytest.mark.slow
def test_a_class_that_is_too_small_is_told_at_once(model: Path) -> None:
    path = model.parent / "class.yaml"
    content = {
        "apiVersion": "mailboat/v1",
        "kind": "HardwareClass",
        "metadata": {"name": "tiny"},
        "spec": {"arch": "aarch64", "memory_budget": "16MiB", "disk_budget": "1GiB"},
    }
    HardwareClass.model_validate(content)
    path.write_text(yaml.safe_dump(content))

    said = mailboat("model", "build", model, "--class-file", path, "--out", model.parent / "out")

    assert said.code == output.EXIT_TRIAL
    assert "memory_exceeded" in said.out
    assert "declared memory" in said.out


# --- try -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_good_bundle_passes_every_time_and_is_drawn(bundle: Path, tmp_path: Path) -> None:
    plot = tmp_path / "latency.svg"

    said = mailboat("model", "try", bundle / "build", "--runs", "2", "--plot", plot, "--json")

    assert said.code == 0
    assert said.json["passed"] is True
    assert [trial["passed"] for trial in said.json["trials"]] == [True, True]
    assert plot.read_text().count("trial") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason", "gate"),
    [
        ({"latency_p95_ms_max": 0.0001}, "latency_exceeded", "latency p95"),
        ({"cold_start_ms_max": 1.0}, "cold_start_exceeded", "cold start"),
        ({"peak_memory": "20MiB"}, "memory_exceeded", "peak memory"),
    ],
)
def test_a_gate_that_closes_is_measured_all_the_same(
    own_bundle: Path, change: dict[str, Any], reason: str, gate: str
) -> None:
    edit(own_bundle, **change)

    said = mailboat("model", "try", own_bundle / "release.yaml", "--json")

    assert said.code == output.EXIT_TRIAL
    (trial,) = said.json["trials"]
    assert trial["reason"] == reason
    (row,) = [row for row in said.json["gates"] if row["gate"] == gate]
    assert row["passed"] is False
    assert row["margin"] < 0
    assert trial["report"]["latency_p95_ms"] > 0


@pytest.mark.slow
def test_wrong_outputs_are_refused_as_on_a_device(own_bundle: Path) -> None:
    (own_bundle / "model.onnx").write_bytes(small_models.classifier(seed=2))

    built_before = mailboat("model", "try", own_bundle / "build")
    assert built_before.code == 0  # it holds the files it was built of

    said = mailboat("model", "try", own_bundle / "release.yaml")
    assert said.code == output.EXIT_TRIAL
    assert "golden_mismatch" in said.out
    assert "not reached" in said.out


def test_a_bundle_that_is_none_says_what_to_name(tmp_path: Path, model: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        said = mailboat("model", "try", place)
        assert said.code == output.EXIT_FAILURE
        assert "next step: name" in said.err


def test_a_model_that_is_no_bundle_yet_says_how_to_make_one(model: Path) -> None:
    said = mailboat("model", "try", model)

    assert said.code == output.EXIT_FAILURE
    assert f"mailboat model build {model}" in said.err


def test_a_description_without_an_end_is_not_read_to_it(bundle: Path) -> None:
    said = mailboat("model", "try", bundle / "build", "--class-file", "/dev/zero")

    assert said.code == output.EXIT_FAILURE
    assert "over the limit" in said.err


def test_a_class_must_be_one_of_the_releases(bundle: Path) -> None:
    said = mailboat("model", "try", bundle / "build", "--class", "other")

    assert said.code == output.EXIT_FAILURE
    assert "box" in said.err


@pytest.mark.slow
def test_an_encrypted_build_is_tried_before_it_is_encrypted(bundle: Path, tmp_path: Path) -> None:
    built = tmp_path / "build"
    assert (
        mailboat("release", "build", bundle / "release.yaml", "--out", built, "--encrypt").code == 0
    )

    said = mailboat("model", "try", built)

    assert said.code == output.EXIT_FAILURE
    assert "--encrypt" in said.err


# --- the agent's process -------------------------------------------------------------------------


def test_a_machine_without_the_agent_says_what_to_install(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_process, "AGENT_LIBRARIES", ("onnxruntime", "not_installed_here"))

    said = mailboat("model", "try", bundle / "build")

    assert said.code == output.EXIT_FAILURE
    assert "E-AGENT-MISSING" in said.err
    assert "not_installed_here" in said.err
    assert "pip install" in said.err


def test_a_process_that_ends_without_an_answer_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_process, "MODULE", "json.no_such_module")

    with DeviceProcess.start() as device, pytest.raises(DeviceProcessEnded, match="no_such_module"):
        device.ask({"op": "try"})


def test_a_process_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_process, "MODULE", "timeit")  # runs for a while and is silent
    with DeviceProcess.start() as device, pytest.raises(DeviceProcessEnded):
        device.ask({"op": "try"}, seconds_max=0.05)


# --- quantize ------------------------------------------------------------------------------------


def quantized(model: Path, *words: str | Path) -> Said:
    out = model.parent / "smaller.onnx"
    return mailboat("model", "quantize", model, "--out", out, *words)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Large enough that its weights are most of it."""
    path = tmp_path / "wide.onnx"
    path.write_bytes(small_models.classifier(hidden=4096))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("to", "ratio"), [("int8", 0.3), ("fp16", 0.55)])
def test_a_smaller_model_is_written_beside_what_it_does(wide: Path, to: str, ratio: float) -> None:
    said = quantized(wide, "--to", to, "--json")

    assert said.code == 0, said.err
    made = wide.parent / "smaller.onnx"
    assert made.stat().st_size < ratio * wide.stat().st_size
    onnx.checker.check_model(onnx.load(made))
    (found,) = said.json["outputs"]
    assert found["output"] == "p"
    assert found["top_1_agreement"] >= 0.9
    assert 0 < found["max_error"] < 1
    assert said.json["smaller"]["peak_memory_bytes"] > 0
    first = made.read_bytes()
    assert quantized(wide, "--to", to).code == 0
    assert made.read_bytes() == first  # the same model, the same bytes


@pytest.mark.slow
def test_data_calibrates_and_what_loses_too_much_is_not_written(wide: Path) -> None:
    data = wide.parent / "data.npz"
    far = np.random.default_rng(3).normal(size=(20, 1, 16)).astype(np.float32)
    far[0] *= 10_000  # one sample in twenty spoils the scale of all
    np.savez(data, x=far)

    refused = quantized(wide, "--data", data, "--max-drop", "0.01")
    weights_only = quantized(wide, "--data", data, "--max-drop", "0.2", "--weights-only")

    assert refused.code == output.EXIT_FAILURE
    assert "E-DROP" in refused.err
    assert "static" in refused.out
    assert "dynamic" in weights_only.out


@pytest.mark.slow
def test_a_bundle_is_made_of_the_smaller_model(wide: Path) -> None:
    out = wide.parent / "out"

    said = mailboat(
        "model", "build", wide, "--class", "box", "--out", out, "--quantize", "fp16", "--json"
    )

    assert said.code == 0, said.err
    assert said.json["quantized"]["method"] == "fp16"
    assert (out / "model.onnx").stat().st_size < 0.55 * wide.stat().st_size
    assert said.json["trial"]["passed"] is True


@pytest.mark.slow
def test_what_does_not_become_smaller_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dice.onnx"
    path.write_bytes(small_models.embedding(vocabulary=1))

    said = quantized(path, "--to", "int8")

    assert said.code == output.EXIT_FAILURE
    assert "E-NOT-QUANTIZED" in said.err


@pytest.mark.slow
def test_a_rewriting_that_does_not_end_is_ended(
    wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smaller, "QUANTIZE_SECONDS_MAX", 0.05)

    said = quantized(wide)

    assert said.code == output.EXIT_FAILURE
    assert "E-NOT-QUANTIZED" in said.err


def test_quantizing_without_onnx_says_what_to_install(
    wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smaller, "ONNX", "not_installed_here")

    said = quantized(wide)

    assert said.code == output.EXIT_FAILURE
    assert "E-ONNX-MISSING" in said.err


def test_operators_that_become_integers_are_ones_that_onnx_has() -> None:
    assert all(onnx.defs.has(name) for name in quantizing.DYNAMIC_OPERATORS)


# --- a real model --------------------------------------------------------------------------------


@pytest.mark.slow
def test_silero_vad_becomes_a_bundle_that_passes(tmp_path: Path) -> None:
    if wheels.missing_versions(MODEL_CACHE):
        pytest.skip("silero-vad's wheel is not in the cache; `make demo` puts it there")
    path = tmp_path / "vad.onnx"
    path.write_bytes(wheels.read_model(MODEL_CACHE, wheels.SMALL))
    known = ["--shape", "input=1x576", "--value", "sr=16000", "--range", "input=-1:1"]

    said = mailboat(
        "model", "build", path, "--class", "box", "--out", tmp_path / "out", *known, "--json"
    )

    assert said.code == 0, said.err
    assert said.json["opset"] == 15
    assert said.json["trial"]["passed"] is True
