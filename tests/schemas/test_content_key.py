"""A content key reaches the one device it was wrapped to, under the one name that commits to it."""

import json
import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from mailboat_schemas.content_key import (
    WRAPPED_BYTES_MAX,
    ContentKeyHandover,
    WrappedContentKey,
    WrongContentKey,
    content_key_id,
    device_key_id,
    require_key,
    unwrap,
    wrap_to_device,
)
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.errors import MalformedPayload
from mailboat_schemas.sealing import sealed_length
from trust_fleet import CLASS, document

KEY = bytes(range(32))
KEY_ID = content_key_id(KEY)
DEVICE_KEY = ec.generate_private_key(ec.SECP256R1())
NAMES = {"fleet": "demo", "device": "kiosk-1"}


def wrapped() -> bytes:
    return wrap_to_device(KEY, DEVICE_KEY.public_key(), **NAMES)


def test_the_device_it_is_for_opens_it() -> None:
    assert unwrap(wrapped(), DEVICE_KEY, key_id=KEY_ID, **NAMES) == KEY
    assert len(wrapped()) < WRAPPED_BYTES_MAX


def test_no_two_are_the_same_and_the_key_is_in_neither() -> None:
    one, two = wrapped(), wrapped()
    assert one != two
    assert KEY not in one + two


def test_another_devices_key_does_not_open_it() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(WrongContentKey):
        unwrap(wrapped(), other, key_id=KEY_ID, **NAMES)


@pytest.mark.parametrize(
    "changed",
    [
        {"fleet": "other"},
        {"device": "kiosk-2"},
        {"key_id": "0" * 32},
        {"fleet": "dem", "device": "okiosk-1"},
    ],
)
def test_it_opens_for_no_other_fleet_device_or_id(changed: dict[str, str]) -> None:
    with pytest.raises(WrongContentKey):
        unwrap(wrapped(), DEVICE_KEY, **({"key_id": KEY_ID, **NAMES} | changed))


def test_a_damaged_one_does_not_open() -> None:
    good = wrapped()
    for bad in (b"", good[:-1], good + b"\0", b"\0" * len(good), good[:80] + b"\0" + good[81:]):
        if bad == good:
            continue
        with pytest.raises(WrongContentKey):
            unwrap(bad, DEVICE_KEY, key_id=KEY_ID, **NAMES)


def test_the_id_commits_to_the_key() -> None:
    assert require_key(KEY_ID, KEY) == KEY
    with pytest.raises(WrongContentKey) as caught:
        require_key(KEY_ID, secrets.token_bytes(32))
    assert caught.value.code == "E-CONTENT-KEY"
    with pytest.raises(WrongContentKey):
        require_key(KEY_ID, KEY[:16])


def test_the_handover_shows_its_key_to_nobody_who_prints_it() -> None:
    handover = ContentKeyHandover(key=KEY.hex())
    assert KEY.hex() not in repr(handover)


def test_what_a_device_is_answered_survives_json() -> None:
    answer = WrappedContentKey.of(KEY_ID, device_key_id(DEVICE_KEY.public_key()), wrapped())
    again = WrappedContentKey.model_validate_json(answer.model_dump_json())
    assert again == answer
    assert unwrap(again.wrapped, DEVICE_KEY, key_id=again.content_key, **NAMES) == KEY
    with pytest.raises(ValidationError):
        WrappedContentKey.of(KEY_ID, "0" * 64, b"x" * 10_000)


def variant(**sealed: object) -> list[dict[str, object]]:
    content: dict[str, object] = {
        "content_key": KEY_ID,
        "sha256": "cd" * 32,
        "length": sealed_length(4),
    }
    file = {
        "path": "m.onnx",
        "role": "model",
        "sha256": "ab" * 32,
        "length": 4,
        "sealed": content | sealed,
    }
    runtime = {"version": ">=1.18"}
    return [
        {
            "hardware_classes": [CLASS],
            "files": [file],
            "runtime": runtime,
            "peak_memory": 1 << 20,
            "health": {},
        }
    ]


def test_what_travels_is_the_encrypted_form_and_what_is_signed_besides_is_the_plaintext() -> None:
    release = document("1.0.0", variants=variant())
    file = release.files()[0]

    assert (file.sha256, file.length) == ("ab" * 32, 4)
    assert (file.artifact_digest, file.artifact_length) == ("cd" * 32, sealed_length(4))
    assert release.variants[0].needed == {"cd" * 32, KEY_ID}
    assert release.content_keys == {KEY_ID}


def test_a_document_of_plain_files_has_no_word_about_encryption() -> None:
    release = document("1.0.0")
    assert b"sealed" not in release.canonical_bytes()
    assert release.variants[0].needed == {"ab" * 32}


@pytest.mark.parametrize(
    "wrong",
    [{"length": 4}, {"length": sealed_length(5)}, {"scheme": "rot13"}, {"content_key": "key"}],
)
def test_an_encrypted_form_that_cannot_be_is_refused_before_anything_is_fetched(
    wrong: dict[str, object],
) -> None:
    good = document("1.0.0", variants=variant()).canonical_bytes().decode()
    content = json.loads(good)
    content["variants"][0]["files"][0]["sealed"] |= wrong
    with pytest.raises(MalformedPayload):
        ReleaseDocument.parse(json.dumps(content).encode())
