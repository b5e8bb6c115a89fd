"""Processes as in a fleet: a log is pulled from a device that was away, outcomes reach a receiver,
and the trace shows both."""

import json
from pathlib import Path

import pytest

from mailboat_controller.client import ApiClient
from mailboat_controller.demo.fleet import until
from mailboat_controller.demo.models import MODEL_NAME
from mailboat_schemas.tracing import trace_id
from real_fleet import running_fleet
from webhook_receiver import webhook_receiver

pytestmark = pytest.mark.slow
SECONDS_MAX = 240  # a busy machine


def test_a_log_a_webhook_and_a_trace_of_one_release(tmp_path: Path) -> None:
    with (
        webhook_receiver() as receiver,
        running_fleet(tmp_path / "fleet", devices_per_class=1) as real,
    ):
        fleet = real.fleet
        operator = ("--connection", str(fleet.operator))
        secret = tmp_path / "chat.secret"
        fleet.command(
            *("webhook", "add", "chat", receiver.url, "--secret-out", str(secret)),
            *("--type", "io.mailboat.rollout.completed", "--reason", "the test"),
            *operator,
        )
        real.publish("a", "1.0.0")
        real.wait_for("1.0.0")
        real.wait_until_completed(f"{MODEL_NAME}-a")
        until("the receiver was told", lambda: receiver.heard, SECONDS_MAX)

        name = next(iter(real.devices))
        asked = fleet.get("/v1/releases")[0]
        found = fleet.get("/v1/traces", of=f"{MODEL_NAME}@1.0.0", device=name)
        event = receiver.heard[0].event
        assert found["trace_id"] == trace_id(asked["digest"])
        assert event["traceparent"].split("-")[1] == found["trace_id"]
        assert {"submission.accept", "manifest.offer", "device.committed"} <= {
            step["what"] for step in found["steps"]
        }

        path = f"/v1/devices/{name}/logs"
        real.devices[name].process.stop()
        with ApiClient.open(fleet.operator) as api:
            answer = api.post(path, {"reason": "the test"})
        assert answer["state"] == "waiting"
        real.devices[name].process.start()
        request = f"{path}/{answer['request']}"
        until("the device answered", lambda: fleet.get(request)["state"] == "complete", SECONDS_MAX)
        lines = fleet.get(request)["page"]
        assert any("committed" in line["message"] for line in lines)
        assert found["trace_id"] in {line["trace"] for line in lines}
        assert "PRIVATE KEY" not in json.dumps(lines)
