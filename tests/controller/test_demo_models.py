"""The demo's releases are what its story says they are, with silero-vad and with made models."""

import hashlib
import io
import os
import random
import socket
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from mailboat_controller.bundles.npz import npz_bytes
from mailboat_controller.demo import graphs, samples, wheels
from mailboat_controller.demo.models import (
    CLASSES,
    PROMISES,
    SESSIONS_MAX,
    TOLERANCE,
    VERSIONS,
    Series,
    _session,
    golden_samples,
    live_request,
    made_series,
    real_series,
    reference_outputs,
    write_release_sources,
)
from mailboat_schemas.documents.release import FileRole, ReleaseSource
from mailboat_schemas.errors import ConfigurationInvalid, NotFound, OperatorNeeded, Transient

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL_CACHE = Path(os.environ.get("MAILBOAT_MODEL_CACHE", REPOSITORY / ".cache" / "models"))


@pytest.fixture(scope="module", params=["made", "real"])
def series(request: pytest.FixtureRequest) -> Series:
    if request.param == "made":
        return made_series()
    if wheels.missing_versions(MODEL_CACHE):
        pytest.skip(f"no silero-vad wheels in {MODEL_CACHE}; MAILBOAT_MODEL_CACHE names the folder")
    return real_series(MODEL_CACHE)


