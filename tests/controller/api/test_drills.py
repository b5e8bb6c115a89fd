"""Ordering drills over the API, and what devices tell of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailboat_controller.drills import orders as drill_orders
from mailboat_controller.store import audit, drills, outbox
from mailboat_schemas.codec import decode
from mailboat_schemas.device_orders import DRILLS_MAX, DeviceDesired
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.topics import parse
from running_api import RunningApi

WHY = {"reason": "before the holidays"}


@pytest.fixture(scope="module", autouse=True)
def fleet(api: RunningApi) -> None:
    for name in ("dev-1", "dev-2"):
        assert api.enrol(name).status == 201


def newest_order(api: RunningApi, device: str) -> DeviceDesired:
    with api.store.read() as tx:
        rows = [row for row in outbox.pending(tx, 1000) if row.topic.endswith("/dn/desired")]
    mine = [row for row in rows if parse(row.topic)["device"] == device]
    return decode(DeviceDesired, decode(Envelope, mine[-1].payload).payload)


def start(api: RunningApi, device: str, **content: Any) -> Any:
    answer = api.ask("POST", f"/v1/devices/{device}/drill", by="alice", body=WHY | content)
    assert answer.status == 201, answer.content
    return answer.json


def shown(api: RunningApi, device: str) -> Any:
    return api.ask("GET", f"/v1/devices/{device}/drills", by="vera").json


def tell(api: RunningApi, device: str, kind: EventKind, order: str, **more: Any) -> None:
    evidence = {"order": order, **more.pop("evidence", {})}
    event = Event(
        event_id=f"drill:vad:{order}",
        sequence=1,
        kind=kind,
        observed_at=0,
        model=more.pop("model", "vad"),
        evidence=evidence,
        **more,
    )
    with api.store.transaction() as tx:
        drills.fold_all(tx, [(device, event)], datetime.now(UTC))


def test_an_order_is_signed_audited_answered_and_not_repeated(api: RunningApi) -> None:
    order = start(api, "dev-1", model="vad")
    (drill,) = newest_order(api, "dev-1").drills
    assert (drill.order, drill.model, drill.by) == (order["order"], "vad", "operator:alice")
    with api.store.read() as tx:
        entry = audit.newest(tx, "dev-1", "device.drill")
    assert entry is not None
    assert (entry.actor, entry.reason) == ("operator:alice", WHY["reason"])

    tell(
        api,
        "dev-1",
        EventKind.DRILL_PASSED,
        order["order"],
        version="1.0.0",
        evidence={"return_ms": 321.5},
    )
    found = shown(api, "dev-1")
    assert [each["state"] for each in found["orders"]] == ["answered"]
    (result,) = found["results"]
    assert (result["outcome"], result["return_ms"]) == ("passed", 321.5)
    start(api, "dev-1", model="other")
    assert [each.model for each in newest_order(api, "dev-1").drills] == ["other"]


def test_a_failure_keeps_when_one_last_passed(api: RunningApi) -> None:
    tell(api, "dev-1", EventKind.DRILL_PASSED, "due-1", evidence={"return_ms": 100.0})
    tell(api, "dev-1", EventKind.DRILL_FAILED, "due-2", code="storage_damaged")

    listed = api.ask("GET", "/v1/drills?outcome=failed", by="vera").json
    (result,) = listed
    assert (result["code"], result["return_ms"]) == ("storage_damaged", 100.0)
    assert result["passed_at"] is not None
    assert api.ask("GET", "/v1/drills?after=dev-1/vad", by="vera").json == []
    with api.store.read() as tx:
        (count,) = drills.counts(tx, datetime.now(UTC), timedelta(days=30))
    assert (count.told, count.passed_lately) == (1, 1)
    assert count.return_p90_ms == 100.0
    assert count.newest == {"passed": 0, "failed": 1, "skipped": 0}


def test_what_waits_is_taken_back(api: RunningApi) -> None:
    start(api, "dev-2")
    assert newest_order(api, "dev-2").drills
    path = "/v1/devices/dev-2/cancel-drill"
    assert api.ask("POST", path, by="alice", body=WHY).json["orders"] == []
    assert newest_order(api, "dev-2").drills == ()
    assert api.ask("POST", path, by="alice", body=WHY).status == 404


def test_what_a_device_makes_up_is_bounded(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drills, "MODELS_MAX", 2)
    for model in ("a", "b", "c"):
        evidence = {"return_ms": float("nan")}
        tell(api, "dev-2", EventKind.DRILL_PASSED, "x" * 99, model=model, evidence=evidence)

    results = shown(api, "dev-2")["results"]
    assert [(each["model"], each["return_ms"]) for each in results] == [("a", None), ("b", None)]


def test_drills_that_wait_are_few(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(DRILLS_MAX):
        start(api, "dev-2")
    answer = api.ask("POST", "/v1/devices/dev-2/drill", by="alice", body=WHY)
    assert (answer.status, answer.json["code"]) == (409, "E-DRILLS")
    monkeypatch.setattr(drill_orders, "DEVICES_MAX", 1)
    api.ask("POST", "/v1/devices/dev-1/cancel-drill", by="alice", body=WHY)
    assert api.ask("POST", "/v1/devices/dev-1/drill", by="alice", body=WHY).status == 409


def test_who_may_only_read_orders_no_drill(api: RunningApi) -> None:
    assert api.ask("POST", "/v1/devices/dev-1/drill", by="vera", body=WHY).status == 403
    answer = api.ask("POST", "/v1/devices/no-such/drill", by="alice", body=WHY)
    assert answer.status == 404
