"""The route that takes new keys and roles: who may bring them, and what is no bringing."""

import base64
from typing import Any

import pytest

from mailboat_controller.api.limits import BODY_BYTES_MAX
from running_api import RunningApi
from signing_room import SigningRoom, held_by


def renewal(api: RunningApi, role: str, key: str) -> dict[str, Any]:
    room = SigningRoom(api.trust.directory, api.now())
    signed = room.signed(held_by(api.store), lambda draft: draft.renew(role), room.key(key))
    return {
        "roles": {name: base64.b64encode(content).decode() for name, content in signed.items()},
        "reason": "before it expires",
    }


def test_an_operator_brings_a_root(api: RunningApi) -> None:
    answer = api.ask(
        "POST", "/v1/trust/roles", by="alice", body=renewal(api, "root", "offline/root")
    )

    assert answer.status == 200, answer.content
    assert answer.json["changes"][0].startswith("root version ")


@pytest.mark.parametrize("by", [None, "build", "wall"])
def test_nobody_without_the_role_for_it_brings_anything(api: RunningApi, by: str | None) -> None:
    body = renewal(api, "approval-vad", "approver/vad")

    assert api.ask("POST", "/v1/trust/roles", by=by, body=body).status in (401, 403)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"roles": {}, "reason": "x"}, 422),
        ({"roles": {"root": "e30="}, "reason": ""}, 422),
        ({"roles": {"root": "e30="}}, 422),
        ({"roles": {"../root": "e30="}, "reason": "x"}, 422),
        ({"roles": {"root": "not base64!"}, "reason": "x"}, 400),
        ({"roles": {"root": "é"}, "reason": "x"}, 400),
        ({"roles": {"root": "e30="}, "reason": "x"}, 400),
        ({"roles": {"root": "A" * (BODY_BYTES_MAX + 1)}, "reason": "x"}, 413),
    ],
)
def test_what_is_no_submission_is_refused(
    api: RunningApi, body: dict[str, Any], status: int
) -> None:
    answer = api.ask("POST", "/v1/trust/roles", by="alice", body=body)

    assert (answer.status, answer.json["code"][:2]) == (status, "E-")


def test_a_dashboard_reads_what_expires_and_a_pipeline_does_not(api: RunningApi) -> None:
    assert api.ask("GET", "/v1/trust/status", by="wall").json["attention"] is False
    assert api.ask("GET", "/v1/trust/status", by="build").status == 403
