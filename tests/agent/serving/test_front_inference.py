"""What a caller can say beside its tensors, against one model that serves: y = 2x + 1."""

import http.client
import json
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from mailboat_agent.serving.answering import Answered, Asked, Local, Written
from mailboat_agent.serving.feedback import Feedback
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.runtime import Absence, Runtime
from mailboat_schemas.documents.serving_policy import Workload
from serving_models import affine_release

INFER = "/v2/models/m/infer"
ROW = np.array([[1, 2, 3, 4]], "<f4")


class Marking:
    """Hands everything to the release, and marks its answers as told."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.asked: list[Asked] = []
        self.mark = ""

    def stands_in(self, model: str, hops: int) -> bool:  # noqa: ARG002 - as the protocol says
        return model == "elsewhere"

    async def answer(
        self,
        asked: Asked,
        local: Callable[[Asked], Awaitable[Local[Written]]],
        write: Callable[[Answered], Awaitable[Written]],
    ) -> Written:
        self.asked.append(asked)
        if asked.model == "elsewhere":
            return await write(Answered(model="elsewhere", version="", digest="", outputs=()))
        answer = await local(asked)
        if not self.mark:
            return answer.written
        return await write(replace(answer.answered, degraded=self.mark, because="it\r\nis: hot"))


@pytest.fixture(scope="module")
def front() -> Iterator[tuple[Gateway, Marking, str]]:
    runtime = Runtime(clock=lambda: datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
    marking, feedback = Marking(runtime), Feedback()
    runtime.explain_absence("gone", Absence("its release was withdrawn", 30))
    with affine_release() as release:
        runtime.serve(release)
        feedback.serves("m", release.version, release.digest, 0)
    with Gateway(runtime, answering=marking, feedback=feedback) as gateway:
        yield gateway, marking, release.digest
    runtime.close()


@pytest.fixture
def marking(front: tuple[Gateway, Marking, str]) -> Marking:
    front[1].asked.clear()
    front[1].mark = ""
    return front[1]


@pytest.fixture
def call(front: tuple[Gateway, Marking, str]) -> Callable[..., Any]:
    """Status, body, headers."""

    def call(
        method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection(*front[0].address, timeout=60)
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, content, named)
            response = connection.getresponse()
            return (
                response.status,
                response.read(),
                {k.lower(): v for k, v in response.getheaders()},
            )
        finally:
            connection.close()

    return call


def asking(values: Any = ROW, **more: Any) -> dict[str, Any]:
    array = np.asarray(values, "<f4")
    x = {"name": "x", "datatype": "FP32", "shape": list(array.shape), "data": array.tolist()}
    return {"inputs": [x], **more}


def binary(values: Any = ROW) -> tuple[bytes, str]:
    array = np.asarray(values, "<f4")
    x = {
        "name": "x",
        "datatype": "FP32",
        "shape": list(array.shape),
        "parameters": {"binary_data_size": array.nbytes},
    }
    head = json.dumps({"inputs": [x], "parameters": {"binary_data_output": True}}).encode()
    return head + array.tobytes(), str(len(head))


@pytest.mark.parametrize("rows", [1, 20_000])
def test_binary_tensors_go_in_and_come_out(call: Callable[..., Any], rows: int) -> None:
    values = np.repeat(ROW, rows, axis=0)
    body, json_bytes = binary(values)
    status, content, headers = call("POST", INFER, body, inference_header_content_length=json_bytes)

    assert status == 200
    end = int(headers["inference-header-content-length"])
    (y,) = json.loads(content[:end])["outputs"]
    assert y["parameters"]["binary_data_size"] == len(content) - end
    answer = np.frombuffer(content[end:], "<f4").reshape(y["shape"])
    assert np.array_equal(answer, 2 * values + 1)


def test_what_json_cannot_say_passes_as_bytes(call: Callable[..., Any]) -> None:
    body, json_bytes = binary([[np.nan, np.inf, 0, 0]])

    assert call("POST", INFER, body, inference_header_content_length=json_bytes)[0] == 200


def test_deadline_workload_and_hops_reach_who_answers(
    call: Callable[..., Any], marking: Marking
) -> None:
    said = {"mailboat_deadline_ms": "5000", "mailboat_workload": "batch", "mailboat_hops": "1"}
    assert call("POST", INFER, asking(parameters={"priority": 1}), **said)[0] == 200
    assert call("POST", INFER, asking(parameters={"priority": 1}))[0] == 200

    first, second = marking.asked
    assert (first.workload, first.hops) == (Workload.BATCH, 1)
    assert (second.workload, second.hops) == (Workload.REAL_TIME, 0)
    assert second.deadline - first.deadline > 4  # 10 s are the most and the default


@pytest.mark.parametrize(
    "said", [{"mailboat_deadline_ms": "0.001"}, {}], ids=["header", "parameter"]
)
def test_who_cannot_wait_is_told_that_it_is_too_late(
    call: Callable[..., Any], said: dict[str, str]
) -> None:
    parameters = {} if said else {"parameters": {"timeout": 1}}
    status, content, _ = call("POST", INFER, asking(**parameters), **said)

    assert status == 504
    assert b"No answer within" in content


def test_every_answer_names_its_release(
    call: Callable[..., Any], front: tuple[Gateway, Marking, str]
) -> None:
    _, content, headers = call("POST", INFER, asking())

    assert headers["mailboat-release"] == front[2]
    assert json.loads(content)["parameters"] == {"release": front[2]}
    assert "mailboat-degraded" not in headers


def test_a_degraded_answer_is_marked_on_one_line(
    call: Callable[..., Any], marking: Marking
) -> None:
    marking.mark = "cache"
    status, content, headers = call("POST", INFER, asking())

    assert status == 200
    assert headers["mailboat-degraded"] == "cache"
    assert headers["mailboat-degraded-because"] == "it is: hot"
    assert json.loads(content)["parameters"]["degraded"] == "cache"


def test_every_answer_of_a_release_that_is_too_far_behind_says_so(
    call: Callable[..., Any], marking: Marking, front: tuple[Gateway, Marking, str]
) -> None:
    because = "3 minor versions behind, 2 are allowed"
    marking.runtime.note_stale("m", front[2], because)
    _, content, headers = call("POST", INFER, asking())
    marking.runtime.note_stale("m", "ab" * 32, because)
    _, _, of_another = call("POST", INFER, asking())
    marking.runtime.note_stale("m", "", "")
    _, _, afterwards = call("POST", INFER, asking())

    assert headers["mailboat-stale"] == json.loads(content)["parameters"]["stale"] == because
    assert "mailboat-stale" not in {**of_another, **afterwards}


def test_who_stands_in_is_asked_for_what_is_not_served(
    call: Callable[..., Any], marking: Marking
) -> None:
    status, _, headers = call("POST", "/v2/models/elsewhere/infer", asking())

    assert status == 200
    assert "mailboat-release" not in headers
    assert call("POST", "/v2/models/nowhere/infer", asking())[0] == 404


@pytest.mark.parametrize(
    ("body", "said", "status", "reason"),
    [
        (asking(np.ones((0, 4))), {}, 400, "no elements"),
        (asking(), {"mailboat_workload": "idle"}, 400, "real-time or batch"),
        (asking(), {"content_encoding": "br"}, 415, "br"),
        (asking(), {"content_encoding": "gzip"}, 400, "not gzip"),
        (zlib.compress(bytes(17 << 20)), {"content_encoding": "deflate"}, 413, "unpacked"),
        (asking(), {"inference_header_content_length": "9999"}, 400, "announced"),
        (asking(), {"inference_header_content_length": "x"}, 400, "not a number"),
        ({"inputs": asking()["inputs"] * 2}, {}, 400, "given twice"),
        (asking(outputs=[{"name": "y"}, {"name": "y"}]), {}, 400, "asked for twice"),
        (b'{"inputs":' + b"[" * 50_000, {}, 400, "not JSON"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    call: Callable[..., Any], body: Any, said: dict[str, str], status: int, reason: str
) -> None:
    found, content, _ = call("POST", INFER, body, **said)

    assert found == status
    assert reason in json.loads(content)["error"]


def test_answers_are_compressed_for_who_asks_and_when_it_helps(call: Callable[..., Any]) -> None:
    packed = zlib.compress(json.dumps(asking(np.ones((400, 4)))).encode())
    said = {"content_encoding": "deflate", "accept_encoding": "gzip"}
    _, content, headers = call("POST", INFER, packed, **said)

    assert headers["content-encoding"] == "gzip"
    (y,) = json.loads(zlib.decompress(content, 31))["outputs"]
    assert y["data"] == [3.0] * 1600
    assert "content-encoding" not in call("POST", INFER, asking(), accept_encoding="gzip")[2]


# --- what is told of models ----------------------------------------------------------------------


def test_the_index_names_what_serves_and_why_something_does_not(
    call: Callable[..., Any], front: tuple[Gateway, Marking, str]
) -> None:
    serving = {"name": "m", "version": "1.0.0", "state": "READY", "reason": ""}
    gone = {
        "name": "gone",
        "version": "",
        "state": "UNAVAILABLE",
        "reason": "its release was withdrawn",
    }
    assert json.loads(call("POST", "/v2/repository/index")[1]) == [serving, gone]
    assert json.loads(call("POST", "/v2/repository/index", {"ready": True})[1]) == [serving]
    assert json.loads(call("GET", "/v2/models")[1]) == {"models": [serving, gone]}
    assert call("POST", "/v2/repository/index", b"[")[0] == 400
    assert call("POST", "/v2/models/gone/infer", asking())[0] == 503


def test_statistics_and_configuration(call: Callable[..., Any]) -> None:
    call("POST", INFER, asking())
    (stats,) = json.loads(call("GET", "/v2/models/m/stats")[1])["model_stats"]
    configuration = json.loads(call("GET", "/v2/models/m/config")[1])

    assert stats["inference_stats"]["success"]["count"] >= 1
    assert json.loads(call("GET", "/v2/models/stats")[1])["model_stats"][0]["name"] == "m"
    assert configuration["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1, 4]}]


@pytest.mark.parametrize("wish", ["load", "unload"])
def test_a_device_loads_what_is_approved_and_nothing_else(
    call: Callable[..., Any], wish: str
) -> None:
    status, content, _ = call("POST", f"/v2/repository/models/m/{wish}")

    assert status == 403
    assert b"make a rollout" in content


def test_feedback_counts_for_the_release_that_answered(
    call: Callable[..., Any], front: tuple[Gateway, Marking, str]
) -> None:
    call("POST", INFER, asking(id="abc"))
    good = {"model": "m", "id": "abc", "counters": {"right": {"good": 1, "total": 1}}}
    status, content, _ = call("POST", "/v1/feedback", good)

    assert (status, json.loads(content)["release"]) == (200, front[2])
    assert call("POST", "/v1/feedback", {**good, "id": "never"})[0] == 409
    assert call("POST", "/v1/feedback", {"model": "m"})[0] == 400
    assert call("GET", "/v1/feedback")[0] == 405
    assert call("POST", "/v1/feedback", bytes(100_000))[0] == 413
