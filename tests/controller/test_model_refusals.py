"""What no release can be, and data that lies: told in words before memory or minutes are spent."""

import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mailboat_controller.bundles import given, judging, npz, promising, samples
from mailboat_controller.bundles.asking import RuntimeWish, largest_difference
from mailboat_controller.bundles.device_process import ModelRefused
from mailboat_controller.bundles.given import ARRAYS_MAX, given_samples
from mailboat_controller.bundles.latencies import Latency
from mailboat_controller.bundles.npz import stacked
from mailboat_controller.bundles.order import Order
from mailboat_controller.bundles.own_code import (
    LABELS_BYTES_MAX,
    Function,
    OwnCode,
    function_named,
    labels_of,
)
from mailboat_controller.bundles.plot import COLUMNS, text_plot
from mailboat_controller.bundles.ports import OpenedModel, Port, declared_ports
from mailboat_controller.bundles.promising import PromiseBroken, judged_by_decisions, refuse_batches
from mailboat_controller.bundles.samples import Guess, Recipe, seeded_inputs
from mailboat_controller.bundles.smaller import To, make_smaller
from mailboat_schemas.documents.interface import TENSORS_MAX, Tensor
from mailboat_schemas.documents.release import FileRole
from mailboat_schemas.errors import ConfigurationInvalid

GUESS = Guess(64, 100)
X = Port("x", "FP32", ("n", 4))
ORDER = Order(
    model=Path("m.onnx"), directory=Path("out"), name="m", version="1.0.0", classes=("box",)
)


def opened(inputs: list[Port], outputs: list[Port]) -> OpenedModel:
    told = {
        side: [[port.name, port.datatype, list(port.shape)] for port in ports]
        for side, ports in (("inputs", inputs), ("outputs", outputs))
    }
    return OpenedModel.of_answer({"runtime": "1", "provider": "CPU", **told})


# --- what no release can be ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"name": "A b"}, "--name"),
        ({"version": "latest"}, "--version"),
        ({"classes": ("BOX 1",)}, "--class"),
        ({"batches": tuple(range(1, 10))}, "--batch"),
        ({"peak_memory_bytes": 0}, "--peak-memory"),
        ({"latency_p95_ms_max": 1e9}, "--latency-p95-ms-max"),
        ({"wish": RuntimeWish(providers=("CPUExecutionProvider",) * 9)}, "--provider"),
    ],
)
def test_an_order_for_what_no_release_can_be_names_the_option(
    change: dict[str, Any], option: str
) -> None:
    ORDER.refuse_unfit()

    with pytest.raises(ConfigurationInvalid) as refused:
        replace(ORDER, **change).refuse_unfit()

    assert option in refused.value.next_step
    assert "errors.pydantic.dev" not in refused.value.what


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ([], "no inputs"),
        ([Port("x", "seq(tensor(float))", ())], "seq"),
        ([Port("x" * 300, "FP32", ("n",))], "name"),
        ([Port("x", "FP32", ("n",) * 9)], "shape"),
        ([Port(f"x{n}", "FP32", ("n",)) for n in range(TENSORS_MAX + 1)], "at most 64"),
    ],
)
def test_a_model_that_no_release_can_declare_is_refused_as_it_is_opened(
    inputs: list[Port], problem: str
) -> None:
    with pytest.raises(ModelRefused, match=problem) as refused:
        opened(inputs, [X])

    assert len(refused.value.what) < 400


def test_requests_that_a_device_does_not_join_have_no_batch_to_measure() -> None:
    refuse_batches((8,), opened([X], [X]))
    for other in (Port("y", "FP32", (1, 4)), Port("y", "FP32", ()), Port("y", "BYTES", ("n",))):
        with pytest.raises(ModelRefused, match="'y'"):
            refuse_batches((8,), opened([X], [other]))


def test_what_is_no_onnx_model_is_not_made_smaller_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def smaller() -> None:
        make_smaller(
            tmp_path / "m", To.INT8, recipe=Recipe(), data=None, wish=RuntimeWish(), say=print
        )

    (tmp_path / "m").write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(100))
    with pytest.raises(ModelRefused, match="TensorFlow Lite"):
        smaller()
    (tmp_path / "m").write_bytes(b"\x08" + bytes(100))
    monkeypatch.setattr(promising, "MODEL_BYTES_MAX", 100)
    with pytest.raises(ModelRefused, match="over 100 bytes"):
        smaller()


def test_numbers_that_an_input_cannot_be_are_refused() -> None:
    cases = [
        ("UINT8", 256), ("UINT64", -1), ("UINT64", 2.0**64), ("INT64", 1.5), ("BOOL", 2),
        ("FP16", 1e6), ("FP32", 1e39), ("FP32", float("inf")), ("FP64", float("nan")),
    ]  # fmt: skip
    for datatype, number in cases:
        port = Port("x", datatype, ("n",))
        for recipe in (Recipe(values={"x": number}), Recipe(ranges={"x": (number, number)})):
            with pytest.raises(ConfigurationInvalid, match=datatype):
                seeded_inputs([port], recipe, GUESS)


