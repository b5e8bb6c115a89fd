"""What answers while no release of a model serves: other endpoints, then what is declared here."""

import threading
import time
from typing import Any

import pytest

from degraded_front import GOOD, Front, Make, Other, absent
from mailboat_schemas.documents.degraded_policy import DegradedPolicy

ROW = {"name": "y", "dtype": "float32", "shape": [-1, 4], "values": [0, 0, 0, 0]}
RULE = DegradedPolicy.model_validate({"fallback": {"outputs": [ROW]}})


def endpoint(other: Other, **changes: Any) -> dict[str, Any]:
    return {"name": "next", "url": other.url, "models": ["m"], "kind": "neighbour"} | changes


def test_without_anything_declared_callers_are_told_to_come_again(make: Make) -> None:
    front = make()
    front.runtime.explain_absence("m", absent())

    status, body, headers = front.infer()

    assert (status, headers["retry-after"]) == (503, "30")
    assert "nothing is left to serve" in body["error"]
    assert front.totals() == {}


def test_the_rule_of_an_approved_document_answers_marked_and_in_no_release_s_name(
    make: Make,
) -> None:
    front = make()
    front.runtime.explain_absence("m", absent(policy=RULE, word="rolled_back"))

    status, body, headers = front.infer()

    assert (status, body["outputs"][0]["data"]) == (200, [0.0] * 4)
    assert headers["mailboat-degraded"] == "fallback-rule"
    assert headers["mailboat-degraded-because"] == "rolled_back"
    assert "mailboat-release" not in headers
    assert front.totals() == {"m": {"fallback-rule": 1}}


def test_the_operator_s_rule_comes_before_the_document_s(make: Make) -> None:
    front = make(fallback=({"model": "m", "outputs": [ROW | {"values": [7, 7, 7, 7]}]},))
    front.runtime.explain_absence("m", absent(policy=RULE))

    assert front.infer()[1]["outputs"][0]["data"] == [7.0] * 4


def test_fail_closed_is_closed_whatever_could_answer(make: Make, other: Other) -> None:
    front = make(remote=(endpoint(other),), fallback=({"model": "m", "outputs": [ROW]},))
    front.runtime.explain_absence("m", absent(policy=RULE, closed=True))

    assert front.infer()[0] == 503
    assert other.seen == []


def test_a_model_that_does_not_belong_here_is_not_found_whatever_is_declared(
    make: Make, other: Other
) -> None:
    front = make(remote=(endpoint(other),), fallback=({"model": "m", "outputs": [ROW]},))

    assert front.infer()[0] == 404
    assert other.seen == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "z"}, "no input 'z'"),
        ({"datatype": "FP64"}, "takes FP32"),
        ({"shape": [4]}, "takes [-1, 4]"),
        ({"shape": [2_000_000, 0], "data": []}, "takes [-1, 4]"),
    ],
)
def test_nothing_stands_in_for_a_request_that_is_wrong(
    make: Make, other: Other, changes: dict[str, Any], reason: str
) -> None:
    front = make(remote=(endpoint(other),), fallback=({"model": "m", "outputs": [ROW]},))
    front.runtime.explain_absence("m", absent(policy=RULE))
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0] * 4} | changes

    status, body, _ = front.call("POST", "/v2/models/m/infer", {"inputs": [x]})

    assert status == 400
    assert reason in body["error"]
    assert other.seen == []


def test_readiness_is_of_the_release_not_of_what_stands_in_for_it(make: Make) -> None:
    front = make()
    front.runtime.explain_absence("m", absent(policy=RULE))
    assert front.infer()[0] == 200

    assert front.call("GET", "/v2/models/m/ready")[0] == 503
    assert front.call("GET", "/v2/health/ready")[0] == 503


# --- other endpoints -----------------------------------------------------------------------------


def test_a_neighbour_answers_before_the_rule_does(make: Make, other: Other) -> None:
    other.headers = {"mailboat-release": "b" * 64}
    front = make(remote=(endpoint(other),))
    front.runtime.explain_absence("m", absent(policy=RULE))

    status, body, headers = front.infer()

    assert (status, body["outputs"][0]["data"]) == (200, [9.0] * 4)
    assert (body["model_version"], headers["mailboat-release"]) == ("2.0.0", "b" * 64)
    assert headers["mailboat-degraded"] == "neighbour"
    assert other.seen[0]["path"] == "/v2/models/m/infer"
    assert other.bodies[0]["inputs"][0]["data"] == [1, 2, 3, 4]


