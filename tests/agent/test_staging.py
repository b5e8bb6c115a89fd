"""When a download may begin, and why it does not."""

import random
from datetime import timedelta

from mailboat_agent.artifacts.metered import MeteredWait
from mailboat_agent.artifacts.refusals import ServerBusy
from mailboat_agent.artifacts.staging import REJECTED_AGAIN_SECONDS, WAIT_JITTER, Staging
from mailboat_schemas import cohort
from mailboat_schemas.errors import DigestMismatch, ServerUnavailable

DIGEST = "a" * 64
WRONG_BYTES = DigestMismatch("m.onnx", DIGEST, "b" * 64)


def staging(start_jitter_seconds: float = 0) -> Staging:
    return Staging("kiosk-1", start_jitter_seconds=start_jitter_seconds, rng=random.Random(1))


def test_it_begins_after_its_jitter_which_is_the_devices_own() -> None:
    waiting = staging(1000)
    begins_at = 1000 * cohort.start_fraction(DIGEST, "kiosk-1")

    assert not waiting.may_begin(DIGEST, 0.0)
    assert not waiting.may_begin(DIGEST, begins_at - 1)
    assert waiting.may_begin(DIGEST, begins_at + 1)


def test_wrong_bytes_are_asked_for_again_but_not_soon() -> None:
    waiting = staging()
    waiting.failed(WRONG_BYTES, 0.0)

    assert not waiting.may_begin(DIGEST, REJECTED_AGAIN_SECONDS - 1)
    assert waiting.may_begin(DIGEST, REJECTED_AGAIN_SECONDS + 1)
    assert "has sha256 bbb" in waiting.trouble


def test_a_server_that_says_when_is_not_asked_before() -> None:
    waiting = staging()
    busy = ServerUnavailable("busy", next_step="wait", retry_after=timedelta(seconds=60))
    waiting.failed(busy, 0.0)

    assert not waiting.may_begin(DIGEST, 59.0)
    assert waiting.may_begin(DIGEST, 61.0)


def test_a_new_manifest_forgets_what_failed() -> None:
    waiting = staging()
    waiting.failed(WRONG_BYTES, 0.0)

    waiting.forget()

    assert waiting.may_begin(DIGEST, 1.0)
    assert waiting.trouble == ""


def test_being_asked_to_wait_is_no_failure_and_does_not_lengthen_the_next_wait() -> None:
    waiting = staging()
    for _ in range(20):
        waiting.failed(ServerBusy("the controller", timedelta(seconds=40)), 0.0)

    assert waiting.trouble == "the controller asks to wait 40 s"
    assert not waiting.may_begin(DIGEST, 39.0)
    assert waiting.may_begin(DIGEST, 40.0 * (1 + WAIT_JITTER))
    assert waiting._backoff.attempts == 0


def test_devices_that_were_sent_away_together_come_back_spread_out() -> None:
    def back_at(seed: int) -> float:
        waiting = Staging("kiosk-1", start_jitter_seconds=0, rng=random.Random(seed))
        waiting.failed(ServerBusy("the controller", timedelta(seconds=40)), 0.0)
        return next(t / 10 for t in range(400, 600) if waiting.may_begin(DIGEST, t / 10))

    assert len({back_at(seed) for seed in range(20)}) > 10


def test_a_new_manifest_ends_waiting_for_a_budget_but_not_for_a_server() -> None:
    waiting = staging()
    waiting.failed(MeteredWait(10, 5, 800.0), 0.0)
    assert not waiting.may_begin(DIGEST, 1.0)
    waiting.forget()
    assert waiting.may_begin(DIGEST, 1.0)

    waiting.failed(ServerBusy("the controller", timedelta(seconds=40)), 1.0)
    waiting.forget()
    assert not waiting.may_begin(DIGEST, 2.0)


def test_files_that_somebody_carried_here_wait_for_no_server_and_no_jitter() -> None:
    waiting = staging(86_400)
    waiting.failed(ServerBusy("the controller", timedelta(hours=1)), 0.0)
    assert not waiting.may_begin(DIGEST, 1.0)

    waiting.files_came()

    assert waiting.may_begin(DIGEST, 1.0)
    assert not waiting.may_begin("b" * 64, 1.0)  # another one begins like any


def test_an_emergency_has_no_jitter_and_waits_for_a_busy_server() -> None:
    waiting = staging(start_jitter_seconds=600)
    assert not waiting.may_begin(DIGEST, 0.0)

    assert waiting.may_begin(DIGEST, 0.0, is_emergency=True)
    waiting.failed(ServerBusy("the controller", timedelta(seconds=40)), 0.0)
    assert not waiting.may_begin(DIGEST, 1.0, is_emergency=True)
