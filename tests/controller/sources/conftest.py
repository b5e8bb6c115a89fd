import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailboat_controller import byte_stream
from model_fleet import Certificates
from oci_server import Registry, oci_server

MODEL = b"weights" * 100_000
FILES = {"model.onnx": MODEL, "golden.npz": b"samples"}


def release_yaml(*sources: str) -> bytes:
    """JSON is YAML. One variant of these files; the first is the model."""
    roles = ["model", "golden", *["other"] * 10]
    return json.dumps(
        {
            "apiVersion": "mailboat/v1",
            "kind": "Release",
            "metadata": {"name": "vad", "version": "1.0.0"},
            "spec": {
                "interface": {
                    "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 4]}],
                    "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 1]}],
                },
                "variants": [
                    {
                        "hardware_classes": ["kiosk-x86"],
                        "files": [
                            {"path": f"file-{number}", "source": source, "role": roles[number]}
                            for number, source in enumerate(sources or FILES)
                        ],
                        "peak_memory": "64MiB",
                    }
                ],
            },
        }
    ).encode()


@pytest.fixture
def release_files() -> dict[str, bytes]:
    return {**FILES, "release.yaml": release_yaml()}


@pytest.fixture(scope="package")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def registry(certificates: Certificates) -> Iterator[Registry]:
    with oci_server(certificates, Registry()) as registry:
        yield registry


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of whoever runs the tests, and no waiting between two tries."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))
    for name in ("MAILBOAT_REGISTRY_USER", "MAILBOAT_REGISTRY_PASSWORD", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(byte_stream, "WAIT_SECONDS_MAX", 0.0)
