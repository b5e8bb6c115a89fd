"""Holding, pinning, labelling, finding, explaining and planning over the API."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import update

from mailboat_controller.api import plans
from mailboat_controller.overrides import orders as override_orders
from mailboat_controller.overrides.orders import LABELS_MAX, Overrides
from mailboat_controller.store import audit, outbox
from mailboat_controller.store.tables import devices
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.device_orders import (
    OVERRIDE_REASON_CHARS_MAX,
    OVERRIDES_MAX,
    DeviceDesired,
)
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.submission import Submission
from mailboat_schemas.topics import parse
from running_api import RunningApi
from trust_fleet import CLASS, FLEET

PPM = 1_000_000
PLAN = Plan(rollout="first", waves=(PlanWave(count_ppm=PPM, cap_ppm=PPM),))
WHY = {"reason": "an exhibition"}
ROLLOUT: dict[str, Any] = {
    "apiVersion": "mailboat/v1",
    "kind": "Rollout",
    "metadata": {"name": "second"},
    "spec": {
        "release": {"model": "vad", "version": "1.0.0"},
        "waves": [{"pilots": ["dev-1"]}, {"percent": 100}],
    },
}


@pytest.fixture(scope="module", autouse=True)
def fleet(api: RunningApi) -> None:
    for name in ("dev-1", "dev-2", "dev-3"):
        assert api.enrol(name).status == 201
    path = api.artifacts.path("ab" * 32)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"onnx")
    digest = api.trust.release("1.0.0", PLAN)
    roles = {name: api.trust.roles[name] for name in ("release-vad", "approval-vad")}
    content = encode(
        Submission(fleet=FLEET, roles=roles, documents={digest: api.trust.documents[digest]})
    )
    headers = {"Content-Type": "application/vnd.msgpack"}
    answer = api.ask("POST", "/v1/submissions", by="build", body=content, headers=headers)
    assert answer.status == 200


def order(api: RunningApi, device: str) -> DeviceDesired:
    """The newest that was queued for a device."""
    with api.store.read() as tx:
        rows = [row for row in outbox.pending(tx, 1000) if row.topic.endswith("/dn/desired")]
    mine = [row for row in rows if parse(row.topic)["device"] == device]
    return decode(DeviceDesired, decode(Envelope, mine[-1].payload).payload)


def send(api: RunningApi, device: str, verb: str, **content: Any) -> Any:
    answer = api.ask("POST", f"/v1/devices/{device}/{verb}", by="alice", body=WHY | content)
    assert answer.status == 200, answer.content
    return answer.json


def found(api: RunningApi, selector: str) -> list[str]:
    query = selector.replace(" ", "%20").replace("@", "%40")
    rows = api.ask("GET", f"/v1/devices?selector={query}", by="vera").json
    return [row["device"] for row in rows]


def explained(api: RunningApi, device: str, query: str = "") -> Any:
    return api.ask("GET", f"/v1/devices/{device}/explain{query}", by="vera").json


def test_a_hold_is_ordered_audited_found_and_taken_back(api: RunningApi) -> None:
    standing = send(api, "dev-1", "hold", hours=2)["overrides"]

    assert [(each["kind"], each["model"], each["by"]) for each in standing] == [
        ("hold", None, "operator:alice")
    ]
    first = order(api, "dev-1")
    assert [(hold.by, hold.reason) for hold in first.holds] == [("operator:alice", WHY["reason"])]
    assert found(api, "held") == ["dev-1"]
    assert [each["confirmed"] for each in explained(api, "dev-1")["overrides"]] == [False]

    assert send(api, "dev-1", "release-hold")["overrides"] == []
    assert order(api, "dev-1").holds == ()
    assert order(api, "dev-1").counter > first.counter
    with api.store.read() as tx:
        told = [row.action for row in audit.page(tx, subject="dev-1")]
    assert told[-2:] == ["device.hold", "device.release-hold"]


def test_a_pin_needs_an_approved_release(api: RunningApi) -> None:
    send(api, "dev-2", "pin", model="vad", version="1.0.0")

    assert [pin.version for pin in order(api, "dev-2").pins] == ["1.0.0"]
    assert found(api, "pinned=vad@1.0.0") == ["dev-2"]
    assert send(api, "dev-2", "unpin", model="vad")["overrides"] == []
    unknown = WHY | {"model": "vad", "version": "9.9.9"}
    assert api.ask("POST", "/v1/devices/dev-2/pin", by="alice", body=unknown).status == 404


def test_an_order_says_all_that_stands_also_the_request_for_a_log(api: RunningApi) -> None:
    send(api, "dev-3", "hold", model="vad")
    asked = api.ask("POST", "/v1/devices/dev-3/logs", by="alice", body=WHY)
    assert asked.status == 201

    both = order(api, "dev-3")
    assert both.logs is not None
    assert [hold.model for hold in both.holds] == ["vad"]
    send(api, "dev-3", "pin", model="vad", version="1.0.0")
    assert order(api, "dev-3").logs == both.logs
    for verb in ("unpin", "release-hold"):
        send(api, "dev-3", verb, model="vad")


@pytest.mark.parametrize("verb", ["release-hold", "unpin"])
def test_what_does_not_stand_cannot_be_taken_back(api: RunningApi, verb: str) -> None:
    body = WHY | {"model": "heat"}
    assert api.ask("POST", f"/v1/devices/dev-1/{verb}", by="alice", body=body).status == 404


def test_an_order_needs_a_reason_and_an_end(api: RunningApi) -> None:
    for body in ({}, {"reason": " "}, WHY | {"hours": 0}, WHY | {"hours": 1e6}):
        assert api.ask("POST", "/v1/devices/dev-1/hold", by="alice", body=body).status == 422


def test_an_order_to_a_rollout_says_which_wave_it_means(api: RunningApi) -> None:
    def promote(wave: int) -> Any:
        path = "/v1/rollouts/first/promote"
        return api.ask("POST", path, by="alice", body=WHY | {"wave": wave})

    stale = promote(7)

    assert stale.status == 409
    assert b"not wave 7" in stale.content
    assert promote(0).status == 422


def test_a_reason_is_as_long_as_the_order_has_room_for(api: RunningApi) -> None:
    path = "/v1/devices/dev-1/hold"
    longest = {"reason": "r" * OVERRIDE_REASON_CHARS_MAX}

    assert api.ask("POST", path, by="alice", body=longest).status == 200
    assert order(api, "dev-1").holds[0].reason == longest["reason"]
    longer = {"reason": longest["reason"] + "r"}
    assert api.ask("POST", path, by="alice", body=longer).status == 422
    send(api, "dev-1", "release-hold")


def test_an_order_that_cannot_be_said_does_not_silence_those_of_other_devices(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "".join(map(chr, range(0x20000, 0x20000 + OVERRIDE_REASON_CHARS_MAX)))
    send(api, "dev-1", "hold", reason=long)
    send(api, "dev-2", "hold")
    with api.store.transaction() as tx:
        outbox.remove(tx, [row.id for row in outbox.pending(tx, 1000)])
    monkeypatch.setattr(DeviceDesired, "wire_bytes_max", 512)

    overrides = Overrides(api.store, api.reconciler, FLEET, now=api.now, queued=lambda: None)
    said = overrides.assert_standing()

    with api.store.read() as tx:
        told = {parse(row.topic)["device"] for row in outbox.pending(tx, 1000)}
    assert said == len(told)
    assert "dev-2" in told
    assert "dev-1" not in told
    monkeypatch.undo()
    for name in ("dev-1", "dev-2"):
        send(api, name, "release-hold")


@pytest.mark.parametrize("value", ["canary", ""])
def test_a_label_of_the_device_s_own_is_not_noted_over(api: RunningApi, value: str) -> None:
    def has(labels: dict[str, str]) -> None:
        with api.store.transaction() as tx:
            tx.execute(update(devices).where(devices.c.device == "dev-2").values(labels=labels))

    has({"ring": "a"})
    body = WHY | {"labels": {"ring": value}}
    answer = api.ask("POST", "/v1/devices/dev-2/labels", by="alice", body=body)
    has({})

    assert answer.status == 409
    assert b"has a label 'ring' of its own" in answer.content


def test_more_orders_than_a_device_may_have_are_refused(api: RunningApi) -> None:
    for number in range(OVERRIDES_MAX):
        send(api, "dev-1", "hold", model=f"model-{number}")
    answer = api.ask("POST", "/v1/devices/dev-1/hold", by="alice", body=WHY)

    assert (answer.status, answer.json["code"]) == (409, "E-OVERRIDES")
    for number in range(OVERRIDES_MAX):
        send(api, "dev-1", "release-hold", model=f"model-{number}")


@pytest.fixture
def held(api: RunningApi) -> Iterator[str]:
    """One device that keeps what it has."""
    send(api, "dev-3", "hold", model="vad")
    yield "dev-3"
    send(api, "dev-3", "release-hold", model="vad")


def test_more_devices_than_may_be_ordered_apart_are_refused(
    api: RunningApi, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(override_orders, "DEVICES_MAX", 1)
    answer = api.ask("POST", "/v1/devices/dev-1/hold", by="alice", body=WHY)

    assert (answer.status, answer.json["code"]) == (409, "E-OVERRIDES")
    assert found(api, "held") == [held]
    send(api, held, "hold", model="vad")  # it has orders already


def test_labels_of_operators_are_for_selectors(api: RunningApi) -> None:
    assert send(api, "dev-2", "labels", labels={"owner": "ana"})["operator_labels"] == {
        "owner": "ana"
    }
    assert found(api, "owner=ana") == ["dev-2"]
    assert explained(api, "dev-2")["labels"] == {}

    assert send(api, "dev-2", "labels", labels={"owner": None})["operator_labels"] == {}
    assert found(api, "owner") == []


def test_a_device_has_a_bounded_number_of_labels(api: RunningApi) -> None:
    send(api, "dev-1", "labels", labels={f"a{n}": "x" for n in range(LABELS_MAX)})
    body = WHY | {"labels": {"b": "x"}}
    answer = api.ask("POST", "/v1/devices/dev-1/labels", by="alice", body=body)

    assert (answer.status, answer.json["code"]) == (409, "E-OVERRIDES")
    taken = send(api, "dev-1", "labels", labels={f"a{n}": None for n in range(LABELS_MAX)})
    assert taken["operator_labels"] == {}


def test_a_selector_is_refused_with_its_place(api: RunningApi) -> None:
    answer = api.ask("GET", "/v1/devices?selector=class==x", by="vera")

    assert (answer.status, answer.json["code"]) == (422, "E-SELECTOR")
    assert "at character 7" in answer.json["detail"]


def test_a_selector_names_the_devices_of_a_class(api: RunningApi) -> None:
    assert found(api, f"class={CLASS},device!=dev-2") == ["dev-1", "dev-3"]
    assert found(api, "class in (other)") == []


def test_explain_says_what_is_not_known_of_a_device_that_never_reported(api: RunningApi) -> None:
    (model,) = explained(api, "dev-2")["models"]
    (release,) = model["releases"]

    assert (release["version"], release["eligible"], model["next"]) == ("1.0.0", None, "unknown")
    passed = {check["name"]: check["passed"] for check in release["checks"]}
    assert passed["memory"] is None
    assert passed["approved"] is True


def test_explain_marks_the_first_no(api: RunningApi, held: str) -> None:
    (model,) = explained(api, held, "?model=vad&release=1.0.0")["models"]
    firsts = [check for check in model["releases"][0]["checks"] if check["first_no"]]

    assert [check["name"] for check in firsts] == ["not_held"]
    assert "an exhibition" in firsts[0]["because"]
    assert model["next"] == "stays"


def test_explain_of_what_is_not_there_is_not_found(api: RunningApi) -> None:
    for query in ("?model=heat", "?model=vad&release=9.9.9"):
        assert api.ask("GET", f"/v1/devices/dev-1/explain{query}", by="vera").status == 404


def test_plan_counts_every_device_once(api: RunningApi, held: str) -> None:
    answer = api.ask("POST", "/v1/plans", by="vera", body={"rollout": ROLLOUT})
    assert answer.status == 200, answer.content
    planned = answer.json

    assert [wave["devices"] for wave in planned["waves"]] == [1, 2]
    (kind,) = planned["classes"]
    # Nobody has reported, and one is held: that no is known.
    assert [(each["check"], each["devices"], each["unknown"]) for each in kind["cannot"]] == [
        ("enrolled", 2, True),
        ("not_held", 1, False),
    ]
    assert planned["waves"][-1]["excludes"] == 1.0


def test_plan_says_how_many_reasons_it_leaves_out(
    api: RunningApi, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "REASONS_MAX", 1)
    (kind,) = api.ask("POST", "/v1/plans", by="vera", body={"rollout": ROLLOUT}).json["classes"]

    assert (len(kind["cannot"]), kind["more_reasons"]) == (1, 1)
