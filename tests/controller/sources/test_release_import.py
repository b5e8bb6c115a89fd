"""`mailboat release import` as a command, and a real registry."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from mailboat_controller.cli import main
from mailboat_controller.releases.build import read_build
from model_fleet import Certificates
from oci_server import KIND, TITLE, Registry, digest_of
from unused_port import unused_port


def mailboat(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    argv, sys.argv = sys.argv, ["mailboat", *arguments]
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = argv
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_release_is_imported_built_and_says_where_it_is_from(
    registry: Registry,
    certificates: Certificates,
    release_files: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    digest = registry.push(release_files)
    where, ca = registry.reference(), str(certificates.ca_path)
    out = tmp_path / "build"

    arguments = ("release", "import", where, "--out", str(out), "--ca", ca, "--json")
    code, said, problems = mailboat(capsys, *arguments)

    assert (code, problems) == (0, "")
    told = json.loads(said)
    assert told["source"] == f"{where}@{digest}"
    built = read_build(out)
    assert built.document.provenance.registry == f"{where}@{digest}"
    assert built.missing_blobs() == ()
    assert built.digest == told["digest"]


def test_a_directory_gives_the_same_release_wherever_it_lies(
    release_files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        for file, content in release_files.items():
            (folder / file).write_bytes(content)
        out = str(tmp_path / f"build-{name}")
        code, said, _ = mailboat(capsys, "release", "import", str(folder), "--out", out, "--json")
        assert code == 0
        digests.append(json.loads(said)["digest"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("where", ["http://x/y", "oci://x", "s3://", "ftp://x", "/nowhere"])
def test_an_address_of_no_kind_that_is_known_is_explained(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, problems = mailboat(capsys, "release", "import", where, "--out", str(tmp_path / "b"))

    assert code != 0
    assert "next step:" in problems
    assert "Traceback" not in problems


REGISTRY = shutil.which("docker-registry") or shutil.which("registry")


@pytest.fixture
def real_registry(certificates: Certificates, tmp_path: Path) -> Iterator[str]:
    """The address of the registry that Debian packages."""
    if REGISTRY is None:
        pytest.skip("docker-registry is not installed")
    port = unused_port()
    certificate, key = certificates.server()
    config = tmp_path / "registry.yml"
    settings = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {
            "addr": f"127.0.0.1:{port}",
            "tls": {"certificate": str(certificate), "key": str(key)},
        },
    }
    config.write_text(json.dumps(settings))  # JSON is YAML
    process = subprocess.Popen(
        [REGISTRY, "serve", config],
        env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        give_up = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < give_up
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_a_release_comes_out_of_a_real_registry(
    real_registry: str,
    certificates: Certificates,
    release_files: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    digest = push(real_registry, certificates.ca_path, release_files)
    where, out = f"oci://{real_registry}/models/vad:1.0.0", tmp_path / "build"

    code, said, problems = mailboat(
        capsys,
        "release",
        "import",
        where,
        "--out",
        str(out),
        "--ca",
        str(certificates.ca_path),
        "--json",
    )
    assert (code, problems) == (0, "")
    assert json.loads(said)["source"] == f"{where}@{digest}"

    model = out / "source" / "model.onnx"
    model.with_name("model.onnx.part").write_bytes(model.read_bytes()[:1000])  # resumed by Range
    model.unlink()
    pinned = f"{where}@{digest}"
    code, said, _ = mailboat(
        capsys,
        "release",
        "import",
        pinned,
        "--out",
        str(out),
        "--ca",
        str(certificates.ca_path),
        "--json",
    )
    assert code == 0
    assert model.read_bytes() == release_files["model.onnx"]


def push(registry: str, ca: Path, files: dict[str, bytes]) -> str:
    """What `oras push` sends; returns the manifest's digest."""
    import ssl

    base = f"https://{registry}/v2/models/vad"
    context = ssl.create_default_context(cafile=str(ca))
    with httpx2.Client(verify=context, trust_env=False) as client:

        def upload(content: bytes) -> dict[str, object]:
            place = client.post(f"{base}/blobs/uploads/").headers["Location"]
            joined = "&" if "?" in place else "?"
            answer = client.put(
                f"{place}{joined}digest={digest_of(content)}",
                content=content,
                headers={"Content-Type": "application/octet-stream"},
            )
            assert answer.status_code == 201, answer.text
            return {
                "mediaType": "application/octet-stream",
                "digest": digest_of(content),
                "size": len(content),
            }

        config = upload(b"{}") | {"mediaType": "application/vnd.oci.empty.v1+json"}
        layers = [
            upload(content) | {"annotations": {TITLE: name}} for name, content in files.items()
        ]
        manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": KIND, "config": config, "layers": layers}
        ).encode()
        answer = client.put(
            f"{base}/manifests/1.0.0", content=manifest, headers={"Content-Type": KIND}
        )
        assert answer.status_code == 201, answer.text
    return digest_of(manifest)
