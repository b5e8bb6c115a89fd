"""What a device is to run, damaged while it was off: the record, trust metadata, manifests.

Whatever one of them says alone, the others say as well: no single damaged or older file stops what
serves, brings back what was withdrawn, or keeps the device from what is published next.
"""

import itertools
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.faults import world
from tests.faults.acknowledged import Acknowledged
from tests.faults.device import Life, live

from damaged_device import Start, at_rest, start

# One whole history: 1.0.0, then 2.0.0, which is withdrawn again for 1.0.0.
SERVES = {1: "1.0.0", 2: "2.0.0", 3: "1.0.0"}
WITHDRAWN = "2.0.0"
HOWS = ("zeroed", "truncated", "garbage", "gone", "other", "older-1", "older-2")


@dataclass(frozen=True)
class History:
    """``device(n)``: the directory after n bundles."""

    directory: Path

    def device(self, upto: int) -> Path:
        return self.directory / f"after-{upto}"

    def paths(self, upto: int) -> list[str]:
        """What there is to be damaged, files and whole directories."""
        device = self.device(upto)
        files = [
            path.relative_to(device)
            for top in ("trust", "manifests")
            for path in sorted((device / top).rglob("*"))
        ]
        return [str(path) for path in files] + ["trust", "manifests", "state.json", STATE_BEFORE]

    def older(self, upto: int, path: str) -> Path | None:
        """What stood in this place after ``upto`` bundles: of the set or manifest of that day."""
        parts = Path(path).parts
        if parts[0] == "trust" and len(parts) > 1 and parts[1].isdecimal():
            return newest(self.device(upto) / "trust").joinpath(*parts[2:])
        if parts[0] == "manifests" and len(parts) > 1:
            return newest(self.device(upto) / "manifests")
        return self.device(upto) / path


STATE_BEFORE = "state.json.prev"


def contents(directory: Path) -> dict[Path, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory): path.read_bytes() for path in files}


def newest(directory: Path) -> Path:
    return max(directory.glob("[0-9]*"), key=lambda path: int(path.name))


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    made = History(tmp_path_factory.mktemp("history"))
    for upto in SERVES:
        at_rest(made.device(upto), "rotated", upto)
    return made


