"""Endpoints that take and give tensors as bytes, as they say of themselves."""

import asyncio
import http.client
import json
import math
import struct
from typing import Any

import pytest

from degraded_front import GOOD, Front, Make, Other, absent
from mailboat_agent.degraded.oip import Message, Question, speaks_binary
from mailboat_agent.serving.answering import Asked
from mailboat_agent.serving.tensors import Tensor

SPEAKS = {"name": "triton", "extensions": ["binary_tensor_data"]}
ROW = struct.pack("<4f", 9, 9, 9, math.inf)
JSON_BYTES = "inference-header-content-length"


def answers_in_bytes(other: Other, row: bytes = ROW, announced: int | None = None) -> None:
    y = {"name": "y", "datatype": "FP32", "shape": [1, 4]}
    y["parameters"] = {"binary_data_size": 16 if announced is None else announced}
    head = json.dumps(GOOD | {"outputs": [y]}).encode()
    other.about, other.content = SPEAKS, head + row
    other.headers = {JSON_BYTES: str(len(head))}


@pytest.fixture
def front(make: Make, other: Other) -> Front:
    made = make(remote=({"name": "next", "url": other.url, "models": ["m"]},))
    made.runtime.explain_absence("m", absent())
    return made


def infer_bytes(front: Front, row: bytes) -> tuple[int, bytes]:
    """The answer's tensor, as bytes."""
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
    x["parameters"] = {"binary_data_size": 16}
    whole = {"inputs": [x], "parameters": {"binary_data_output": True}}
    head = json.dumps(whole).encode()
    connection = http.client.HTTPConnection(*front.gateway.address, timeout=60)
    connection.request("POST", "/v2/models/m/infer", head + row, {JSON_BYTES: str(len(head))})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content[int(response.headers.get(JSON_BYTES, 0)) :]


def test_who_says_so_is_sent_bytes_and_is_asked_once_whether_it_can(
    front: Front, other: Other
) -> None:
    answers_in_bytes(other)
    row = struct.pack("<4f", 1, 2, 3, math.nan)  # which JSON cannot say

    found = [infer_bytes(front, row) for _ in range(3)]

    assert found == [(200, ROW)] * 3
    assert other.behind == [row] * 3
    assert other.bodies[0]["parameters"] == {"binary_data_output": True}
    assert other.asked_about == 1


@pytest.mark.parametrize("about", [None, [], {}, {"extensions": "binary_tensor_data"}, b"<html>"])
def test_who_does_not_say_so_is_sent_json(front: Front, other: Other, about: Any) -> None:
    other.about = about

    assert front.infer()[2]["mailboat-degraded"] == "remote"
    assert other.behind == [b""]
    assert other.bodies[0]["inputs"][0]["data"] == [1, 2, 3, 4]
    assert infer_bytes(front, struct.pack("<4f", math.nan, 0, 0, 0))[0] == 503


def test_who_says_so_may_still_answer_in_json(front: Front, other: Other) -> None:
    other.about = SPEAKS

    assert front.infer()[1]["outputs"][0]["data"] == [9.0] * 4


@pytest.mark.parametrize(
    ("row", "announced", "headers"),
    [
        (ROW[:15], None, {}),
        (ROW, 12, {}),
        (ROW, 17, {}),
        (ROW, None, {JSON_BYTES: "x"}),
        (ROW, None, {JSON_BYTES: "9" * 5000}),
        (ROW, None, {JSON_BYTES: "3"}),
    ],
)
def test_bytes_that_are_not_the_tensor_are_no_answer(
    front: Front, other: Other, row: bytes, announced: int | None, headers: dict[str, str]
) -> None:
    answers_in_bytes(other, row, announced)
    other.headers |= headers

    assert front.infer()[0] == 503


def test_who_refuses_bytes_is_asked_again_whether_it_can(front: Front, other: Other) -> None:
    """Another server may have taken its place."""
    answers_in_bytes(other)
    assert front.infer(values=(1, 2, 3, 5))[0] == 500  # infinity, which the caller's JSON has not
    other.status, other.about = 400, None
    assert front.infer()[0] == 503
    other.status, other.content, other.headers = 200, dict(GOOD), {}

    assert front.infer()[1]["outputs"][0]["data"] == [9.0] * 4
    assert other.behind[-1] == b""
    assert other.asked_about == 2


def test_an_endpoint_that_is_silent_about_itself_is_one_that_is_silent(
    front: Front, other: Other
) -> None:
    other.server.shutdown()  # it accepts and never answers
    assert front.infer(mailboat_deadline_ms="300")[0] in (503, 504)
    (found,) = front.degraded.answers.elsewhere.status()

    assert "no answer within" in str(found["problem"])
    assert other.seen == []


def test_a_request_is_written_down_once_each_way() -> None:
    x = Tensor("x", "FP32", (1,), struct.pack("<f", 1))
    question = Question(Asked(model="m", version=None, inputs=(x,), outputs=("y",), deadline=0))

    async def write(binary: bool) -> Message | None:
        return await question.written(binary)

    assert asyncio.run(write(True)) is asyncio.run(write(True))
    in_json = asyncio.run(write(False))
    assert in_json is not None
    assert json.loads(in_json.body) == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}],
        "outputs": [{"name": "y"}],
    }


def test_what_an_agent_says_of_itself_is_understood(front: Front) -> None:
    connection = http.client.HTTPConnection(*front.gateway.address, timeout=60)
    connection.request("GET", "/v2")
    assert speaks_binary(connection.getresponse().read())
    connection.close()
