"""The first lines of `mailboat-agent status`: read by whoever stands before the device."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mailboat_agent.plain_status import _NOTES, in_plain_words

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
TWO_DAYS_AGO = int(NOON.timestamp()) - 2 * 86_400
ERRORS = Path(__file__).parents[2] / "docs" / "errors.md"


def model(**changed: Any) -> dict[str, Any]:
    return {
        "model": "heat",
        "phase": "committed",
        "serving_version": "1.0.0",
        "target_version": None,
        "because": "",
        "switched_at": TWO_DAYS_AGO,
        "staged_bytes": 0,
        "total_bytes": 0,
    } | changed


def told(*models: dict[str, Any], notes: tuple[str, ...] = (), **changed: Any) -> str:
    status = {
        "connected": True,
        "unconfirmed": {"events": 0, "telemetry": 0},
        "degraded": {},
        "report": {"device": "kiosk-1", "models": list(models), "notes": list(notes)},
    } | changed
    return "\n".join(in_plain_words(status, NOON))


def test_a_device_that_is_well_says_so_and_since_when() -> None:
    assert told(model()) == (
        "kiosk-1 works.\n"
        "\n"
        "heat        runs 1.0.0 since 2026-11-20 12:00 UTC (2 days), healthy\n"
        "controller  connected, nothing waits to be told\n"
        "to do       nothing"
    )


def test_a_model_says_when_it_last_answered() -> None:
    answered = int(NOON.timestamp()) - 7200

    assert "last answered 2026-11-22 10:00 UTC (2 hours)" in told(model(answered_at=answered))
    assert "nobody has asked it since the agent began" in told(model(answered_at=0))


def test_a_download_says_how_far_it_is_and_that_the_old_one_runs() -> None:
    text = told(
        model(
            phase="staging",
            target_version="1.1.0",
            because="1.1.0 is offered to this device",
            staged_bytes=62,
            total_bytes=100,
        )
    )

    assert "runs 1.0.0 since" in text
    assert "1.1.0 is being downloaded, 62 %" in text
    assert "waits for: 1.1.0 is offered to this device" in text


@pytest.mark.parametrize(
    ("phase", "words"), [("trial", "1.1.0 is being tried"), ("soak", "runs on probation")]
)
def test_each_phase_has_words(phase: str, words: str) -> None:
    assert words in told(model(phase=phase, target_version="1.1.0"))


def test_a_release_on_probation_is_not_called_healthy() -> None:
    text = told(model(phase="soak", because="0 of at least 3 requests were served"))

    assert "on probation: it goes back by itself" in text
    assert "waits for: 0 of at least 3 requests were served" in text
    assert "healthy" not in text


def test_a_device_that_serves_nothing_says_that_first() -> None:
    text = told(model(serving_version=None, phase="absent"), notes=("nothing_to_serve:heat",))

    assert text.startswith("kiosk-1 DOES NOT WORK for heat")
    assert "to do       tell the operator: a release has to be approved" in text


def test_a_device_without_a_network_works_on_and_says_what_to_look_at() -> None:
    text = told(model(), connected=False, unconfirmed={"events": 2, "telemetry": 40})

    assert text.startswith("kiosk-1 works.")
    assert "not connected; it works on without. 42 messages wait to be told" in text
    assert "`mailboat-agent doctor` says where it ends" in text


def test_a_grave_note_comes_first_and_an_action_once() -> None:
    text = told(
        model(), notes=("pressure-thermal", "worker_restarting:heat", "storage_damaged:heat")
    )

    assert text.startswith("kiosk-1 works, but needs attention.")
    assert text.index("files on its disk are damaged") < text.index("it is too hot")
    assert "has crashed and is being started again" in text
    assert "look at fan, dust, sun" in text


def test_a_note_that_nobody_foresaw_is_told_as_it_is() -> None:
    text = told(model(), notes=("something_new:heat",))

    assert "heat: something new (something_new:heat)" in text
    assert "tell the operator this line" in text


def test_a_clock_that_was_put_back_counts_no_days() -> None:
    ahead = int(NOON.timestamp()) + 3600

    assert "since 2026-11-22 13:00 UTC, healthy" in told(model(switched_at=ahead))
    assert "runs 1.0.0, healthy" in told(model(switched_at=0))


def test_a_device_without_a_model_says_so() -> None:
    assert told().startswith("kiosk-1 has no model to run yet.")


def test_every_note_in_the_documents_has_plain_words() -> None:
    section = ERRORS.read_text().split("\n### Notes of a device\n", 1)[1].split("\n## ", 1)[0]
    named = {
        re.split(r"[:<]", each)[0]
        for line in section.splitlines()
        if line.startswith("* ")
        for each in re.findall(r"`([^`]+)`", line.partition(": ")[0])
    }

    assert named - _NOTES.keys() == set()
