"""`mailboat explain`, `plan`, `get devices` and the orders for devices, word by word."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import forget_settings, mailboat
from mailboat_controller.cli import device_orders, output
from mailboat_controller.cli.explain import spoken_age
from mailboat_controller.cli.plan import markdown
from running_api import RunningApi, running_api
from trust_fleet import CLASS

WHY = ("--reason", "an exhibition")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        for name in ("dev-1", "dev-2"):
            assert api.enrol(name).status == 201
        yield api


@pytest.fixture(autouse=True)
def as_alice(api: RunningApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_settings(monkeypatch, tmp_path)
    monkeypatch.setenv("MAILBOAT_CONNECTION", str(api.connection_file("alice")))


def test_a_hold_shows_where_people_look_for_it() -> None:
    assert mailboat("device", "hold", "dev-1", *WHY, "--hours", "1").code == 0

    said = mailboat("explain", "dev-1")
    assert said.code == 0
    assert "every model until" in said.out
    assert "by operator:alice: an exhibition (not confirmed by it yet)" in said.out
    held = mailboat("get", "devices", "-l", "held", "--json")
    assert [row["device"] for row in held.json] == ["dev-1"]
    assert mailboat("device", "release-hold", "-l", "held", *WHY).code == 0
    assert mailboat("device", "list", "-l", "held", "--json").json == []


def test_an_order_names_a_device_or_a_selector_and_not_both() -> None:
    assert mailboat("device", "hold", *WHY).code == 2
    assert mailboat("device", "hold", "dev-1", "-l", "class=x", *WHY).code == 2


def test_a_selector_that_names_more_than_was_meant_is_asked_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_orders, "AT_ONCE_MAX", 1)
    words = ("device", "label", "-l", f"class={CLASS}", "--set", "owner=ana", *WHY)

    assert mailboat(*words).code == 2
    assert mailboat(*words, "--yes", "--json").json[1]["operator_labels"] == {"owner": "ana"}
    assert len(mailboat("get", "devices", "-l", "owner=ana", "--json").json) == 2


def test_a_selector_with_a_mistake_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    said = mailboat("get", "devices", "-l", "class=")

    assert said.code == output.EXIT_FAILURE
    assert "lacks a value at character 7" in said.err


@pytest.mark.parametrize(
    "words",
    [
        ("device", "pin", "dev-1", "--release", "1.0.0", *WHY),
        ("explain", "dev-1", "--release", "1.0.0"),
        ("explain", "dev-1", "--model", "heat", "--release", "vad@1.0.0"),
    ],
    ids=" ".join,
)
def test_a_release_is_said_with_its_model(words: tuple[str, ...]) -> None:
    assert mailboat(*words).code == output.EXIT_USAGE


def test_a_plan_of_a_release_that_nobody_submitted_is_not_found(tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text(
        "apiVersion: mailboat/v1\nkind: Rollout\nmetadata: {name: r}\n"
        "spec:\n  release: {model: vad, version: 9.9.9}\n  waves: [{percent: 100}]\n"
    )

    assert mailboat("plan", "-f", file).code == output.EXIT_NOT_FOUND


PLANNED: dict[str, Any] = {
    "rollout": "r",
    "model": "vad",
    "version": "1.0.0",
    "ends_at": None,
    "warnings": ["a | bar"],
    "classes": [
        {
            "hardware_class": "kiosk",
            "devices": 50,
            "more_reasons": 2,
            "cannot": [
                {
                    "check": "memory",
                    "because": "needs <b>more</b>",
                    "devices": 6,
                    "examples": ["dev-1"],
                    "unknown": False,
                }
            ],
        }
    ],
    "waves": [
        {
            "number": 1,
            "hardware_class": "kiosk",
            "devices": 50,
            "able": 44,
            "needed": 44,
            "total": 44,
            "excludes": 0.0994,
            "catches_ten_percent": 0.9903,
            "opens_at": "2026-11-21T12:00:00Z",
            "duration_seconds": 7200.0,
            "waiting": 0,
            "without_habit": 0,
            "examples": [],
        }
    ],
}


def test_a_plan_is_a_table_that_nothing_said_from_afar_can_break() -> None:
    text = "\n".join(markdown(PLANNED))

    assert "9.94 % (44 good) | 99 % | 2026-11-21 12:00 UTC | 2.0 hours |" in text
    assert "a \\| bar" in text
    assert "needs \\<b\\>more\\</b\\>" in text
    assert "and 2 more reasons" in text


def test_ages_are_said_in_one_number() -> None:
    assert [spoken_age(s) for s in (5, 119, 7199, 86_400, 200_000)] == [
        "5 s",
        "119 s",
        "120 min",
        "24 h",
        "2 d",
    ]


def test_a_device_that_takes_no_order_does_not_keep_it_from_those_after_it(api: RunningApi) -> None:
    assert mailboat("device", "hold", "dev-2", *WHY).code == 0

    said = mailboat("device", "release-hold", "-l", f"class={CLASS}", *WHY)

    assert said.code == output.EXIT_CONFLICT
    assert "No hold stands for device dev-1" in said.err
    assert "dev-2" in said.out
    assert mailboat("device", "list", "-l", "held", "--json").json == []


def test_an_order_to_nobody_is_no_success() -> None:
    said = mailboat("device", "hold", "-l", "site=harbor", *WHY)

    assert said.code == output.EXIT_NOT_FOUND
    assert "No device is named by 'site=harbor'" in said.err
