"""What a forecast is made of: habits of devices, files they hold, releases they ran."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller_core import Core, plan
from enrolled_fleet import CLASS, NOON
from mailboat_controller.explaining import class_forecast
from mailboat_controller.explaining.class_forecast import (
    EXAMPLES_MAX,
    HABIT_DAYS,
    ClassForecast,
)
from mailboat_controller.explaining.device_facts import _held_files
from mailboat_controller.explaining.explain import Evidence, explain_device
from mailboat_controller.explaining.plan import forecast
from mailboat_controller.explaining.prediction import Move, Named, Prediction, predict
from mailboat_schemas.desired import Assignment, ReleaseRef
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.documents.rollout import Rollout
from mailboat_schemas.errors import NotFound
from mailboat_schemas.reports import ReportedState
from trust_fleet import document

NIGHTS = 3


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    """Two devices that sent something on each of three nights."""
    core = Core(tmp_path)
    for name in ("dev-1", "dev-2"):
        device = core.fleet.enrol(name)
        for night in range(1, NIGHTS + 1):
            at = NOON - timedelta(days=NIGHTS - night, hours=9)
            core.fleet.take(device.numbered(night, night), now=at)
    yield core
    core.store.close()


def waits(core: Core, days_later: float = 0) -> dict[str, timedelta | None]:
    now = NOON + timedelta(days=days_later)
    nobody: Any = None
    with core.store.read() as tx:
        forecast = ClassForecast(Evidence(tx, now), CLASS, plan("r"), nobody)
        forecast.seen = {
            name: class_forecast._Seen(nobody, False, None) for name in ("dev-1", "dev-2")
        }
        return forecast._waits(["dev-1", "dev-2"])


def test_how_long_a_device_is_waited_for_is_told_by_what_it_sent_before(core: Core) -> None:
    until_tonight = timedelta(hours=15)

    assert waits(core) == {"dev-1": until_tonight, "dev-2": until_tonight}
    assert waits(core, days_later=HABIT_DAYS) == {"dev-1": None, "dev-2": None}


def test_the_habits_of_the_first_devices_are_looked_up(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_forecast, "HABITS_MAX", 1)

    assert list(waits(core)) == ["dev-1"]


def test_of_many_devices_a_few_are_named_beside_a_reason(core: Core) -> None:
    for number in range(EXAMPLES_MAX):
        core.fleet.enrol(f"more-{number}")
    core.trust.release("1.0.0", approve=False)
    core.submit("release-vad")
    wanted = {"release": {"model": "vad", "version": "1.0.0"}, "waves": [{"percent": 100}]}
    document = {"apiVersion": "mailboat/v1", "kind": "Rollout", "metadata": {"name": "next"}}

    with core.store.read() as tx:
        found = forecast(
            Evidence(tx, NOON), Rollout.model_validate(document | {"spec": wanted}), None
        )

    (reason,) = found.cannot[CLASS]
    assert (reason.devices, len(reason.examples)) == (2 + EXAMPLES_MAX, EXAMPLES_MAX)


def test_a_model_that_a_device_has_nothing_to_do_with_is_told_as_such(core: Core) -> None:
    core.release("1.0.0", plan("first"))
    core.run()
    with core.store.read() as tx:
        explained = explain_device(Evidence(tx, NOON), "dev-1", model="vad")
        assert [each.model for each in explained.models] == ["vad"]
        with pytest.raises(NotFound, match="nothing to do with a model heat"):
            explain_device(Evidence(tx, NOON), "dev-1", model="heat")


def test_a_device_holds_the_files_of_what_it_serves_and_of_what_it_has_whole() -> None:
    documents = {"a" * 64: with_file("aa"), "b" * 64: with_file("bb"), "c" * 64: with_file("cc")}
    told = {"model": "vad", "phase": "committed", "serving_digest": "a" * 64}
    told |= {"whole": ["b" * 64, "d" * 64]}
    report = ReportedState.model_validate(REPORT | {"models": [told]})

    assert _held_files(CLASS, report, documents.get) == {"aa" * 32, "bb" * 32}
    assert _held_files("another-class", report, documents.get) == frozenset()


REPORT = {
    "fleet": "demo",
    "device": "dev-1",
    "hardware_class": CLASS,
    "site": "-",
    "session": 1,
    "observed_at": 0,
    "manifest_counter": 0,
}


def with_file(byte: str) -> ReleaseDocument:
    file = {"path": "m.onnx", "role": "model", "sha256": byte * 32, "length": 4}
    (variant,) = document("1.0.0").model_dump(mode="json", exclude_unset=True)["variants"]
    return document("1.0.0", variants=[variant | {"files": [file]}])


def ref(digit: str) -> ReleaseRef:
    return ReleaseRef(model="vad", version=f"{digit}.0.0", digest=digit * 64)


@pytest.mark.parametrize(
    ("previous", "kept", "expected"),
    [
        ("2", (), (Move.TAKES, "2")),  # what is current ran here before
        ("1", ("1",), (Move.TAKES, "1")),  # what it ran before may be kept
        ("1", (), (Move.UNKNOWN, "2")),
    ],
)
def test_without_an_offer_a_device_goes_back_to_what_it_ran_if_that_is_named(
    previous: str, kept: tuple[str, ...], expected: tuple[Move, str]
) -> None:
    asked: list[str] = []

    def explain(release: ReleaseRef, offered: bool) -> Any:
        asked.append(release.digest[0])
        raise LookupError

    named = Named(
        assignment=Assignment(
            model="vad", current=ref("2"), kept=tuple(ref(each) for each in kept)
        ),
        serving=ref("3"),
        installing=None,
        serving_approved=True,
        pinned=None,
        previous=ref(previous),
        explain=explain,
    )
    try:
        found: Prediction | None = predict(named)
    except LookupError:
        found = None

    if expected[0] is Move.UNKNOWN:  # it is judged as any release that is new to it
        assert asked == [expected[1]]
    else:
        assert found is not None
        assert found.release is not None
        assert (found.move, found.release.digest[0]) == expected