def damage(history: History, device: Path, path: str, how: str, upto: int) -> bool:
    """Whether there was something to do."""
    target = device / path
    if not target.exists():
        return False
    if how.startswith("older"):
        if int(how[-1]) >= upto:
            return False
        source = history.older(int(how[-1]), path)
        if source is None or not source.exists():
            return False
        if source.is_dir():
            before = contents(target)
            shutil.rmtree(target)
            shutil.copytree(source, target)
            return contents(target) != before
        content = source.read_bytes()
        changed = content != target.read_bytes()
        target.write_bytes(content)
        return changed
    if target.is_dir():
        shutil.rmtree(target)
        if how == "other":
            target.write_bytes(b"a file")
        return how in ("gone", "other")
    content = target.read_bytes()
    target.unlink()
    if how == "other":
        target.mkdir()
    elif how != "gone":
        target.write_bytes(
            {
                "zeroed": bytes(len(content)),
                "truncated": content[: len(content) // 2],
                "garbage": random.Random(1).randbytes(len(content)),
            }[how]
        )
    return True


def then_published(device: Path, upto: int) -> None:
    """The newest manifest comes once more, as it does from a broker that retained it."""

    async def story(life: Life) -> None:
        life.take(world.current().bundles["rotated"][upto - 1])
        await life.until(lambda: life.serves(SERVES[upto]))

    live(device, story, Acknowledged())
    assert (device / "trust").is_dir()
    assert (device / "manifests").is_dir()


@pytest.mark.parametrize(
    ("upto", "path", "how", "told"),
    [
        pytest.param(2, "state.json", "zeroed", "state", id="record-zeroed"),
        pytest.param(3, "state.json", "older-1", "state", id="record-older"),
        pytest.param(2, "trust", "gone", "trust", id="trust-gone"),
        pytest.param(2, "trust", "other", "trust", id="trust-a-file"),
        pytest.param(3, "trust", "older-2", "trust", id="trust-older"),
        pytest.param(3, "trust/3/approval-vad.json", "older-2", "trust", id="approval-older"),
        pytest.param(3, "manifests/3", "garbage", "manifest", id="manifest-garbage"),
        pytest.param(2, "manifests", "other", "manifest", id="manifests-a-file"),
    ],
)
def test_one_damaged_file_stops_nothing_and_is_told(
    history: History, tmp_path: Path, upto: int, path: str, how: str, told: str
) -> None:
    device = shutil.copytree(history.device(upto), tmp_path / "device")
    assert damage(history, device, path, how, upto)

    found = start(device)

    assert found.serving == SERVES[upto]
    assert found.damage == {told}
    then_published(device, upto)


def test_trust_metadata_that_is_gone_withdraws_nothing(history: History, tmp_path: Path) -> None:
    """Without a kept manifest nothing vouches for the release either, and it waits; but it does
    not go back to the one before, and nothing is forgotten."""
    device = shutil.copytree(history.device(2), tmp_path / "device")
    shutil.rmtree(device / "trust")
    shutil.rmtree(device / "manifests")

    found = start(device)

    assert (found.serving, found.desired) == (None, None)
    assert found.damage == {"trust", "manifest"}

    async def story(life: Life) -> None:
        active = life.model.active
        assert active is not None
        assert (active.version, life.model.phase) == ("2.0.0", "committed")
        assert life.take(world.current().bundles["rotated"][1])
        await life.until(lambda: life.serves("2.0.0"))

    live(device, story, Acknowledged())


@pytest.mark.parametrize("name", ["store", "staging", "damaged"])
def test_a_file_in_the_place_of_a_directory_is_moved_aside(
    history: History, tmp_path: Path, name: str
) -> None:
    device = shutil.copytree(history.device(1), tmp_path / "device")
    shutil.rmtree(device / name)
    (device / name).write_bytes(b"a file")

    async def story(life: Life) -> None:
        await life.until(lambda: life.serves("1.0.0"))  # of an empty store, when it is fetched
        assert life.take(world.current().bundles["rotated"][1])
        await life.until(lambda: life.serves("2.0.0"))

    live(device, story, Acknowledged())
    assert (device / f"{name}.in-the-way").read_bytes() == b"a file"


@pytest.mark.parametrize("how", ["garbage", "gone", "other", "older-2"])
def test_a_newest_manifest_that_cannot_be_read_is_not_replaced_by_the_one_before(
    history: History, tmp_path: Path, how: str
) -> None:
    """The one before wants 2.0.0, which was withdrawn since."""
    device = shutil.copytree(history.device(3), tmp_path / "device")
    assert damage(history, device, "manifests/3", how, 3)

    found = start(device)

    assert (found.serving, found.desired) == ("1.0.0", None)
    assert found.damage == {"manifest"}


# --- the matrix -----------------------------------------------------------------------------------


def singles(history: History, upto: int) -> Iterator[tuple[tuple[str, str], ...]]:
    for path in history.paths(upto):
        for how in HOWS:
            yield ((path, how),)


def pairs(history: History, upto: int) -> Iterator[tuple[tuple[str, str], ...]]:
    hows = ("garbage", "gone", "older-1", "older-2")
    for one, other in itertools.combinations(history.paths(upto), 2):
        for how in hows:
            for how_other in ("garbage", "older-2"):
                yield ((one, how), (other, how_other))


def after(
    history: History, device: Path, upto: int, harm: tuple[tuple[str, str], ...]
) -> Start | None:
    shutil.copytree(history.device(upto), device)
    if not all(damage(history, device, path, how, upto) for path, how in harm):
        return None
    return start(device)


@pytest.mark.slow
@pytest.mark.parametrize("upto", [2, 3])
def test_no_single_damage_stops_what_serves_or_stays_silent(
    history: History, tmp_path: Path, upto: int
) -> None:
    cases = 0
    for number, harm in enumerate(singles(history, upto)):
        device = tmp_path / str(number)
        found = after(history, device, upto, harm)
        if found is not None:
            cases += 1
            ((path, _),) = harm
            assert found.serving == SERVES[upto], f"{harm}: {found}"
            spare = path in (STATE_BEFORE, "trust/highest.json", *older_manifests(history, upto))
            assert spare or found.damage, f"{harm}: {found}"
            then_published(device, upto)
        shutil.rmtree(device)
    assert cases > 70


def older_manifests(history: History, upto: int) -> list[str]:
    kept = (history.device(upto) / "manifests").iterdir()
    return [f"manifests/{path.name}" for path in kept if int(path.name) < upto]


@pytest.mark.slow
def test_no_two_damages_bring_back_what_was_withdrawn(history: History, tmp_path: Path) -> None:
    chosen = random.Random(20260301).sample(list(pairs(history, 3)), 300)
    cases = 0
    for number, harm in enumerate(chosen):
        device = tmp_path / str(number)
        found = after(history, device, 3, harm)
        if found is not None:
            cases += 1
            assert found.serving != WITHDRAWN, f"{harm}: {found}"
            then_published(device, 3)
        shutil.rmtree(device)
    assert cases > 60