def test_neighbours_are_asked_before_what_is_far_away(make: Make, other: Other) -> None:
    far = {"name": "far", "url": "http://127.0.0.1:9", "models": ["m"], "kind": "remote"}
    front = make(remote=(far, endpoint(other)))
    front.runtime.explain_absence("m", absent())

    assert front.infer()[2]["mailboat-degraded"] == "neighbour"
    assert [each["name"] for each in front.degraded.answers.elsewhere.status()] == ["next", "far"]


def test_what_another_agent_has_handed_on_is_not_handed_on_again(make: Make, other: Other) -> None:
    front = make(remote=(endpoint(other),))
    front.runtime.explain_absence("m", absent(policy=RULE))

    assert front.infer(mailboat_hops="1")[0] == 503
    assert other.seen == []

    front.infer()
    assert other.seen[0]["mailboat-hops"] == "1"


def test_two_neighbours_that_name_each_other_do_not_play_ball(make: Make) -> None:
    one = make()
    url = one.gateway.url
    two = make(remote=({"name": "one", "url": url, "models": ["m"], "kind": "neighbour"},))
    back = {"name": "two", "url": two.gateway.url, "models": ["m"], "kind": "neighbour"}
    third = make(remote=(back,))
    for front in (one, two, third):
        front.runtime.explain_absence("m", absent())

    assert third.infer()[0] == 503
    assert two.degraded.answers.elsewhere.status()[0]["problem"] == ""


def test_only_the_models_that_are_named_leave_the_device(make: Make, other: Other) -> None:
    front = make(remote=(endpoint(other, models=["another"]),))
    front.runtime.explain_absence("m", absent())

    assert front.infer()[0] == 503
    assert other.seen == []


@pytest.mark.parametrize("policy", [None, DegradedPolicy(inputs_stay_on_device=True)])
def test_inputs_stay_where_the_document_says_so_or_nobody_knows_it(
    make: Make, other: Other, policy: DegradedPolicy | None
) -> None:
    front = make(remote=(endpoint(other),))
    front.runtime.explain_absence("m", absent(policy=policy))

    assert front.infer()[0] == 503
    assert other.seen == []


def test_an_endpoint_is_not_asked_for_what_it_is_not_there_for(make: Make, other: Other) -> None:
    front = make(remote=(endpoint(other, when=["low-confidence"]),))
    front.runtime.explain_absence("m", absent())

    assert front.infer()[0] == 503
    assert other.seen == []


def test_a_request_over_the_size_that_may_leave_stays(make: Make, other: Other) -> None:
    front = make(remote=(endpoint(other, payload_bytes_max=1024),))
    front.runtime.explain_absence("m", absent())
    x = {"name": "x", "datatype": "FP32", "shape": [200, 4], "data": [0.5] * 800}

    status, _, _ = front.call("POST", "/v2/models/m/infer", {"inputs": [x]})

    assert status == 503
    assert other.seen == []


def test_what_takes_long_to_write_down_is_sent_all_the_same(make: Make, other: Other) -> None:
    rows = [GOOD["outputs"][0] | {"shape": [9000, 4], "data": [0.125] * 36_000}]
    other.content = {"model_version": "2.0.0", "outputs": rows}
    front = make(remote=(endpoint(other),))
    front.runtime.explain_absence("m", absent())
    x = {"name": "x", "datatype": "FP32", "shape": [9000, 4], "data": [0.5] * 36_000}

    status, body, _ = front.call("POST", "/v2/models/m/infer", {"inputs": [x]})

    assert (status, len(body["outputs"][0]["data"])) == (200, 36_000)
    assert len(other.bodies[0]["inputs"][0]["data"]) == 36_000


def test_the_budget_of_a_minute_is_kept(make: Make, other: Other) -> None:
    front = make(remote=(endpoint(other, requests_per_minute=2),))
    front.runtime.explain_absence("m", absent())

    assert [front.infer()[0] for _ in range(4)] == [200, 200, 503, 503]


@pytest.mark.parametrize(
    "wrong",
    [
        b"not json",
        {"outputs": []},
        {"outputs": [GOOD["outputs"][0] | {"shape": [1, 3], "data": [1, 2, 3]}]},
        {"outputs": [GOOD["outputs"][0] | {"datatype": "INT64"}]},
        {"outputs": [GOOD["outputs"][0] | {"data": [1, 2]}]},
        b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [NaN]}]}',
        b"[" * 100_000,
        [],
    ],
)
def test_an_answer_that_is_not_what_callers_rely_on_is_none(
    make: Make, other: Other, wrong: Any
) -> None:
    other.content = wrong
    front = make(remote=(endpoint(other),))
    front.runtime.explain_absence("m", absent(policy=RULE))

    assert front.infer()[2]["mailboat-degraded"] == "fallback-rule"


