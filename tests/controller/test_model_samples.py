"""Inputs that `mailboat model` asks a model with: drawn from a seed, or given."""

from pathlib import Path

import numpy as np
import pytest

from mailboat_controller.bundles import given
from mailboat_controller.bundles.device_process import ModelRefused
from mailboat_controller.bundles.given import SAMPLES_MAX, given_samples
from mailboat_controller.bundles.npz import npz_bytes, stacked
from mailboat_controller.bundles.ports import OpenedModel, Port
from mailboat_controller.bundles.samples import (
    FREE_SIZES,
    INTEGERS_BELOW,
    Guess,
    Recipe,
    guesses,
    seeded_inputs,
)
from mailboat_schemas.errors import ConfigurationInvalid

GUESS = Guess(64, 100)
IMAGE = Port("image", "FP32", ("batch", 3, "height", "width"))
TOKENS = Port("tokens", "INT64", ("batch", "length"))


def test_the_same_seed_draws_the_same_numbers_and_another_seed_others() -> None:
    one = seeded_inputs([IMAGE, TOKENS], Recipe(seed=7), GUESS)
    two = seeded_inputs([IMAGE, TOKENS], Recipe(seed=7), GUESS)
    other = seeded_inputs([IMAGE, TOKENS], Recipe(seed=8), GUESS)

    assert npz_bytes(one) == npz_bytes(two)
    assert npz_bytes(one) != npz_bytes(other)


def test_one_sample_is_one_request_of_one_row() -> None:
    drawn = seeded_inputs([IMAGE, TOKENS], Recipe(samples=5), GUESS)

    assert drawn["image"].shape == (5, 1, 3, 64, 64)
    assert drawn["tokens"].shape == (5, 1, 64)
    assert drawn["image"].dtype == np.float32
    assert 0 <= drawn["tokens"].min() <= drawn["tokens"].max() < 100


def test_a_dimension_that_is_somewhere_the_batch_is_the_batch_everywhere() -> None:
    state = Port("state", "FP32", (2, "batch", 128))

    drawn = seeded_inputs([IMAGE, state], Recipe(samples=1), GUESS)

    assert drawn["state"].shape == (1, 2, 1, 128)


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("FP16", "<f2"),
        ("FP64", "<f8"),
        ("INT8", "i1"),
        ("UINT8", "u1"),
        ("INT32", "<i4"),
        ("BOOL", "?"),
    ],
)
def test_numbers_have_the_type_of_the_input(datatype: str, dtype: str) -> None:
    drawn = seeded_inputs([Port("x", datatype, (4,))], Recipe(), GUESS)

    assert drawn["x"].dtype == np.dtype(dtype)


def test_text_is_text() -> None:
    drawn = seeded_inputs([Port("x", "BYTES", ("n",))], Recipe(samples=2), GUESS)

    assert drawn["x"].tolist() == [["sample 0"], ["sample 1"]]


def test_what_is_told_of_an_input_is_what_it_gets() -> None:
    recipe = Recipe(
        samples=4,
        shapes={"image": (1, 3, 8, 8)},
        values={"rate": 16_000},
        ranges={"image": (0, 1), "tokens": (5, 6)},
    )

    drawn = seeded_inputs([IMAGE, TOKENS, Port("rate", "INT64", ())], recipe, GUESS)

    assert drawn["image"].shape == (4, 1, 3, 8, 8)
    assert 0 <= drawn["image"].min() <= drawn["image"].max() <= 1
    assert set(drawn["tokens"].ravel()) <= {5, 6}
    assert drawn["rate"].tolist() == [16_000] * 4


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(shapes={"imaeg": (1,)}),
        Recipe(shapes={"image": (1, 4, 8, 8)}),  # the model says 3
        Recipe(shapes={"image": (1, 3, 8)}),
        Recipe(shapes={"image": (1, 3, 4096, 4096)}),  # 50 million numbers
    ],
)
def test_a_recipe_for_another_model_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ConfigurationInvalid):
        seeded_inputs([IMAGE], recipe, GUESS)


def test_only_what_is_unknown_is_guessed() -> None:
    fixed = Port("x", "FP32", ("batch", 4))

    assert len(list(guesses([fixed], Recipe()))) == 1
    assert len(list(guesses([IMAGE], Recipe()))) == len(FREE_SIZES)
    assert len(list(guesses([TOKENS], Recipe()))) == len(FREE_SIZES) * len(INTEGERS_BELOW)
    told = Recipe(shapes={"tokens": (1, 7)}, ranges={"tokens": (0, 9)})
    assert len(list(guesses([TOKENS], told))) == 1


