"""A release serves: unsure answers, failures, pressure, all on real workers."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent_process import until
from degraded_front import Front, Make, Other, absent, served
from mailboat_agent.degraded.answers import IN_FLIGHT_PRESSED_MAX
from mailboat_agent.degraded.settings import PressureSetting
from mailboat_agent.serving.runtime import Runtime
from model_fleet import picky

SURE, UNSURE = (9.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0)
ROW = {"name": "y", "dtype": "float32", "shape": [-1, 4], "values": [0, 0, 0, 0]}


def confident(share_max: float = 1.0, **more: Any) -> dict[str, Any]:
    rule = {"output": "y", "rule": "max-softmax", "threshold": 0.9, "share_max": share_max}
    return {"confidence": rule, **more}


def asks(other: Other, when: str, **changes: Any) -> tuple[dict[str, Any]]:
    named = {"name": "far", "url": other.url, "models": ["m", "p"], "when": [when]}
    return (named | changes,)


def serve(runtime: Runtime, **what: Any) -> str:
    """The digest."""
    release = served(**what)
    try:
        runtime.serve(release)
    finally:
        os.close(release.model_fd)
    return release.digest


@pytest.fixture(scope="module")
def serving() -> Iterator[Runtime]:
    """m is y = 2x + 1 with a confidence and a cache; p fails for numbers it does not know."""
    runtime = Runtime(clock=lambda: datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
    serve(runtime, degraded=confident(cache={"seconds_max": 600}))
    rule = {"outputs": [ROW], "on_failure": True}
    serve(runtime, model="p", content=picky(), degraded={"fallback": rule}, workload="batch")
    yield runtime
    runtime.close()


# --- unsure --------------------------------------------------------------------------------------


def test_a_sure_answer_is_the_release_s_own_and_not_marked(
    make: Make, serving: Runtime, other: Other
) -> None:
    front = make(runtime=serving, remote=asks(other, "low-confidence"))

    status, _, headers = front.infer(values=SURE)

    assert status == 200
    assert "mailboat-degraded" not in headers
    assert other.seen == []


def test_an_unsure_answer_is_asked_elsewhere(make: Make, serving: Runtime, other: Other) -> None:
    front = make(runtime=serving, remote=asks(other, "low-confidence"))

    _, body, headers = front.infer(values=UNSURE)

    assert body["outputs"][0]["data"] == [9.0] * 4
    assert headers["mailboat-degraded"] == "remote"
    assert headers["mailboat-degraded-because"] == "low-confidence"


def test_the_same_unsure_inputs_are_sent_away_once(
    make: Make, serving: Runtime, other: Other
) -> None:
    front = make(runtime=serving, remote=asks(other, "low-confidence"))

    marks = [front.infer(values=UNSURE)[2]["mailboat-degraded"] for _ in range(3)]

    assert marks == ["remote", "cache", "cache"]
    assert len(other.seen) == 1


def test_the_local_answer_is_given_and_marked_when_nobody_knows_better(
    make: Make, serving: Runtime, other: Other
) -> None:
    other.status = 503
    front = make(runtime=serving, remote=asks(other, "low-confidence"))

    status, body, headers = front.infer(values=UNSURE)

    assert (status, body["outputs"][0]["data"]) == (200, [3.0] * 4)
    assert headers["mailboat-degraded"] == "low-confidence"
    assert headers["mailboat-degraded-because"] == "remote-unavailable"
    assert headers["mailboat-release"]
    assert make(runtime=serving).infer(values=UNSURE)[2]["mailboat-degraded-because"] == (
        "no-endpoint"
    )


def test_what_a_neighbour_hands_on_is_answered_as_it_is(
    make: Make, serving: Runtime, other: Other
) -> None:
    front = make(runtime=serving, remote=asks(other, "low-confidence"))

    _, _, headers = front.infer(values=UNSURE, mailboat_hops="1")

    assert "mailboat-degraded" not in headers
    assert other.seen == []


def test_an_unsure_answer_to_a_neighbour_is_not_taken_for_a_better_one_later(
    make: Make, serving: Runtime, other: Other
) -> None:
    front = make(runtime=serving, remote=asks(other, "low-confidence"))
    front.infer(values=UNSURE, mailboat_hops="1")

    assert front.infer(values=UNSURE)[2]["mailboat-degraded"] == "remote"
    assert len(other.seen) == 1


def test_an_earlier_answer_of_another_version_is_none_for_who_asks_for_one(
    make: Make, serving: Runtime, other: Other
) -> None:
    front = make(runtime=serving, remote=asks(other, "low-confidence"))
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": list(UNSURE)}
    front.infer(values=UNSURE)  # 2.0.0 answers, and is remembered

    _, body, headers = front.call("POST", "/v2/models/m/versions/1.0.0/infer", {"inputs": [x]})

    assert body["model_version"] == "1.0.0"
    assert headers["mailboat-degraded"] == "low-confidence"


# --- failures ------------------------------------------------------------------------------------


def test_a_request_the_model_fails_on_is_asked_elsewhere_and_then_ruled(
    make: Make, serving: Runtime, other: Other
) -> None:
    front = make(runtime=serving, remote=asks(other, "failure"))
    first = front.infer("p", values=(9, 9, 9, 9))[2]
    other.status = 500
    second = front.infer("p", values=(9, 9, 9, 9))[2]

    assert (first["mailboat-degraded"], second["mailboat-degraded"]) == ("remote", "fallback-rule")
    assert second["mailboat-degraded-because"] == "inference-failed"


def test_a_neighbour_is_told_of_a_failure_and_not_given_a_constant(
    make: Make, serving: Runtime, other: Other
) -> None:
    front = make(runtime=serving, remote=asks(other, "failure"))

    status, _, headers = front.infer("p", values=(9, 9, 9, 9), mailboat_hops="1")

    assert (status, other.seen) == (500, [])
    assert "mailboat-degraded" not in headers


def test_a_request_that_is_wrong_stays_wrong(make: Make, serving: Runtime, other: Other) -> None:
    front = make(runtime=serving, remote=asks(other, "failure"))
    z = {"name": "z", "datatype": "FP32", "shape": [1, 4], "data": [0] * 4}

    assert front.call("POST", "/v2/models/p/infer", {"inputs": [z]})[0] == 400
    assert other.seen == []


def test_another_model_of_the_device_stands_in_and_is_named(make: Make, serving: Runtime) -> None:
    fallback = {"model": "p", "use_model": "m", "on_failure": True}
    front = make(runtime=serving, fallback=(fallback,))

    _, body, headers = front.infer("p", values=SURE)

    assert body["model_name"] == "m"
    assert body["outputs"][0]["data"] == [19.0, 1.0, 1.0, 1.0]
    assert headers["mailboat-degraded"] == "fallback-model"


@pytest.mark.slow
def test_an_earlier_answer_is_given_again_while_the_worker_is_down(
    make: Make, other: Other
) -> None:
    front = make(remote=asks(other, "failure"))
    serve(front.runtime, degraded={"cache": {"seconds_max": 600}})
    front.infer(values=SURE)
    marks = []
    for _ in range(3):  # the first restart is at once, the next ones are not
        killed = front.runtime.worker_pid("m")
        os.kill(killed, signal.SIGKILL)
        status, body, headers = front.infer(values=SURE)
        assert (status, body["outputs"][0]["data"]) == (200, [19.0, 1.0, 1.0, 1.0])
        marks.append(headers.get("mailboat-degraded"))
        _until_served(front, after=killed)

    assert "cache" in marks
    assert other.seen == []


@pytest.mark.slow
def test_the_worker_s_death_under_way_is_answered_by_another_endpoint(
    make: Make, other: Other
) -> None:
    front = make(remote=asks(other, "failure"))
    serve(front.runtime)
    pid, lane = front.runtime.worker_pid("m"), front.runtime._lanes.get("m")
    assert lane is not None
    os.kill(pid, signal.SIGSTOP)  # it takes the request and does not answer
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(front.infer, values=SURE)
        until(lambda: lane._queue._running_since is not None)
        os.kill(pid, signal.SIGKILL)
        status, _, headers = asking.result()

    assert status == 200
    assert headers.get("mailboat-degraded") == "remote"


@pytest.mark.slow
def test_the_share_of_unsure_answers_that_leave_is_bounded(make: Make, other: Other) -> None:
    front = make(remote=asks(other, "low-confidence", requests_per_minute=1000))
    serve(front.runtime, degraded=confident(share_max=0.1))

    because = [front.infer(values=UNSURE)[2]["mailboat-degraded-because"] for _ in range(50)]

    assert len(other.seen) == 5
    assert because.count("share-spent") == 45


@pytest.mark.slow
def test_two_agents_help_each_other_once(make: Make) -> None:
    """Neither has the model: the other is asked, and does not ask back."""
    well = make()
    serve(well.runtime)
    named = {"name": "well", "url": well.gateway.url, "models": ["m"], "kind": "neighbour"}
    ill = make(remote=(named,))
    ill.runtime.explain_absence("m", absent())

    status, body, headers = ill.infer(values=SURE)

    assert (status, body["outputs"][0]["data"]) == (200, [19.0, 1.0, 1.0, 1.0])
    assert headers["mailboat-degraded"] == "neighbour"
    assert headers["mailboat-release"] == served().digest


def _until_served(front: Front, after: int = 0) -> None:
    """By a worker that lives: one that died has its number until its lane has noticed."""
    until(lambda: front.runtime.ready("m") and front.runtime.worker_pid("m") not in (0, after))


# --- the declared fallback release ---------------------------------------------------------------


def test_a_release_that_serves_as_the_declared_fallback_says_so(
    make: Make, serving: Runtime
) -> None:
    front = make(runtime=serving)
    digest = front.infer(values=SURE)[2]["mailboat-release"]
    serving.note_fallback("m", digest, "withdrawn")
    try:
        headers = front.infer(values=SURE)[2]
        assert headers["mailboat-degraded"] == "fallback-release"
        assert headers["mailboat-degraded-because"] == "withdrawn"
        assert front.call("GET", "/v2/models/m/ready")[0] == 200
    finally:
        serving.note_fallback("m", "", "")
    assert "mailboat-degraded" not in front.infer(values=SURE)[2]


# --- pressure ------------------------------------------------------------------------------------


def heat(front: Front, root: Path, celsius: float) -> None:
    directory = root / "sys" / "class" / "thermal" / "thermal_zone0"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "temp").write_text(f"{celsius * 1000:.0f}\n")
    front.gauge.look()


def test_batch_work_waits_while_the_device_is_hot(
    make: Make, serving: Runtime, tmp_path: Path
) -> None:
    front = make(runtime=serving, pressure=PressureSetting(celsius_max=80))
    heat(front, tmp_path, 81)

    status, body, headers = front.infer(values=SURE, mailboat_workload="batch")

    assert (status, headers["retry-after"]) == (503, "30")
    assert "81 °C" in body["error"]
    assert front.infer("p", values=(1, 1, 1, 1))[0] == 503  # its release says batch
    assert front.infer(values=SURE)[0] == 200
    heat(front, tmp_path, 60)
    assert front.infer(values=SURE, mailboat_workload="batch")[0] == 200


def test_under_pressure_so_many_are_under_way_at_once_and_no_more(
    make: Make, serving: Runtime, other: Other, tmp_path: Path
) -> None:
    other.hold = threading.Event()
    front = make(
        runtime=serving,
        remote=asks(other, "low-confidence", timeout_seconds=20),
        pressure=PressureSetting(celsius_max=80),
        request_seconds_max=30,
    )
    heat(front, tmp_path, 81)
    # Each has inputs of its own, or an earlier answer would do.
    rows = [(1.0 + n / 1000, 1.0, 1.0, 1.0) for n in range(IN_FLIGHT_PRESSED_MAX)]
    with ThreadPoolExecutor(IN_FLIGHT_PRESSED_MAX) as threads:
        held = [threads.submit(front.infer, values=row) for row in rows]
        until(lambda: front.degraded.answers._in_flight == IN_FLIGHT_PRESSED_MAX)

        status, body, _ = front.infer(values=SURE)
        other.hold.set()

        assert (status, "under pressure" in body["error"]) == (503, True)
        assert [each.result()[0] for each in held] == [200] * IN_FLIGHT_PRESSED_MAX
    assert front.infer(values=SURE)[0] == 200


def test_smaller_models_answer_when_it_is_severe(
    make: Make, serving: Runtime, tmp_path: Path
) -> None:
    setting = PressureSetting(celsius_max=80, celsius_severe=90, smaller_models={"p": "m"})
    front = make(runtime=serving, pressure=setting)
    heat(front, tmp_path, 91)

    _, body, headers = front.infer("p", values=SURE, mailboat_workload="real-time")

    assert (body["model_name"], headers["mailboat-degraded"]) == ("m", "smaller-model")
    assert headers["mailboat-degraded-because"] == "thermal"