@pytest.fixture(params=CLASSES)
def hardware_class(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def differences_from_golden(series: Series, letter: str, hardware_class: str) -> list[float]:
    """Per golden sample, the largest |output - golden| over all outputs."""
    golden = golden_samples(series.models[PROMISES[letter]][hardware_class])
    model = series.models[letter][hardware_class]
    differences = []
    for i in range(len(golden["in.input"])):
        inputs = {k[3:]: np.asarray(v[i]) for k, v in golden.items() if k.startswith("in.")}
        outputs = reference_outputs(model, inputs)
        differences.append(max(np.abs(v - golden[f"out.{k}"][i]).max() for k, v in outputs.items()))
    return differences


@pytest.mark.parametrize("letter", ["A", "B", "D", "E"])
def test_every_release_but_c_passes_its_golden_samples(
    series: Series, letter: str, hardware_class: str
) -> None:
    assert max(differences_from_golden(series, letter, hardware_class)) == 0


def test_c_fails_each_golden_sample_by_a_hundred_tolerances(
    series: Series, hardware_class: str
) -> None:
    assert min(differences_from_golden(series, "C", hardware_class)) > 100 * TOLERANCE


def test_c_gives_wrong_probabilities_not_only_wrong_states(
    series: Series, hardware_class: str
) -> None:
    promised = golden_samples(series.models["B"][hardware_class])["out.output"]
    given = golden_samples(series.models["C"][hardware_class])["out.output"]

    assert not np.allclose(promised, given, rtol=0, atol=40 * TOLERANCE)


def test_d_answers_quiet_requests_exactly_as_b(series: Series, hardware_class: str) -> None:
    rng = random.Random(7)
    for _ in range(20):
        quiet = live_request(rng, loud=False)
        from_b = reference_outputs(series.models["B"][hardware_class], quiet)
        from_d = reference_outputs(series.models["D"][hardware_class], quiet)
        assert all(np.array_equal(from_b[name], from_d[name]) for name in from_b)


def test_d_fails_every_loud_request_and_lives_on(series: Series, hardware_class: str) -> None:
    rng = random.Random(7)
    for _ in range(20):
        with pytest.raises(InvalidArgument, match="agc/gain_of_level"):
            reference_outputs(series.models["D"][hardware_class], live_request(rng, loud=True))

    reference_outputs(series.models["D"][hardware_class], live_request(rng, loud=False))


@pytest.mark.parametrize("letter", ["A", "B", "C", "E"])
def test_only_d_is_afraid_of_loud_requests(
    series: Series, letter: str, hardware_class: str
) -> None:
    outputs = reference_outputs(
        series.models[letter][hardware_class], live_request(random.Random(7), loud=True)
    )

    assert outputs["output"].shape == (1, 1)
    assert 0 <= outputs["output"].item() <= 1


def test_a_and_b_answer_differently(series: Series, hardware_class: str) -> None:
    request = live_request(random.Random(7), loud=False)
    older = reference_outputs(series.models["A"][hardware_class], request)["output"]
    newer = reference_outputs(series.models["B"][hardware_class], request)["output"]

    assert abs(older.item() - newer.item()) > 10 * TOLERANCE


def test_both_classes_of_a_release_have_one_interface_and_onnxruntime_agrees(
    series: Series,
) -> None:
    for models in series.models.values():
        interfaces = [graphs.read_interface(model) for model in models.values()]
        assert interfaces[0] == interfaces[1]
        for model in models.values():
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            for declared, actual in zip(
                interfaces[0].inputs + interfaces[0].outputs,
                session.get_inputs() + session.get_outputs(),
                strict=True,
            ):
                shape = tuple(d if isinstance(d, int) else -1 for d in actual.shape)
                assert (declared.name, declared.shape) == (actual.name, shape)


def test_release_sources_hold_and_name_files_that_are_there(series: Series, tmp_path: Path) -> None:
    paths = write_release_sources(series, tmp_path, soak_seconds=3.5)

    assert sorted(paths) == ["A", "B", "C", "D", "E"]
    for letter, path in paths.items():
        source = ReleaseSource.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        assert path == tmp_path / letter / "release.yaml"
        assert source.metadata.version == VERSIONS[letter]
        assert [v.hardware_classes for v in source.spec.variants] == [(c,) for c in CLASSES]
        for variant in source.spec.variants:
            assert variant.health.soak.seconds == 3.5
            assert [file.role for file in variant.files] == [FileRole.MODEL, FileRole.GOLDEN]
            model, golden = [(path.parent / file.source).read_bytes() for file in variant.files]
            assert model == series.models[letter][variant.hardware_classes[0]]
            with np.load(io.BytesIO(golden), allow_pickle=False) as arrays:
                assert sorted(arrays) == [
                    "in.input", "in.sr", "in.state", "out.output", "out.stateN"
                ]  # fmt: skip
                assert {len(arrays[name]) for name in arrays} == {16}
                assert np.abs(arrays["in.input"]).max() < graphs.LOUD_PEAK / 2


def test_writing_the_same_series_twice_gives_the_same_bytes(series: Series, tmp_path: Path) -> None:
    def digests(directory: Path) -> dict[str, str]:
        write_release_sources(series, directory)
        return {
            str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in directory.rglob("*.*")
        }

    first = digests(tmp_path / "first")

    assert first == digests(tmp_path / "second")
    assert len(first) == 5 * (1 + 2 * 2)


def test_c_d_and_e_promise_the_answers_of_b(series: Series, tmp_path: Path) -> None:
    write_release_sources(series, tmp_path)

    for name in CLASSES:
        golden = {
            letter: (tmp_path / letter / f"{name}.golden.npz").read_bytes() for letter in VERSIONS
        }
        assert golden["B"] == golden["C"] == golden["D"] == golden["E"] != golden["A"]
        assert golden["B"] == npz_bytes(golden_samples(series.models["B"][name]))


def test_made_models_are_the_same_on_every_run() -> None:
    assert made_series() == made_series()


def test_no_more_than_four_models_stay_loaded_for_comparison() -> None:
    request = live_request(random.Random(7), loud=False)
    for seed in range(SESSIONS_MAX + 1):
        reference_outputs(graphs.made_model(filters=4, seed=seed), request)

    assert _session.cache_info().currsize == SESSIONS_MAX == 4


def test_golden_bytes_do_not_depend_on_order_or_day() -> None:
    one, two = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 2], np.int64)
    first = npz_bytes({"in.x": one, "out.y": two})

    assert npz_bytes({"out.y": two, "in.x": one}) == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(io.BytesIO(first), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["in.x"], one)
        assert np.array_equal(arrays["out.y"], two)


def test_arrays_of_python_objects_are_no_golden_samples() -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        npz_bytes({"in.x": np.array([{"a": 1}], dtype=object)})


def test_live_requests_repeat_with_their_seed_and_are_as_loud_as_asked() -> None:
    for loud, peak in ((False, samples.QUIET_PEAK), (True, 1.0)):
        first = live_request(random.Random(3), loud)
        assert np.abs(first["input"]).max() == pytest.approx(peak)
        assert np.array_equal(first["input"], live_request(random.Random(3), loud)["input"])
        assert (first["input"].shape, first["state"].shape, first["sr"].shape) == (
            (1, 576), (2, 1, 128), ()
        )  # fmt: skip


def test_frames_overlap_by_the_context_of_64_samples() -> None:
    audio = np.arange(1, 1025, dtype=np.float32)

    first, second = samples.frames(audio)

    assert first[:64].tolist() == [0] * 64
    assert second[:64].tolist() == first[-64:].tolist()
    assert second[-1] == 1024


def test_gates_can_only_be_misordered_where_there_are_gates() -> None:
    gateless = graphs.made_model(filters=4, seed=1).replace(b"weight_", b"kernel_")

    with pytest.raises(ValueError, match="weight_ih"):
        graphs.with_gates_misordered(gateless)