def test_the_ends_of_a_type_are_numbers_that_it_can_have() -> None:
    wide = (-1.7e308, 1.7e308)
    drawn = seeded_inputs([Port("x", "FP64", ("n",))], Recipe(ranges={"x": wide}), GUESS)
    assert np.isfinite(drawn["x"]).all()
    drawn = seeded_inputs([Port("x", "UINT8", ("n",))], Recipe(ranges={"x": (255, 255)}), GUESS)
    assert (drawn["x"] == 255).all()


def test_samples_that_would_not_fit_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "DRAWN_BYTES_MAX", 16 * 4 * 8)
    assert len(seeded_inputs([X], Recipe(samples=16), GUESS)["x"]) == 16
    with pytest.raises(ConfigurationInvalid, match="17 samples"):
        seeded_inputs([X], Recipe(samples=17), GUESS)
    huge = Port("x", "FP32", (2**31, 2**31, 2**31))  # its product is 0 in 64 bits
    with pytest.raises(ConfigurationInvalid, match="One sample"):
        seeded_inputs([huge], Recipe(), GUESS)


# --- data that lies ------------------------------------------------------------------------------


def array_saying(shape: tuple[int, ...], content: bytes = b"") -> bytes:
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def test_an_array_that_says_it_is_a_terabyte_is_refused_before_it_is_allocated(
    tmp_path: Path,
) -> None:
    lie = array_saying((2**34, 16))
    (tmp_path / "lie.npy").write_bytes(lie)
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("x.npy", lie)

    for name in ("lie.npy", "lie.npz"):
        with pytest.raises(ConfigurationInvalid, match="more than it holds"):
            given_samples(tmp_path / name, [X])


def test_what_is_no_array_inside_an_npz_is_refused(tmp_path: Path) -> None:
    for content in (b"hello", b"", array_saying((-1, 4)), array_saying((2, 4), bytes(31))):
        with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
            archive.writestr("x.npy", content)
        with pytest.raises(ConfigurationInvalid, match="cannot be used"):
            given_samples(tmp_path / "data.npz", [X])


def test_data_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")

    with pytest.raises(ConfigurationInvalid, match="regular file"):
        given_samples(tmp_path / "pipe.npz", [X])


def test_an_input_is_given_once_and_in_numbers_that_its_type_holds(tmp_path: Path) -> None:
    array = np.ones((2, 1, 4))
    np.savez(tmp_path / "twice.npz", **{"x": array, "in.x": array})
    np.savez(tmp_path / "large.npz", x=array * 1e39)

    with pytest.raises(ConfigurationInvalid, match="twice"):
        given_samples(tmp_path / "twice.npz", [X])
    with pytest.raises(ConfigurationInvalid, match="cannot hold"):
        given_samples(tmp_path / "large.npz", [X])


def test_data_is_bounded_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(5):
        np.save(folder / f"{number}.npy", np.ones((50, 4), np.float32))
    monkeypatch.setattr(given, "DATA_BYTES_MAX", 5 * 800)

    assert len(given_samples(folder, [X]).inputs["x"]) == 5
    monkeypatch.setattr(given, "DATA_BYTES_MAX", 5 * 800 - 1)  # each file is far below
    with pytest.raises(ConfigurationInvalid, match="its files unpack"):
        given_samples(folder, [X])

    np.savez(tmp_path / "many.npz", **{f"a{n}": np.ones(1) for n in range(ARRAYS_MAX + 1)})
    monkeypatch.undo()
    with pytest.raises(ConfigurationInvalid, match=f"{ARRAYS_MAX} may be"):
        given_samples(tmp_path / "many.npz", [X])


def test_one_long_text_among_many_short_ones_is_not_given_the_room_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def text(*words: str) -> list[Any]:
        data = b"".join(len(word).to_bytes(4, "little") + word.encode() for word in words)
        return ["y", "BYTES", [len(words)], data]

    monkeypatch.setattr(npz, "TEXT_BYTES_MAX", 4 * 100 * 10)
    assert stacked([[text("a" * 100)]] * 10)["y"].shape == (10, 1)
    with pytest.raises(ValueError, match="4000"):
        stacked([[text("a" * 100)]] + [[text("b")]] * 10)
    with pytest.raises(ValueError, match="4000"):
        stacked([[text("a" * 101, *["b"] * 9)]])


def test_nan_on_one_side_alone_is_as_far_off_as_can_be() -> None:
    one = np.array([1.0, np.nan, np.inf])

    assert largest_difference({"y": one}, {"y": one}) == 0
    for other in ([np.nan, np.nan, np.inf], [1.0, 2.0, np.inf], [1.0, np.nan, -np.inf]):
        assert largest_difference({"y": one}, {"y": np.array(other)}) == np.inf


