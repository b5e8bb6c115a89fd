"""What MLflow offers, and what it may not: names, places, sizes, answers, signatures."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailboat_controller import byte_stream, https_stream
from mailboat_controller.https_stream import HttpsStream
from mailboat_controller.mlflow import seen
from mailboat_controller.mlflow.flavour import (
    FlavourRefused,
    SignatureRefused,
    read_mlmodel,
    refuse_unfit,
)
from mailboat_controller.mlflow.handing_in import refuse_other
from mailboat_controller.mlflow.mapping import MlflowMapping, Server
from mailboat_controller.mlflow.registry import MlflowRegistry
from mailboat_controller.mlflow.seen import Sighting, State, decide
from mailboat_controller.mlflow.source import MlflowSource, ModelTooLarge
from mailboat_controller.sources.source import SourceRefused
from mailboat_controller.sources.taking import fetch
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.yaml_source import parse_document
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    Conflict,
    DocumentInvalid,
    DownloadInterrupted,
    MailboatError,
    NotPermitted,
    ServerUnavailable,
)
from mlflow_answers import MLMODEL, NO_ALIAS, ROOT, Answers, mlflow_answers
from model_fleet import Certificates
from trust_fleet import document

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
GIB = 1 << 30
MODEL = Interface.model_validate(
    {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 3]}],
    }
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[Answers]:
    with mlflow_answers(certificates) as answers:
        yield answers


@pytest.fixture
def answers(server: Answers) -> Answers:
    server.said.clear()
    server.asked.clear()
    return server


@pytest.fixture
def registry(
    answers: Answers, certificates: Certificates, tmp_path: Path
) -> Iterator[MlflowRegistry]:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("a-token\n")
    with HttpsStream(certificates.ca_path) as stream:
        yield MlflowRegistry(stream, Server(url=answers.url, token_file="token"), tmp_path)


def logged(registry: MlflowRegistry, bytes_max: int = GIB) -> str:
    """The file with the graph of what the alias names."""
    found = registry.version_of_alias("cups", "champion")
    assert found is not None
    return MlflowSource(registry, found).logged(bytes_max)[1].name


def test_what_was_logged_is_found_with_the_token(
    answers: Answers, registry: MlflowRegistry
) -> None:
    answers.offer(("model.onnx", 137))

    assert logged(registry) == "model.onnx"
    assert {authorization for _, authorization in answers.asked} == {"Bearer a-token"}


def test_an_alias_that_nothing_has_is_no_error(answers: Answers, registry: MlflowRegistry) -> None:
    answers.say("mlflow/registered-models/alias", NO_ALIAS, 400)
    assert registry.version_of_alias("cups", "champion") is None

    del answers.said["/api/2.0/mlflow/registered-models/alias"]
    assert registry.version_of_alias("cups", "champion") is None


@pytest.mark.parametrize("name", ["../up.onnx", "/etc/model.onnx", ".hidden.onnx", "a\nb.onnx"])
def test_files_whose_names_lead_elsewhere_are_refused(
    answers: Answers, registry: MlflowRegistry, name: str
) -> None:
    answers.offer((name, 137))
    with pytest.raises(SourceRefused):
        logged(registry)

    answers.offer(("model.onnx", 137), mlmodel=MLMODEL.replace("model.onnx", json.dumps(name)))
    with pytest.raises((SourceRefused, FlavourRefused)):
        logged(registry)


@pytest.mark.parametrize(
    "place",
    [
        "s3://bucket/1/models",
        "file:///etc",
        "mlflow-artifacts:/1/../../etc",
        "mlflow-artifacts://elsewhere.example/1/models",
        "mlflow-artifacts:/",
    ],
)
def test_files_that_the_server_does_not_serve_itself_are_refused(
    answers: Answers, registry: MlflowRegistry, place: str
) -> None:
    answers.offer(("model.onnx", 137), at=place)

    with pytest.raises(SourceRefused, match="does not serve itself"):
        logged(registry)


def test_a_redirect_leads_to_no_other_scheme_and_takes_no_token_along(
    answers: Answers, registry: MlflowRegistry, certificates: Certificates
) -> None:
    answers.offer(("model.onnx", 137))
    path = f"/api/2.0/mlflow-artifacts/artifacts/{ROOT}/MLmodel"
    answers.said[path] = (302, "http://127.0.0.1/MLmodel")
    with pytest.raises(ConfigurationInvalid, match="is not https"):
        logged(registry)

    with mlflow_answers(certificates) as elsewhere:
        elsewhere.said["/MLmodel"] = (200, MLMODEL.encode())
        answers.said[path] = (302, f"{elsewhere.url}/MLmodel")
        assert logged(registry) == "model.onnx"
    assert elsewhere.asked == [("/MLmodel", None)]


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [
        (200, b"<html>sign in</html>", SourceRefused),
        (200, {"model_version": {"name": "cups", "version": "../3"}}, SourceRefused),
        (200, b"[" * 100_000, SourceRefused),
        (401, {"message": "no"}, NotPermitted),
        (403, b"", NotPermitted),
        (500, b"\x1b[2J", ServerUnavailable),
        (429, b"", ServerUnavailable),
        (400, {"error_code": "BAD_REQUEST"}, ConfigurationInvalid),
    ],
)
def test_answers_that_are_not_mlflows_are_refused(
    answers: Answers,
    registry: MlflowRegistry,
    status: int,
    content: object,
    kind: type[MailboatError],
) -> None:
    answers.say("mlflow/registered-models/alias", content, status)

    with pytest.raises(kind) as caught:
        registry.version_of_alias("cups", "champion")
    assert caught.value.what.isprintable()


def test_an_answer_that_drips_is_left(
    answers: Answers, registry: MlflowRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers.offer(("model.onnx", 137))
    assert logged(registry) == "model.onnx"
    monkeypatch.setattr(https_stream, "WHOLE_SECONDS_MAX", -1.0)

    with pytest.raises(DownloadInterrupted, match="took more than"):
        logged(registry)


def test_a_model_over_the_mappings_bound_is_not_begun(
    answers: Answers, registry: MlflowRegistry
) -> None:
    answers.offer(("model.onnx", GIB + 1))

    with pytest.raises(ModelTooLarge, match="bytes_max"):
        logged(registry)
    assert not any(path.endswith("model.onnx") for path, _ in answers.asked)


def test_ten_gigabytes_are_not_begun(answers: Answers, registry: MlflowRegistry) -> None:
    answers.offer(("model.onnx", 10 * GIB))

    with pytest.raises(SourceRefused):
        logged(registry, bytes_max=8 * GIB)


def test_a_transfer_that_is_cut_goes_on_where_it_stopped(
    answers: Answers, registry: MlflowRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_stream, "WAIT_SECONDS_MAX", 0.0)
    weights = bytes(range(256)) * 64
    answers.offer(("model.onnx", len(weights)))
    path = f"/api/2.0/mlflow-artifacts/artifacts/{ROOT}/model.onnx"
    answers.said[path], answers.cut[path] = (200, weights), 8192
    found = registry.version_of_alias("cups", "champion")
    assert found is not None
    source = MlflowSource(registry, found)
    graph = source.logged(GIB)[1]

    digests = fetch(source, [graph], tmp_path, lambda _name, _count: None)

    assert answers.ranges == ["bytes=8192-"]
    assert digests == {"model.onnx": hashlib.sha256(weights).hexdigest()}
    assert source.reference("ab").endswith("/cups/3@sha256:ab")


def test_a_token_that_everybody_can_read_is_not_used(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    (tmp_path / "token").chmod(0o644)

    with pytest.raises(ConfigurationInvalid, match="open to everybody") as caught:
        registry.version_of_alias("cups", "champion")
    assert "a-token" not in str(caught.value)


# --- MLmodel -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    ["", "flavors: 1", "a: [", "flavors: {onnx: &x {data: m.onnx}, python_function: *x}", "\x00"],
)
def test_a_description_of_aliases_within_aliases_is_refused(content: str) -> None:
    with pytest.raises(SourceRefused):
        read_mlmodel(content.encode(), "cups version 3")


def test_a_model_of_another_flavour_is_refused_with_the_way_to_log_one() -> None:
    content = MLMODEL.replace("  onnx:", "  sklearn:")

    with pytest.raises(FlavourRefused, match="python_function, sklearn") as caught:
        read_mlmodel(content.encode(), "cups version 3")
    assert "mlflow.onnx.log_model" in caught.value.next_step


def test_a_signature_must_be_what_the_model_has() -> None:
    found = read_mlmodel(MLMODEL.encode(), "cups version 3")
    refuse_unfit(found, MODEL, "cups version 3", required=True)

    for old, new in (("[-1, 3]", "[-1, 5]"), ("[-1, 3]", "[3]"), ("float32", "float64")):
        other = read_mlmodel(MLMODEL.replace(old, new).encode(), "cups version 3")
        with pytest.raises(SignatureRefused):
            refuse_unfit(other, MODEL, "cups version 3", required=True)


def test_a_model_without_a_signature_is_taken_only_where_the_mapping_says_so() -> None:
    found = read_mlmodel(MLMODEL.partition("signature:")[0].encode(), "cups version 3")

    refuse_unfit(found, MODEL, "cups version 3", required=False)
    with pytest.raises(SignatureRefused, match="has no signature"):
        refuse_unfit(found, MODEL, "cups version 3", required=True)


@pytest.mark.parametrize("side", ['[{"type": "double", "name": "a"}]', "[1]", "{", "[[[", "1"])
def test_a_signature_of_anything_but_tensors_is_refused(side: str) -> None:
    content = MLMODEL.partition("signature:")[0] + f"signature: {{inputs: {json.dumps(side)}}}\n"

    with pytest.raises(SignatureRefused, match="not one of tensors"):
        read_mlmodel(content.encode(), "cups version 3")


# --- what the controller has already -------------------------------------------------------------


@pytest.mark.parametrize(
    ("registry", "build", "same"),
    [
        ("mlflow://m.example/cups/1", "mlflow run a", True),
        ("mlflow://m.example/cups/1", "", True),
        ("mlflow://m.example/cups/1", "mlflow run b", False),  # deleted, and registered again
        ("mlflow://m.example/cups/2", "mlflow run a", False),
        ("mlflow://else.example/cups/1", "mlflow run a", False),
    ],
)
def test_a_release_that_is_there_must_be_of_this_very_model_version(
    registry: str, build: str, same: bool
) -> None:
    origin = {"registry": "mlflow://m.example/cups/1@sha256:ab", "build": "mlflow run a"}
    held = document("1.0.1", provenance=origin)

    with nullcontext() if same else pytest.raises(Conflict, match=r"made of mlflow://m\.example"):
        refuse_other(held, registry, build)


# --- what was seen, and the mapping --------------------------------------------------------------

SUBMITTED = Sighting(version="3", fingerprint="f", state=State.SUBMITTED)
REFUSED = Sighting(version="3", fingerprint="f", state=State.REFUSED)
FAILED = Sighting(
    version="3", fingerprint="f", state=State.FAILED, retry_at=NOON + timedelta(minutes=1)
)


@pytest.mark.parametrize(
    ("before", "version", "fingerprint", "take"),
    [
        (None, None, "f", False),
        (SUBMITTED, None, "f", False),
        (None, "3", "f", True),
        (SUBMITTED, "3", "f", False),
        (SUBMITTED, "3", "mended", False),
        (SUBMITTED, "4", "f", True),
        (SUBMITTED, "2", "f", True),
        (REFUSED, "3", "f", False),
        (REFUSED, "3", "mended", True),
        (FAILED, "3", "f", False),
    ],
)
def test_what_is_done_follows_from_what_was_seen(
    before: Sighting | None, version: str | None, fingerprint: str, take: bool
) -> None:
    assert decide(before, version, fingerprint, NOON).take is take


def test_a_number_that_comes_again_of_another_run_is_new() -> None:
    before = SUBMITTED.model_copy(update={"run_id": "a"})

    assert not decide(before, "3", "f", NOON, "a").take
    assert decide(before, "3", "f", NOON, "b").take


def test_failures_are_tried_again_ever_later_up_to_an_hour() -> None:
    sighting, waits = None, []
    for _ in range(10):
        fresh = Sighting(version="3", fingerprint="f", state=State.FAILED)
        sighting = seen.failed(sighting, fresh, timedelta(minutes=1), NOON)
        assert sighting.retry_at is not None
        waits.append((sighting.retry_at - NOON) // timedelta(minutes=1))

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert decide(sighting, "3", "f", NOON + timedelta(hours=1)).take


def test_the_mapping_in_the_documentation_is_one() -> None:
    text = (Path(__file__).parents[3] / "docs" / "mlflow.md").read_text()
    block = text.partition("```yaml\n")[2].partition("```")[0]

    mapping = parse_document(block.encode(), MlflowMapping, source="docs/mlflow.md")

    assert mapping.spec.models[0].version_of("3") == "1.0.3"


def test_one_process_at_a_time_follows(tmp_path: Path) -> None:
    with seen.opened(tmp_path), pytest.raises(Conflict), seen.opened(tmp_path):
        pass


NAIVE = '{"version": "3", "fingerprint": "f", "state": "failed", "retry_at": "2026-11-22T12:00:00"}'


@pytest.mark.parametrize(
    "content", ["{", "", "[" * 100_000, "\xff", f'{{"aliases": {{"a@b": {NAIVE}}}}}']
)
def test_a_damaged_memory_is_an_empty_one(tmp_path: Path, content: str) -> None:
    with seen.opened(tmp_path) as kept:
        kept.put("cups@champion", SUBMITTED)
    with seen.opened(tmp_path) as kept:
        assert kept.seen.aliases == {"cups@champion": SUBMITTED}
    (tmp_path / seen.FILE).write_bytes(content.encode("latin-1"))

    with seen.opened(tmp_path) as kept:
        assert not kept.seen.aliases


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("https://m.example", "http://m.example"),
        ("https://m.example", "https://user:secret@m.example"),
        ("1.0.{version}", "1.0.0"),
        ("1.0.{version}", "v{version}"),
        ("cups/release.yaml", ""),
        ("alias: champion", "alias: 'a b'"),
        ("interval_seconds: 60", "interval_seconds: 1"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused(old: str, new: str) -> None:
    text = """\
apiVersion: mailboat/v1
kind: MlflowMapping
metadata: {name: cups}
spec:
  server: {url: "https://m.example"}
  interval_seconds: 60
  models:
  - {registered: cups, alias: champion, release: "cups/release.yaml", version: "1.0.{version}"}
"""
    parse_document(text.encode(), MlflowMapping, source="mlflow.yaml")

    with pytest.raises(DocumentInvalid):
        parse_document(text.replace(old, new).encode(), MlflowMapping, source="mlflow.yaml")