def test_a_degraded_answer_of_a_neighbour_is_none(make: Make, other: Other) -> None:
    other.headers = {"mailboat-degraded": "fallback-rule"}
    front = make(remote=(endpoint(other),))
    front.runtime.explain_absence("m", absent(policy=RULE))

    assert front.infer()[2]["mailboat-degraded"] == "fallback-rule"


def test_what_this_device_knows_to_be_withdrawn_counts_from_nobody(
    make: Make, other: Other
) -> None:
    other.headers = {"mailboat-release": "c" * 64}
    front = make(remote=(endpoint(other),))
    front.runtime.explain_absence("m", absent(policy=RULE))
    front.runtime.bar("m", frozenset({"c" * 64}))

    assert front.infer()[2]["mailboat-degraded"] == "fallback-rule"


def test_an_endpoint_that_fails_is_left_alone_and_said_to_be(make: Make, other: Other) -> None:
    other.status = 500
    front = make(remote=(endpoint(other),))
    front.runtime.explain_absence("m", absent(policy=RULE))

    for _ in range(6):
        assert front.infer()[0] == 200

    assert len(other.seen) == 3
    (status,) = front.degraded.answers.elsewhere.status()
    assert (status["circuit"], status["problem"]) == ("open", "it answered 500")


def test_a_request_that_an_endpoint_refuses_does_not_make_it_a_bad_one(
    make: Make, other: Other
) -> None:
    other.status = 400
    front = make(remote=(endpoint(other),))
    front.runtime.explain_absence("m", absent(policy=RULE))

    for _ in range(5):
        front.infer()

    assert len(other.seen) == 5


def test_a_silent_endpoint_does_not_take_the_caller_s_time(make: Make, other: Other) -> None:
    other.hold = threading.Event()
    front = make(remote=(endpoint(other, timeout_seconds=30),))
    front.runtime.explain_absence("m", absent(policy=RULE))
    began = time.monotonic()

    status, _, headers = front.infer(mailboat_deadline_ms="2000")

    assert (status, headers["mailboat-degraded"]) == (200, "fallback-rule")
    assert time.monotonic() - began < 25  # of the thirty that it would be given
    assert 0 < int(other.seen[0]["mailboat-deadline-ms"]) <= 1900
    # It was the caller who had no time: that says nothing of the endpoint.
    (found,) = front.degraded.answers.elsewhere.status()
    assert found["circuit"] == "closed"


def test_a_silent_endpoint_has_its_own_time_and_no_more(make: Make, other: Other) -> None:
    other.hold = threading.Event()
    front = make(remote=(endpoint(other, timeout_seconds=0.1),))
    front.runtime.explain_absence("m", absent(policy=RULE))
    began = time.monotonic()

    for _ in range(3):
        assert front.infer()[2]["mailboat-degraded"] == "fallback-rule"

    assert time.monotonic() - began < 50  # it would say nothing for three minutes
    (found,) = front.degraded.answers.elsewhere.status()
    assert found["circuit"] == "open"


def test_an_answer_without_end_is_cut_off(
    make: Make, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailboat_agent.degraded.remote_client.ANSWER_BYTES_MAX", 1000)
    other.content = dict(GOOD) | {"padding": "x" * 2000}
    front = make(remote=(endpoint(other),))
    front.runtime.explain_absence("m", absent(policy=RULE))

    assert front.infer()[2]["mailboat-degraded"] == "fallback-rule"


def test_another_version_that_is_asked_for_is_not_made_up(make: Make, other: Other) -> None:
    front = make(remote=(endpoint(other),))
    front.runtime.explain_absence("m", absent(policy=RULE))
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0] * 4}

    assert front.call("POST", "/v2/models/m/versions/1.0.0/infer", {"inputs": [x]})[0] == 503
    status, body, _ = front.call("POST", "/v2/models/m/versions/2.0.0/infer", {"inputs": [x]})
    assert (status, body["model_version"]) == (200, "2.0.0")


def front_counts(front: Front) -> Any:
    return front.totals()["m"]


def test_every_degraded_answer_is_counted_once_and_drained_once(make: Make) -> None:
    front = make()
    front.runtime.explain_absence("m", absent(policy=RULE))
    for _ in range(3):
        front.infer()

    assert front.degraded.drain("m") == {"fallback-rule": 3}
    assert front.degraded.drain("m") == {}
    assert front_counts(front) == {"fallback-rule": 3}