# --- outputs that are decisions ------------------------------------------------------------------


def test_numbers_of_classes_become_rows_of_the_classifier() -> None:
    answered = {"p": np.array([[[0.1, 0.9]], [[0.8, 0.2]], [[0.6, 0.4]]], np.float32)}

    promised, judged = judging.rows_of_classes({"p": np.array([1, 0, 1])}, answered)

    assert judged == {"p"}
    assert promised["p"].tolist() == [[[0, 1]], [[1, 0]], [[0, 1]]]
    assert promised["p"].dtype == np.float32
    assert judging.agreement(promised["p"], answered["p"]) == pytest.approx(2 / 3)
    for wrong in ([2, 0, 1], [-1, 0, 1]):
        with pytest.raises(ValueError, match="class"):
            judging.rows_of_classes({"p": np.array(wrong)}, answered)


def test_an_output_with_a_place_for_each_label_is_judged_by_decisions() -> None:
    outputs = {
        "p": np.zeros((3, 1, 4), np.float32),
        "other": np.zeros((3, 1, 5), np.float32),
        "numbers": np.zeros((3, 1, 4), np.int64),
        "image": np.zeros((3, 1, 4, 4, 4), np.float32),
    }

    assert judging.classifiers(outputs, ("a", "b", "c", "d")) == {"p"}
    assert judging.classifiers(outputs, ()) == set()


def test_a_metric_leaves_room_for_one_row_and_for_one_in_a_hundred() -> None:
    assert judging.metric_gate(1.0, 16).at_least == 0.93
    assert judging.metric_gate(1.0, 1000).at_least == 0.99
    assert judging.metric_gate(0.05, 10).at_least == 0.0


def test_a_classifier_that_only_guesses_is_no_release() -> None:
    truth = np.eye(4, dtype=np.float32)
    assert judged_by_decisions({"p": truth}, {"p": truth}, {"p"}) == {"p": 1.0}

    with pytest.raises(PromiseBroken, match="chance among 4"):
        judged_by_decisions({"p": truth}, {"p": np.roll(truth, 1, axis=1)}, {"p"})


# --- code of the release's own -------------------------------------------------------------------


def test_a_function_is_named_by_its_file() -> None:
    assert function_named("a/b.py:go", "x") == Function(Path("a/b.py"), "go")
    assert function_named("b.py", "preprocess").name == "preprocess"
    for wrong in ("b.py:no-name", ":go", "b.py:1"):
        with pytest.raises(ValueError, match="no function"):
            function_named(wrong, "x")


def test_a_side_is_declared_where_a_function_makes_it_and_nowhere_else(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("")
    tensor = Tensor(name="pixels", dtype="uint8", shape=(-1, 4))
    fit = OwnCode(preprocess=Function(code, "f"), inputs=(tensor,))
    fit.refuse_unfit(())

    assert declared_ports(fit.inputs) == (Port("pixels", "UINT8", (None, 4)),)
    for unfit, word in (
        (replace(fit, inputs=()), "--input"),
        (replace(fit, preprocess=None), "--preprocess"),
        (replace(fit, outputs=(tensor,)), "--output"),
        (replace(fit, check=tmp_path / "nowhere.py"), "nowhere.py"),
        (replace(fit, postprocess=Function(code, "g"), outputs=(tensor,)), "code.py"),
    ):
        with pytest.raises(ConfigurationInvalid, match=word):
            unfit.refuse_unfit(())
    with pytest.raises(ConfigurationInvalid, match=r"code\.py"):
        fit.refuse_unfit(("code.py",))


def test_labels_are_lines_of_text(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("cold\n\nhot\n")
    assert labels_of([(FileRole.LABELS, path)]) == ("cold", "hot")
    assert labels_of([(FileRole.OTHER, path)]) == ()
    for content in (b"\n\n", b"\xff\xfe", b"a\n" * (LABELS_BYTES_MAX // 2 + 1)):
        path.write_bytes(content)
        with pytest.raises(ConfigurationInvalid, match="no labels"):
            labels_of([(FileRole.LABELS, path)])


# --- in a terminal -------------------------------------------------------------------------------


def test_a_bar_goes_to_its_quantiles_and_the_limit_stands_where_it_is() -> None:
    row = Latency(label="as sampled", batch_size=1, p50=1.0, p95=2.0, p99=4.0)

    line, legend = text_plot([row], 8.0).splitlines()
    bar = line.removeprefix("as sampled  ")
    assert bar.count("█") == COLUMNS // 8
    assert bar.count("▒") == COLUMNS // 8
    assert bar.count("─") == COLUMNS // 4
    assert bar.index("│") == COLUMNS - 1
    assert "8 ms" in legend
    assert "│" not in text_plot([row], 1e6).splitlines()[0]  # it would press the bars to nothing
    zero = replace(row, p50=0.0, p95=0.0, p99=0.0)
    assert "█" in text_plot([zero], None)
