"""No secret stands in a log, whatever a library or server puts into its error."""

import json
import logging
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mailboat_agent.logs.lines import JsonLines, TextLines
from mailboat_agent.logs.recording import RingHandler
from mailboat_agent.logs.redaction import HIDDEN, TEXT_CHARS_MAX, redact, redact_end
from mailboat_agent.logs.ring import LogRing

PEM = (
    ec.generate_private_key(ec.SECP256R1())
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    .decode()
)
BODY = "".join(PEM.splitlines()[1:-1])


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"cannot load {PEM}", BODY[:40]),
        (f"cannot load {PEM[:120]}", BODY[:40]),  # cut off before its end
        (f"key material {BODY}", BODY),
        ("GET https://store/x?X-Amz-Signature=abc123&X-Amz-Credential=AKIA77", "abc123"),
        ("GET https://alice:hunter2@registry/v2/ failed", "hunter2"),
        ("headers {'Authorization': 'Bearer s3cr3t-tok.en'}", "s3cr3t-tok.en"),
        ("authorization: Bearer s3cr3t-tok.en", "s3cr3t-tok.en"),
        ("sent Basic YWxpY2U6aHVudGVyMg== there", "YWxpY2U6aHVudGVyMg"),
        ('{"token": "kit-4711-secret"}', "kit-4711-secret"),
        ("password=hunter2, user=alice", "hunter2"),
        ("db_password = 'hunter 2'", "hunter 2"),
        ("pkcs11:token=fleet;pin-value=123456", "123456"),
        ("api-key: 0123456789abcdef", "0123456789abcdef"),
        ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD is the secret", "C2FVsBQIhrscChlQIMV"),
        ("a token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln came", "eyJzdWIiOiIxIn0"),
        ("Set-Cookie: session=77deadbeef; Path=/", "77deadbeef"),
        ("Cookie: theme=1; session=77deadbeef", "77deadbeef"),
        ("postgresql://alice:hunt@er2@db/fleet", "er2"),
        ("AWS_SECRET_ACCESS_KEY=abcd1234", "abcd1234"),
        ('password: "hun\\"ter2"', "ter2"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, secret: str) -> None:
    said = redact(text)

    assert secret not in said
    assert HIDDEN in said


@pytest.mark.parametrize(
    "text",
    [
        f"release {'a1' * 32} does not match {'b2' * 32}",
        "GET https://controller:8443/v1/artifacts/sha256/ab12 was answered with 503",
        "vad: the trial of 6.2.0 failed: latency p99 12.5 ms > 10 ms",
        'File "/usr/lib/python3/dist-packages/mailboat_agent/serving/front/connection.py", line 3',
        "1 tokens a second; the secretary is out",
    ],
)
def test_what_an_operator_needs_stays_readable(text: str) -> None:
    assert redact(text) == text


def test_a_long_text_full_of_beginnings_costs_little() -> None:
    """Whoever can have a server's answer logged chooses what the filter has to look through."""
    started = time.process_time()
    for beginning in ("ab://", "a.", "password ", '"token="', "-----BEGIN A", "eyJ", "://x"):
        redact(beginning * (8_000 // len(beginning)))

    assert time.process_time() - started < 3  # 0.1 s where it was written


def test_of_a_text_no_more_than_the_bound_is_looked_through() -> None:
    assert redact("x" * TEXT_CHARS_MAX + "y") == "x" * TEXT_CHARS_MAX
    assert redact_end("y" + "x" * TEXT_CHARS_MAX, 2 * TEXT_CHARS_MAX) == "x" * TEXT_CHARS_MAX


def test_the_end_of_a_long_text_is_what_is_kept_and_no_half_of_a_secret() -> None:
    text = "x" * 20_000 + f"\npassword={'s3cr3t' * 20} " + "the reason " * 10
    said = redact_end(text, 150)

    assert said.endswith("the reason ")
    assert "s3cr3t" not in said


def test_a_further_line_of_a_message_does_not_look_like_one_of_ours() -> None:
    record = logging.LogRecord(
        "x", logging.INFO, __file__, 1, "odd\n2026-01-01 ERROR forged", (), None
    )

    assert "\n    2026-01-01 ERROR forged" in TextLines().format(record)


def test_control_characters_cannot_forge_a_line_or_move_a_terminal() -> None:
    assert redact("a\x1b[2Jb\rc\x00d") == "a [2Jb c d"


def test_every_way_out_of_the_agent_hides_it(tmp_path: Path) -> None:
    """stderr as text and JSON, and what is kept on the disk, exceptions too."""
    ring = LogRing(tmp_path, 1 << 20)
    try:
        int("password=hunter2")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, __file__, 1, "token=%s", ("sesame",), (type(error), error, None)
        )

    RingHandler(ring).handle(record)
    ring.close()
    kept = "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))

    for said in (kept, JsonLines().format(record), TextLines().format(record)):
        assert "hunter2" not in said
        assert "sesame" not in said
        assert HIDDEN in said


def test_a_line_about_a_release_names_its_trace() -> None:
    from mailboat_agent.logs.lines import about_release
    from mailboat_schemas.tracing import trace_id

    record = logging.LogRecord("x", logging.INFO, __file__, 1, "hello", (), None)

    with about_release("a1" * 32):
        assert json.loads(JsonLines().format(record))["trace_id"] == trace_id("a1" * 32)
    assert "trace_id" not in json.loads(JsonLines().format(record))
