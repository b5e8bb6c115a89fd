"""The release's own Python before and behind its model: served, tried, and kept within bounds."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mailboat_agent.serving.bundle import BundleFile
from mailboat_agent.serving.process import InferenceFailed, ModelAltered, Worker
from mailboat_agent.serving.requirements import worker_options
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.trial import GateFailed
from mailboat_schemas.documents.pipeline import Pipeline
from mailboat_schemas.documents.release import FileRole
from mailboat_schemas.errors import MailboatError
from trial_bench import (
    X_TO_Y,
    bundle_of,
    descriptor,
    golden,
    interface,
    tried,
    variant_of,
)

PREPROCESS = b"""\
import json

import numpy as np

ORDER = ["low", "high"]

def prepare(inputs, bundle):
    scale = json.loads(bundle["calibration.json"])["scale"]
    return {"x": inputs["pixels"].astype(np.float32) * np.float32(scale)}
"""
POSTPROCESS = b"""\
import numpy as np

def name_them(outputs, bundle, inputs):
    labels = bundle["labels.txt"].decode().split()
    best = outputs["y"].argmax(axis=-1)
    return {
        "label": np.array([labels[i] for i in best], dtype=object),
        "brightest": inputs["pixels"].max(axis=-1),
    }
"""
CALLERS = interface(
    in_pixels=("uint8", [-1, 4]), out_label=("string", [-1]), out_brightest=("uint8", [-1])
)
BOTH = Pipeline(model_interface=X_TO_Y, preprocess="prepare", postprocess="name_them")
FILES = {
    "prepare.py": (FileRole.PREPROCESS, PREPROCESS),
    "name.py": (FileRole.POSTPROCESS, POSTPROCESS),
    "labels.txt": (FileRole.LABELS, b"red green blue grey"),
    "calibration.json": (FileRole.CALIBRATION, b'{"scale": 0.5}'),
}
PIXELS = np.array([[[0, 9, 1, 2]], [[7, 0, 0, 0]]], np.uint8)
SAMPLES = golden(
    in_pixels=PIXELS,
    out_label=np.array([["green"], ["red"]]),
    out_brightest=np.array([[9], [7]], np.uint8),
)


def with_code(code: bytes, role: FileRole = FileRole.PREPROCESS) -> dict[str, Any]:
    path = "prepare.py" if role is FileRole.PREPROCESS else "name.py"
    return {**FILES, path: (role, code)}


def refused(models: Any, files: dict[str, Any], **options: Any) -> GateFailed:
    with pytest.raises(GateFailed) as failed:
        tried(models.affine(), SAMPLES, files=files, callers=CALLERS, pipeline=BOTH, **options)
    assert not psutil.Process().children()
    return failed.value


def test_golden_samples_go_through_the_whole_pipeline(models: Any) -> None:
    report = tried(models.affine(), SAMPLES, files=FILES, callers=CALLERS, pipeline=BOTH)

    assert report.samples == 2
    assert not psutil.Process().children()


@pytest.mark.slow
def test_a_label_file_of_another_order_is_a_golden_mismatch(models: Any) -> None:
    files = {**FILES, "labels.txt": (FileRole.LABELS, b"green red blue grey")}

    failure = refused(models, files)

    assert failure.reason == "golden_mismatch"
    assert failure.evidence["tensor"] == "label"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "told"),
    [
        (b"def prepare(inputs, bundle:\n", "does not compile: SyntaxError"),
        (b"x = 1 / 0\ndef prepare(inputs, bundle): ...\n", "prepare.py line 1 in <module>"),
        (b"def other(inputs, bundle): ...\n", "has no function 'prepare'"),
        (b"def prepare(inputs, bundle):\n    return 5\n", "gave a int, not a dict"),
        (b"def prepare(inputs, bundle):\n    return {}\n", "the model takes ['x']"),
        (
            b"def prepare(inputs, bundle):\n    return {'x': inputs['pixels']}\n",
            "gave 'x' as UINT8 [1, 4], the model takes FP32 [-1, 4]",
        ),
        (
            b"def prepare(inputs, bundle):\n    inputs['pixels'][0] = 1\n",
            "prepare.py line 2 in prepare: inputs['pixels'][0] = 1",
        ),
        (b"def prepare(inputs, bundle):\n    raise SystemExit(0)\n", "SystemExit: 0"),
        (b"import socket\ndef prepare(inputs, bundle): ...\n", "'socket' cannot be imported"),
        (b"f = open('/etc/passwd')\ndef prepare(inputs, bundle): ...\n", "PermissionError"),
        (b"\xff\xfe", "does not compile"),
    ],
)
def test_what_is_wrong_with_the_code_is_told_in_its_own_lines(
    models: Any, code: bytes, told: str
) -> None:
    failure = refused(models, with_code(code))

    assert failure.reason == "pipeline_failed"
    assert told in failure.what
    assert "mailboat_agent" not in failure.what  # none of ours
    assert len(failure.what) < 1200


@pytest.mark.slow
def test_an_endless_error_message_is_cut(models: Any) -> None:
    code = b"def prepare(inputs, bundle):\n    raise ValueError('x' * 10**7)\n"

    assert len(refused(models, with_code(code)).what) < 1200


def test_an_output_that_is_not_declared_so_is_refused(models: Any) -> None:
    code = b"def name_them(outputs, bundle):\n    return {'label': outputs['y'], 'brightest': 1}\n"

    failure = refused(models, with_code(code, FileRole.POSTPROCESS))

    assert failure.reason == "pipeline_failed"
    assert "gave 'label' as FP32 [1, 4], the release declares BYTES [-1]" in failure.what


@pytest.mark.slow
def test_code_that_never_ends_is_over_at_the_deadline(models: Any) -> None:
    code = b"def prepare(inputs, bundle):\n    while True: pass\n"

    assert refused(models, with_code(code), deadline_seconds=1.5).reason == "hung"


@pytest.mark.slow
def test_code_has_the_memory_of_the_model_and_no_more(models: Any) -> None:
    code = b"import numpy as np\ndef prepare(inputs, bundle):\n    np.ones(10**9)\n"

    assert refused(models, with_code(code)).reason == "memory_exceeded"


@pytest.mark.slow
def test_code_that_crashes_its_process_harms_nobody_else(models: Any) -> None:
    code = (
        b"import numpy as np\n"
        b"def prepare(inputs, bundle):\n"
        b"    wild = np.lib.stride_tricks.as_strided(np.zeros(1), (9,), (1 << 40,))\n"
        b"    return {'x': wild + 1}\n"
    )
    failure = refused(models, with_code(code))

    assert failure.reason == "crashed"
    assert failure.evidence["ended"] == "signal SIGSEGV"


def test_a_pipeline_serves_and_one_bad_request_fails_alone(models: Any, runtime: Any) -> None:
    code = PREPROCESS + b"    # unreachable\n"
    code = code.replace(
        b"    scale", b"    if inputs['pixels'].max() == 255: raise ValueError('glare')\n    scale"
    )
    files, model = with_code(code), models.affine()
    variant = variant_of(model, files, pipeline=BOTH)
    model_fd = descriptor(model)
    runtime.serve(
        ServedRelease(
            model="m",
            version="1.0.0",
            digest="1" * 64,
            interface=CALLERS,
            variant=variant,
            model_fd=model_fd,
            memory_limit_bytes=256 << 20,
            bundle=bundle_of(variant, files),
        )
    )
    os.close(model_fd)

    def ask(*pixels: int) -> Any:
        tensor = Tensor("pixels", "UINT8", (1, 4), bytes(pixels))
        return runtime.submit(
            "m",
            None,
            [tensor],
            ["label"],
            deadline=time.monotonic() + 60,
            encode=lambda _, inference: inference.outputs[0].values(),
        )

    with pytest.raises(InferenceFailed, match=r"ValueError: glare; prepare\.py line 8 in prepare"):
        ask(255, 0, 0, 0).result()
    assert ask(0, 0, 5, 0).result() == (b"blue",)
    _, description = runtime.serving("m")
    assert [port.name for port in description.inputs] == ["pixels"]


def test_a_side_without_a_function_is_the_models_own() -> None:
    only_before = Pipeline(model_interface=X_TO_Y, preprocess="prepare")

    assert "outputs" in (only_before.problem_with(CALLERS) or "")
    assert (
        only_before.problem_with(
            interface(in_pixels=("uint8", [-1, 4]), out_y=("float32", [-1, 4]))
        )
        is None
    )


@pytest.mark.parametrize("missing", ["prepare.py", "name.py"])
def test_a_function_without_its_file_is_no_release(models: Any, missing: str) -> None:
    files = {path: file for path, file in FILES.items() if path != missing}

    with pytest.raises(ValueError, match="belong together"):
        variant_of(models.affine(), files, pipeline=BOTH)


def test_the_bundle_has_a_bound(models: Any) -> None:
    files = {**FILES, "vocabulary.bin": (FileRole.TOKENIZER, bytes(65 << 20))}

    with pytest.raises(MailboatError, match="67108864 are allowed"):
        bundle_of(variant_of(models.affine(), files, pipeline=BOTH), files)


def test_a_file_that_was_changed_after_it_was_verified_is_not_read(
    models: Any, tmp_path: Path
) -> None:
    """One that was too large for sealed memory, say: it stays a file that somebody may write to."""
    path = tmp_path / "prepare.py"
    path.write_bytes(PREPROCESS)
    model = models.affine()
    variant = variant_of(model, FILES, pipeline=BOTH)
    code = next(file for file in variant.files if file.role is FileRole.PREPROCESS)
    on_disk = BundleFile(code, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    path.write_bytes(PREPROCESS.replace(b"low", b"LOW"))
    model_fd = descriptor(model)
    worker = Worker.start(model_fd)
    os.close(model_fd)
    options = worker_options(variant, CALLERS, "CPUExecutionProvider", 256 << 20)
    try:
        with pytest.raises(ModelAltered, match=r"the sha256 of prepare\.py is"):
            worker.load(options, bundle=[on_disk], deadline_seconds=20)
    finally:
        worker.kill()