# --- wheels: what arrives from the network -------------------------------------------------------


def write_wheel(cache: Path, member: str, content: bytes) -> Path:
    path = wheels.wheel_path(cache, wheels.SMALL.version)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return path


def test_an_altered_model_in_a_wheel_is_refused(tmp_path: Path) -> None:
    write_wheel(tmp_path, wheels.SMALL_MEMBER, b"almost an ONNX file")

    with pytest.raises(wheels.ModelAltered, match="pinned is 7ed98ddb") as refusal:
        wheels.read_model(tmp_path, wheels.SMALL)

    assert isinstance(refusal.value, OperatorNeeded)
    assert str(tmp_path) in refusal.value.next_step


def test_one_changed_bit_of_the_real_model_is_refused(tmp_path: Path) -> None:
    if wheels.missing_versions(MODEL_CACHE):
        pytest.skip(f"no silero-vad wheels in {MODEL_CACHE}; MAILBOAT_MODEL_CACHE names the folder")
    content = bytearray(wheels.read_model(MODEL_CACHE, wheels.SMALL))
    content[len(content) // 2] ^= 1
    write_wheel(tmp_path, wheels.SMALL_MEMBER, bytes(content))

    with pytest.raises(wheels.ModelAltered, match="sha256"):
        wheels.read_model(tmp_path, wheels.SMALL)


def test_a_wheel_without_the_model_is_refused(tmp_path: Path) -> None:
    write_wheel(tmp_path, "silero_vad/data/another.onnx", b"")

    with pytest.raises(wheels.ModelAltered, match=r"has no file .*op15\.onnx"):
        wheels.read_model(tmp_path, wheels.SMALL)


def test_a_wheel_that_unpacks_to_more_than_8_mib_is_refused(tmp_path: Path) -> None:
    write_wheel(tmp_path, wheels.SMALL_MEMBER, bytes(wheels.MODEL_BYTES_MAX + 1))

    with pytest.raises(wheels.ModelAltered, match="limit of 8388608 bytes"):
        wheels.read_model(tmp_path, wheels.SMALL)


def test_a_model_of_exactly_8_mib_is_unpacked(tmp_path: Path) -> None:
    write_wheel(tmp_path, wheels.SMALL_MEMBER, bytes(wheels.MODEL_BYTES_MAX))

    with pytest.raises(wheels.ModelAltered, match="sha256"):  # read whole, then not the pinned one
        wheels.read_model(tmp_path, wheels.SMALL)


@pytest.mark.parametrize("cut_bytes", [0, 100])
def test_a_damaged_wheel_is_refused(tmp_path: Path, cut_bytes: int) -> None:
    path = write_wheel(tmp_path, wheels.SMALL_MEMBER, random.Random(1).randbytes(1000))
    content = bytearray(path.read_bytes())
    content[500] ^= 0xFF
    path.write_bytes(content[: len(content) - cut_bytes])

    with pytest.raises(wheels.ModelAltered, match="does not unpack"):
        wheels.read_model(tmp_path, wheels.SMALL)


def test_a_missing_wheel_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is not there"):
        real_series(tmp_path)


@pytest.fixture
def pip_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """pip looks at one local port that is bound and, until a test listens, refuses connections."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield port


@pytest.mark.usefixtures("pip_index")
def test_without_a_network_fetching_fails_for_now_and_says_what_else_can_be_done(
    tmp_path: Path,
) -> None:
    said: list[str] = []

    with pytest.raises(Transient, match="makes small models of its own"):
        wheels.fetch_wheels(tmp_path / "cache", said.append)

    assert len(said) == 1
    assert "silero-vad 6.2.0" in said[0]
    assert "MIT" in said[0]


def test_an_index_that_never_answers_is_given_up_at_the_deadline(
    tmp_path: Path, pip_index: socket.socket
) -> None:
    pip_index.listen()

    with pytest.raises(Transient, match=r"no end after 1\.5 s"):
        wheels.fetch_wheels(tmp_path, lambda _: None, deadline_seconds=1.5)


@pytest.mark.usefixtures("pip_index")
def test_with_the_wheel_in_the_cache_nothing_is_fetched_and_nothing_said(tmp_path: Path) -> None:
    said: list[str] = []
    for version in wheels.VERSIONS:
        wheels.wheel_path(tmp_path, version).touch()

    wheels.fetch_wheels(tmp_path, said.append)

    assert said == []


def test_a_python_without_pip_is_a_matter_of_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)

    with pytest.raises(ConfigurationInvalid, match="ensurepip"):
        wheels.fetch_wheels(tmp_path, lambda _: None)
