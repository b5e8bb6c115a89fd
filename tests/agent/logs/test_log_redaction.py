"""No secret stands in a log, whatever a library or server puts into its error."""

import json
import logging
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mailboat_agent.logs.lines import JsonLines, TextLines
from mailboat_agent.logs.recording import RingHandler
from mailboat_agent.logs.redaction import HIDDEN, redact
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
