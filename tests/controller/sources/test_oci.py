"""An import from a registry, which may be anybody's."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.byte_stream import ATTEMPTS_MAX
from mailboat_controller.https_stream import PROBLEM_BYTES_MAX, REDIRECTS_MAX, HttpsStream
from mailboat_controller.sources import oci, registry_access, source
from mailboat_controller.sources.oci import OciSource
from mailboat_controller.sources.oci_reference import OciReference
from mailboat_controller.sources.registry_access import Credentials, credentials_for
from mailboat_controller.sources.source import SourceRefused
from mailboat_controller.sources.taking import Taken, take
from mailboat_schemas.errors import (
    ArtifactMissing,
    ConfigurationInvalid,
    DigestMismatch,
    DocumentInvalid,
    DownloadInterrupted,
    MailboatError,
    NotFound,
    NotPermitted,
    PayloadTooLarge,
    ServerUnavailable,
    TransferTooLong,
)
from model_fleet import Certificates
from oci_server import PASSWORD, TITLE, USER, Registry, digest_of

Fetch = Callable[..., Taken]


@pytest.fixture
def fetch(registry: Registry, certificates: Certificates, tmp_path: Path) -> Fetch:
    def fetch(
        reference: str | None = None,
        credentials: Credentials | None = None,
        given: Path | None = None,
    ) -> Taken:
        text = reference or registry.reference()
        with HttpsStream(certificates.ca_path) as stream:
            opened = OciSource(stream, OciReference.parse(text), credentials)
            return take(opened, text, tmp_path / "build", given, lambda _name, _bytes: None)

    return fetch


def blobs_asked(registry: Registry) -> list[str | None]:
    """The Range of each request for a blob."""
    return [asked for path, asked in registry.asked if "/blobs/" in path]


def test_a_tag_is_resolved_fetched_checked_and_recorded_by_digest(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes], tmp_path: Path
) -> None:
    digest = registry.push({**release_files, "training-data.bin": b"not of the release"})

    taken = fetch()

    assert taken.reference == f"{registry.reference()}@{digest}"
    assert taken.files == 3
    place = tmp_path / "build" / "source"
    assert {path.name for path in place.iterdir()} == {*release_files, ".fetched.json"}
    for name, content in release_files.items():
        assert (place / name).read_bytes() == content


def test_what_is_here_is_not_fetched_again(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes]
) -> None:
    registry.push(release_files)
    first = fetch()
    registry.asked.clear()

    assert fetch() == first
    assert blobs_asked(registry) == []


def test_a_cut_transfer_goes_on_where_it_stopped(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes]
) -> None:
    registry.push(release_files)
    model = release_files["model.onnx"]
    cuts = [300_000, 200_000]

    def cut(handler: Any) -> bool:
        if not handler.path.endswith(digest_of(model)) or not cuts:
            return False
        begin = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        content = model[begin : begin + cuts.pop()]
        headers = {"Content-Range": f"bytes {begin}-{len(model) - 1}/{len(model)}"}
        handler.answer(206 if begin else 200, content, headers, length=len(model) - begin)
        return True

    registry.spoil = cut
    fetch()
    ranges = [each for each in blobs_asked(registry) if each is not None]
    assert ranges == ["bytes=200000-", "bytes=500000-"]


def test_a_registry_that_cannot_resume_sends_again_what_is_passed_over(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes], tmp_path: Path
) -> None:
    registry.push(release_files)
    registry.resumes = False
    place = tmp_path / "build" / "source"
    fetch()
    model = place / "model.onnx"
    model.with_name("model.onnx.part").write_bytes(model.read_bytes()[:1000])
    model.unlink()

    fetch()
    assert model.read_bytes() == release_files["model.onnx"]


def test_a_private_repository_gives_a_token_for_a_password(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes]
) -> None:
    registry.push(release_files)
    registry.private = True

    for credentials in (None, Credentials(USER, "wrong")):
        with pytest.raises(NotPermitted) as refused:
            fetch(credentials=credentials)
        assert "MAILBOAT_REGISTRY_PASSWORD" in refused.value.next_step
    assert fetch(credentials=Credentials(USER, PASSWORD)).files == 3


@pytest.mark.parametrize("over", [0, 1])
def test_a_token_of_more_bytes_than_any_is_not_read(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes], over: int
) -> None:
    registry.push(release_files)
    registry.private = True
    token = b'{"token": "a-token"}'.ljust(registry_access.TOKEN_BYTES_MAX + over)

    def long_token(handler: Any) -> bool:
        if not handler.path.startswith("/token"):
            return False
        handler.answer(200, token)
        return True

    registry.spoil = long_token
    if over:
        with pytest.raises(PayloadTooLarge, match="registry token"):
            fetch(credentials=Credentials(USER, PASSWORD))
    else:
        assert fetch(credentials=Credentials(USER, PASSWORD)).files == 3


def test_a_registry_that_refuses_at_length_is_quoted_in_part(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes]
) -> None:
    registry.push(release_files)
    said = b"x" * (PROBLEM_BYTES_MAX + 1)

    def refuse(handler: Any) -> bool:
        if "/blobs/" not in handler.path:
            return False
        handler.answer(404, said)
        return True

    registry.spoil = refuse
    with pytest.raises(ArtifactMissing) as raised:
        fetch()
    assert raised.value.what.count("x" * PROBLEM_BYTES_MAX) == 1
    assert said.decode() not in raised.value.what


def test_a_token_that_ends_on_the_way_is_renewed(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes]
) -> None:
    registry.push(release_files)
    registry.private = True
    ended: list[str] = []

    def end_once(handler: Any) -> bool:
        if "/blobs/" not in handler.path or ended:
            return False
        ended.append(handler.path)
        handler.answer(401, b"{}")
        return True

    registry.spoil = end_once
    assert fetch(credentials=Credentials(USER, PASSWORD)).files == 3


def test_a_yaml_from_elsewhere_takes_the_place_of_the_registrys(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes], tmp_path: Path
) -> None:
    yaml = tmp_path / "mine.yaml"
    yaml.write_bytes(release_files.pop("release.yaml"))
    registry.push(release_files)

    with pytest.raises(NotFound, match=r"has no release\.yaml"):
        fetch()
    assert fetch(given=yaml).files == 2


# --- hostile registries --------------------------------------------------------------------------


def refused(fetch: Fetch, kind: type[MailboatError], reference: str | None = None) -> MailboatError:
    with pytest.raises(kind) as caught:
        fetch(reference)
    assert caught.value.next_step
    return caught.value


def test_a_manifest_that_is_not_the_one_of_the_digest_is_refused(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes]
) -> None:
    digest = registry.push(release_files)
    pinned = f"{registry.reference()}@{digest}"
    assert fetch(pinned).reference == pinned

    registry.manifests[digest] = registry.manifests[digest] + b" "
    refused(fetch, DigestMismatch, pinned)


def test_a_file_of_other_bytes_is_refused_and_not_kept(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes], tmp_path: Path
) -> None:
    registry.push(release_files)
    digest = digest_of(release_files["model.onnx"])
    registry.blobs[digest] = b"W" + registry.blobs[digest][1:]

    refused(fetch, DigestMismatch)
    assert not list((tmp_path / "build" / "source").glob("model*"))


def test_a_file_that_never_ends_is_cut_at_its_length(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes], tmp_path: Path
) -> None:
    registry.push(release_files)
    model = release_files["model.onnx"]

    def endless(handler: Any) -> bool:
        if not handler.path.endswith(digest_of(model)):
            return False
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            return True

    registry.spoil = endless
    refused(fetch, TransferTooLong)
    assert not (tmp_path / "build" / "source" / "model.onnx").exists()


def test_a_manifest_without_end_is_not_read_beyond_its_bound(
    registry: Registry, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci, "MANIFEST_BYTES_MAX", 100_000)
    sent: list[int] = []

    def gigabyte(handler: Any) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 30))
        handler.end_headers()
        try:
            for _ in range(1 << 14):
                handler.wfile.write(b" " * 65536)
                sent.append(65536)
        except OSError:
            pass
        return True

    registry.spoil = gigabyte
    refused(fetch, PayloadTooLarge)
    assert sum(sent) < 64 << 20


@pytest.mark.parametrize(
    "title",
    [
        "../../etc/cron.d/x",
        "/etc/passwd",
        "a/../../b",
        ".bashrc",
        "a//b",
        "a\\b",
        "a\nb",
        "",
        "x" * 300,
        "a.part",
        "nul\0",
    ],
)
def test_a_title_that_leaves_the_directory_is_refused(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes], title: str, tmp_path: Path
) -> None:
    registry.push({**release_files, title: b"content"})

    refused(fetch, SourceRefused)
    assert list((tmp_path / "build" / "source").iterdir()) == []


def test_a_title_given_twice_is_refused(registry: Registry, fetch: Fetch) -> None:
    layers = [
        {"digest": digest_of(content), "size": 1, "annotations": {TITLE: "model.onnx"}}
        for content in (b"a", b"b")
    ]
    registry.push_manifest({"layers": layers})

    assert "twice" in refused(fetch, SourceRefused).what


@pytest.mark.parametrize(
    "change",
    [{"size": (8 << 30) + 1}, {"size": -1}, {"digest": "sha512:" + "ab" * 64}, {"digest": "../x"}],
)
def test_a_layer_beyond_the_bounds_is_refused_before_a_byte_of_it(
    registry: Registry, fetch: Fetch, change: dict[str, Any]
) -> None:
    layer = {"digest": digest_of(b"a"), "size": 1, "annotations": {TITLE: "model.onnx"}}
    registry.push_manifest({"layers": [layer | change]})

    refused(fetch, SourceRefused)
    assert blobs_asked(registry) == []


def test_more_files_than_a_release_could_have_are_refused(
    registry: Registry, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "FILES_MAX", 3)
    registry.push({f"file-{number}": b"%d" % number for number in range(4)})

    refused(fetch, SourceRefused)


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        {"layers": []},
        {"manifests": [{"digest": "sha256:" + "ab" * 32}]},
        {"layers": [{"digest": digest_of(b"a"), "size": 1}]},
        {
            "layers": [
                {
                    "digest": digest_of(b"a"),
                    "size": 1,
                    "annotations": {TITLE: "dir", "io.deis.oras.content.unpack": "true"},
                }
            ]
        },
    ],
)
def test_what_is_no_artifact_of_files_is_refused(
    registry: Registry, fetch: Fetch, manifest: dict[str, Any]
) -> None:
    registry.push_manifest(manifest)

    refused(fetch, SourceRefused)


def test_a_redirect_to_plain_http_is_not_followed(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes]
) -> None:
    registry.push(release_files)

    def redirect(handler: Any) -> bool:
        if "/blobs/" not in handler.path:
            return False
        handler.answer(307, b"", {"Location": "http://127.0.0.1:9/blob"})
        return True

    registry.spoil = redirect
    assert "not https" in refused(fetch, ConfigurationInvalid).what


def test_a_redirect_to_another_host_gets_no_credentials(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes]
) -> None:
    registry.push(release_files)
    registry.private = True
    elsewhere = registry.url.replace("127.0.0.1", "localhost")
    seen: list[str | None] = []

    def redirect(handler: Any) -> bool:
        if handler.path.startswith("/elsewhere/"):
            seen.append(handler.headers.get("Authorization"))
            handler.answer(200, registry.blobs[handler.path.rpartition("/")[2]])
            return True
        if "/blobs/" in handler.path:
            location = f"{elsewhere}/elsewhere/{handler.path.rpartition('/')[2]}"
            handler.answer(307, b"", {"Location": location})
            return True
        return False

    registry.spoil = redirect
    assert fetch(credentials=Credentials(USER, PASSWORD)).files == 3
    assert seen == [None] * 3


def test_redirects_in_a_circle_end(registry: Registry, fetch: Fetch) -> None:
    def redirect(handler: Any) -> bool:
        handler.answer(302, b"", {"Location": handler.path})
        return True

    registry.spoil = redirect
    refused(fetch, ConfigurationInvalid)
    assert len(registry.asked) == REDIRECTS_MAX + 1


def test_a_registry_that_breaks_every_transfer_is_given_up(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes]
) -> None:
    registry.push(release_files)

    def break_off(handler: Any) -> bool:
        if "/blobs/" not in handler.path:
            return False
        handler.answer(200, b"", length=1000)
        return True

    registry.spoil = break_off
    refused(fetch, DownloadInterrupted)
    assert len(blobs_asked(registry)) == ATTEMPTS_MAX


def test_a_registry_without_tls_or_with_a_foreign_certificate_is_not_spoken_to(
    registry: Registry, tmp_path: Path
) -> None:
    opened = OciReference.parse(registry.reference())
    with HttpsStream() as stream, pytest.raises(ServerUnavailable, match="certificate"):
        OciSource(stream, opened, None).files()


def test_what_is_not_there_is_told(registry: Registry, fetch: Fetch) -> None:
    refused(fetch, ArtifactMissing)


def test_a_yaml_that_reaches_for_other_files_finds_none(
    registry: Registry, fetch: Fetch, release_files: dict[str, bytes]
) -> None:
    yaml = release_files["release.yaml"].replace(b"golden.npz", b"../../../etc/passwd")
    registry.push(release_files | {"release.yaml": yaml})

    assert "/etc/passwd" in refused(fetch, NotFound).what


def test_a_yaml_that_is_none_is_refused(registry: Registry, fetch: Fetch) -> None:
    registry.push({"release.yaml": b"kind: [", "model.onnx": b"m"})

    refused(fetch, DocumentInvalid)


# --- references and credentials ------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "oci://registry.example/models/vad",
        "oci://registry.example:tag",
        "oci://registry.example/../vad:1",
        "oci://registry.example/Models:1",
        "oci://user:password@registry.example/vad:1",
        "oci://registry.example/vad:1@sha256:abc",
        "oci://registry.example/vad@sha512:" + "ab" * 64,
        "oci://registry.example/" + "a" * 500 + ":1",
        "oci:///vad:1",
        "oci://registry.example/vad:1?x=y",
    ],
)
def test_a_reference_that_names_no_artifact_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationInvalid):
        OciReference.parse(text)


def test_a_reference_is_recorded_with_its_tag_and_digest() -> None:
    digest = "sha256:" + "ab" * 32
    found = OciReference.parse("oci://registry.example:5000/team/vad:1.0")

    assert found.wanted == "1.0"
    assert found.pinned(digest) == f"oci://registry.example:5000/team/vad:1.0@{digest}"
    assert OciReference.parse(found.pinned(digest)).wanted == digest


def test_credentials_come_from_variables_or_a_file_and_are_never_told(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    login = base64.b64encode(b"robot:hush").decode()
    config.write_text(json.dumps({"auths": {"registry.example": {"auth": login}}}))
    variables = {"MAILBOAT_REGISTRY_USER": "ci", "MAILBOAT_REGISTRY_PASSWORD": "shh"}

    found = credentials_for("registry.example", config, {})
    assert found == Credentials("robot", "hush")
    assert "hush" not in repr(found)
    assert credentials_for("registry.example", config, variables) == Credentials("ci", "shh")
    assert credentials_for("registry.example", None, {"DOCKER_CONFIG": str(tmp_path)}) == found
    assert credentials_for("other.example", config, {}) is None
    assert credentials_for("other.example", None, {"DOCKER_CONFIG": str(tmp_path / "x")}) is None
    config.write_text(json.dumps({"auths": {"registry.example": {}}, "credsStore": "desktop"}))
    with pytest.raises(ConfigurationInvalid, match=r"registry\.example") as unusable:
        credentials_for("registry.example", config, {})
    assert "credential helper" in unusable.value.next_step
    with pytest.raises(ConfigurationInvalid):
        credentials_for("registry.example", tmp_path / "nothing", {})