# --- given data ----------------------------------------------------------------------------------

X = Port("x", "FP32", ("batch", 2))


def test_an_npz_gives_inputs_and_what_it_promises(tmp_path: Path) -> None:
    x, y = np.ones((3, 1, 2), np.float32), np.zeros((3, 1), np.float32)
    np.savez(tmp_path / "data.npz", **{"in.x": x, "out.y": y})

    given = given_samples(tmp_path / "data.npz", [X])

    assert np.array_equal(given.inputs["x"], x)
    assert np.array_equal(given.outputs["y"], y)


def test_a_directory_gives_one_sample_a_file_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (2, 1, 3):
        np.save(tmp_path / f"{number}.npy", np.full((1, 2), number, np.float32))

    given = given_samples(tmp_path, [X])

    assert given.inputs["x"][:, 0, 0].tolist() == [1, 2, 3]


def test_numbers_of_a_wider_type_are_taken_and_of_another_kind_are_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", x=np.ones((2, 1, 2), np.float64))
    np.savez(tmp_path / "complex.npz", x=np.ones((2, 1, 2), np.complex64))

    assert given_samples(tmp_path / "wide.npz", [X]).inputs["x"].dtype == np.float32
    with pytest.raises(ConfigurationInvalid, match="complex64"):
        given_samples(tmp_path / "complex.npz", [X])


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"y": np.ones((2, 1))}, "no input of the model"),
        ({"out.y": np.ones((2, 1))}, "'x' is not in it"),
        ({"x": np.ones((2, 1, 2)), "out.y": np.ones((3, 1))}, "same length"),
        ({"x": np.ones((0, 1, 2))}, "same length"),
        ({"x": np.ones((SAMPLES_MAX + 1, 1))}, "same length"),
        ({"x": np.array([{"a": 1}], dtype=object)}, "does not read"),
    ],
)
def test_data_that_cannot_be_used_says_why(
    tmp_path: Path, arrays: dict[str, np.ndarray], problem: str
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)

    with pytest.raises(ConfigurationInvalid, match=problem):
        given_samples(tmp_path / "data.npz", [X])


def test_data_over_its_bound_is_refused_packed_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.zeros((100, 1, 2), np.float32))
    assert path.stat().st_size < 800

    monkeypatch.setattr(given, "DATA_BYTES_MAX", 800)
    with pytest.raises(ConfigurationInvalid, match="unpacks to more"):
        given_samples(path, [X])
    monkeypatch.setattr(given, "DATA_BYTES_MAX", 100)
    with pytest.raises(ConfigurationInvalid, match="over 100 bytes"):
        given_samples(path, [X])


def test_files_of_different_shapes_are_no_samples_of_one_model(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 2)))
    np.save(tmp_path / "b.npy", np.ones((1, 3)))

    with pytest.raises(ConfigurationInvalid, match="different shapes"):
        given_samples(tmp_path, [X])


# --- what comes back -----------------------------------------------------------------------------


def test_answers_become_arrays_with_the_samples_first() -> None:
    two = np.array([1.5, 2.5], "<f4")
    words = b"\x02\x00\x00\x00ok\x03\x00\x00\x00\xc3\xa9t"

    found = stacked([[["y", "FP32", [2], two.tobytes()], ["w", "BYTES", [2], words]]] * 3)

    assert found["y"].shape == (3, 2)
    assert found["y"][0].tolist() == [1.5, 2.5]
    assert found["w"][2].tolist() == ["ok", "ét"]


def opened(inputs: list[Port], outputs: list[Port]) -> OpenedModel:
    """As the agent's process tells of a model."""
    told = {
        side: [[port.name, port.datatype, list(port.shape)] for port in ports]
        for side, ports in (("inputs", inputs), ("outputs", outputs))
    }
    return OpenedModel.of_answer({"runtime": "1.31.1", "provider": "CPU", **told})


def test_a_free_dimension_is_declared_as_free() -> None:
    interface = opened([IMAGE], [Port("y", "INT64", (None,))]).interface()

    assert interface.inputs[0].shape == (-1, 3, -1, -1)
    assert interface.outputs[0].dtype == "int64"


def test_a_type_that_no_release_declares_is_refused_by_name() -> None:
    with pytest.raises(ModelRefused, match="bfloat16"):
        opened([Port("x", "tensor(bfloat16)", (1,))], [X])
