"""The pairs: what an update of a model is, from a byte of metadata to a new training.

Made once and kept in the cache under a name that changes with the code that makes them, so that two
runs compare the same bytes. ``kind`` is what the bar of DESIGN section 13 goes by.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

import numpy as np
from bench.delta import finetune, rewritten, wheels
from bench.delta.finetune import Recipe

HERE = Path(__file__).parent
MAKERS = ("finetune.py", "rewritten.py", "wheels.py", "fixtures.py")
LARGE_BYTES = 90_000_000
SEED = 17


class Kind(StrEnum):
    FLOATS = "float weights"  # a fine-tune, as FP32 or FP16
    WHOLE = "integer weights"  # a fine-tune, quantised
    FEW = "some weights"  # one layer of many
    NONE = "no weights"  # graph, metadata, text
    NEW = "new training"  # nearly everything is new
    REAL = "new export"  # of the same or nearly the same weights, as published


@dataclass(frozen=True, slots=True)
class Fixture:
    name: str
    kind: Kind
    make: Callable[[Path], tuple[bytes, bytes]]  # from the wheels' cache: base, target
    note: str
    quick: bool = True


RECIPES = {
    "SGD": Recipe(optimiser="sgd", rate=1e-4, steps=10),
    "Adam 1e-5": Recipe(optimiser="adam", rate=1e-5, steps=30),
    "Adam 1e-4": Recipe(optimiser="adam", rate=1e-4, steps=60),
}
LAST_LAYER = Recipe(optimiser="adam", rate=1e-4, steps=20, only=("dense", "dense_bias"))


def written(cache: Path, fixture: Fixture) -> tuple[Path, Path]:
    """Base and target as files; made if they are not there.

    Raises:
        wheels.Unavailable
    """
    code = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in MAKERS)).hexdigest()
    folder = cache / f"pairs-{code[:12]}" / fixture.name.replace(" ", "-").replace("/", "-")
    base, target = folder / "base", folder / "target"
    for older in set(cache.glob("pairs-*")) - {folder.parent}:
        shutil.rmtree(older)
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in zip((base, target), fixture.make(cache / "wheels"), strict=True):
            fresh = path.with_suffix(".part")
            fresh.write_bytes(content)
            fresh.replace(path)
    return base, target


def all_fixtures() -> Iterator[Fixture]:
    yield from _fine_tunes()
    yield from _edits()
    yield from _published()
    yield Fixture("weights-90MB", Kind.FLOATS, _large, "seeded values, Adam-like", quick=False)


def _fine_tunes() -> Iterator[Fixture]:
    clothes: dict[str, tuple[Kind, Callable[[bytes], bytes]]] = {
        "FP32": (Kind.FLOATS, bytes),
        "FP16": (Kind.FLOATS, rewritten.half_precision),
        "INT8": (Kind.WHOLE, rewritten.int8_per_channel),
    }
    for precision, (kind, dress) in clothes.items():
        for name, recipe in RECIPES.items():
            make = partial(_trained, recipe=recipe, dress=dress)
            yield Fixture(f"{precision} {name}", kind, make, f"{recipe.steps} steps, ONNX")
    for name, bfloat16 in (("FP32", False), ("BF16", True)):
        dress = partial(rewritten.safetensors, bfloat16=bfloat16)
        make = partial(_trained, recipe=RECIPES["Adam 1e-5"], dress=dress)
        yield Fixture(f"{name} safetensors", Kind.FLOATS, make, "Adam 1e-5, weights alone")
    make = partial(_trained, recipe=LAST_LAYER, dress=bytes)
    yield Fixture("last layer", Kind.FEW, make, "FP32, 14 % of the weights")


def _edits() -> Iterator[Fixture]:
    notes = {
        "reordered": "weights stored in another order",
        "metadata": "version, description, one property",
        "opset": "two numbers",
        "renamed": "every tensor and node has another name",
    }
    for edit, note in notes.items():
        yield Fixture(f"graph {edit}", Kind.NONE, partial(_edited, edit=edit), note)
    yield Fixture("vocabulary", Kind.NONE, _vocabulary, "JSON, 11 entries of 350 changed")


def _published() -> Iterator[Fixture]:
    def pair(name: str, kind: Kind, base: wheels.Member, target: wheels.Member) -> Fixture:
        make = partial(_members, members=(base, target))
        about = f"{base.wheel.project} {base.wheel.version} → {target.wheel.version}"
        quick = base not in (wheels.OCR_1411, wheels.TORCH_600, wheels.GENERAL_600)
        return Fixture(name, kind, make, f"{about} ({base.wheel.licence})", quick=quick)

    yield pair("silero 16k", Kind.NEW, wheels.SMALL_600, wheels.SMALL_620)
    yield pair("silero 5 to 6", Kind.NEW, wheels.GENERAL_512, wheels.GENERAL_600)
    yield pair("silero 6.0 to 6.2", Kind.NEW, wheels.GENERAL_600, wheels.GENERAL_620)
    yield pair("silero TorchScript", Kind.NEW, wheels.TORCH_600, wheels.TORCH_620)
    yield pair("silero re-export", Kind.REAL, wheels.SMALL_623, wheels.SEQUENCE_623)
    yield pair("magika 3.2 to 3.3", Kind.NEW, wheels.MAGIKA_32, wheels.MAGIKA_33)
    yield pair("okay_nabu tflite", Kind.NEW, wheels.NABU_210, wheels.NABU_250)
    yield pair("ddddocr 54 MB", Kind.REAL, wheels.OCR_1411, wheels.OCR_152)


def _trained(cache: Path, recipe: Recipe, dress: Callable[[bytes], bytes]) -> tuple[bytes, bytes]:
    base = wheels.read(cache, wheels.MAGIKA_33)
    kept = cache.parent / "trained" / f"{_name_of(recipe)}.onnx"
    if not kept.is_file():  # three precisions share one training
        kept.parent.mkdir(parents=True, exist_ok=True)
        files = wheels.texts(cache, wheels.MAGIKA_062)
        fresh = kept.with_suffix(".part")
        fresh.write_bytes(finetune.trained(base, files, recipe))
        fresh.replace(kept)
    return dress(base), dress(kept.read_bytes())


def _name_of(recipe: Recipe) -> str:
    code = (HERE / "finetune.py").read_bytes() + repr(recipe).encode()
    return hashlib.sha256(code).hexdigest()[:16]


def _edited(cache: Path, edit: str) -> tuple[bytes, bytes]:
    base = wheels.read(cache, wheels.MAGIKA_33)
    return base, rewritten.edited(base, edit)


def _vocabulary(cache: Path) -> tuple[bytes, bytes]:
    return rewritten.vocabulary(wheels.read(cache, wheels.MAGIKA_KINDS))


def _members(cache: Path, members: tuple[wheels.Member, wheels.Member]) -> tuple[bytes, bytes]:
    return wheels.read(cache, members[0]), wheels.read(cache, members[1])


def _large(_: Path) -> tuple[bytes, bytes]:
    """FP32 values as trained ones are spread, each moved by what Adam 1e-5 moves it in 60 steps."""
    rng = np.random.default_rng(SEED)
    count = LARGE_BYTES // 4
    base = rng.standard_normal(count, np.float32) * np.float32(0.03)
    return base.tobytes(), (base + rng.standard_normal(count, np.float32) * 3e-5).tobytes()
