"""When a model answered last is told in the report, of whatever release."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent_box import AgentBox, Play
from mailboat_agent.identity.device_key import Identity
from mailboat_agent.report import Reporter
from mailboat_agent.serving.json_tensors import tensor_of_json
from model_fleet import DEVICE, MODEL, ModelFleet

# Of each test a worker that loads a model.
pytestmark = pytest.mark.slow
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ask(box: AgentBox) -> None:
    x = tensor_of_json({"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]})
    deadline = asyncio.get_running_loop().time() + 60
    box.runtime.submit(
        MODEL, None, [x], [], deadline=deadline, encode=lambda _release, inference: inference
    ).result(60)


def reporter_of(box: AgentBox) -> Reporter:
    return Reporter(
        device=box.device,
        identity=Identity(
            device=DEVICE,
            key=ec.generate_private_key(ec.SECP256R1()),
            certificate_pem=b"",
            keyid="0" * 64,
            enrolment_number=7,
            issued_at=EPOCH,
            expires_at=EPOCH,
        ),
        ledger=box.ledger,
        manifest=box.manifest,
        store=box.store,
        runtime=box.runtime,
        reconciler=box.reconciler,
    )


def told(reporter: Reporter, box: AgentBox) -> int | None:
    (model,) = reporter.build(box.now()).models
    return model.answered_at


def test_the_report_tells_when_a_model_last_answered_and_a_switch_does_not_unsay_it(
    play: Play, fleet: ModelFleet
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        reporter = reporter_of(box)
        assert told(reporter, box) == 0  # golden samples of its trial are nobody's requests

        before = int(box.now().timestamp())
        ask(box)
        at = told(reporter, box)
        assert at is not None
        assert before <= at <= box.now().timestamp()

        await box.install(fleet.current(b), "1.1.0")  # which nobody has asked yet
        assert told(reporter, box) == at
        box.runtime.stop(MODEL)
        assert told(reporter, box) == at

    play(story)


def test_a_clock_that_is_far_off_makes_no_report_that_cannot_be_read(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.clock_offset = EPOCH - timedelta(days=365) - datetime.now(UTC)
        ask(box)
        box.clock_offset = timedelta()
        assert told(reporter_of(box), box) == 0

    play(story)
