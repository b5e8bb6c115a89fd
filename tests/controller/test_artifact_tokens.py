"""Tokens for one artifact: ours, in time, and nobody else's."""

import base64
import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailboat_controller.access.artifact_tokens import (
    KEY_LIFE,
    LIFE_MAX,
    ORDERS_BURST,
    ORDERS_PER_MINUTE,
    ArtifactTokenExpired,
    ArtifactTokenInvalid,
    ArtifactTokens,
)
from mailboat_controller.access.rate_limits import RateLimited

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
DIGEST = "ab" * 32
SECOND = timedelta(seconds=1)


@pytest.fixture
def tokens(tmp_path: Path) -> ArtifactTokens:
    return ArtifactTokens(tmp_path / "tokens" / "keys.json")


def issue(tokens: ArtifactTokens, now: datetime = NOON, life: timedelta = LIFE_MAX) -> str:
    about = {"holder": "device:cam-1", "credential": "1f"}
    return tokens.issue(DIGEST, **about, now=now, life=life)[0]


def test_a_token_says_what_it_opens_and_for_whom(tokens: ArtifactTokens) -> None:
    grant = tokens.verify(issue(tokens), NOON)

    assert (grant.digest, grant.holder, grant.credential) == (DIGEST, "device:cam-1", "1f")
    assert grant.expires_at == NOON + timedelta(minutes=15)


def test_it_never_lives_longer_than_a_quarter_of_an_hour(tokens: ArtifactTokens) -> None:
    token = issue(tokens, life=timedelta(days=1))

    assert tokens.verify(token, NOON + LIFE_MAX - SECOND)
    with pytest.raises(ArtifactTokenExpired):
        tokens.verify(token, NOON + LIFE_MAX)


def test_a_clock_that_was_set_back_does_not_bring_it_to_life_again(tokens: ArtifactTokens) -> None:
    with pytest.raises(ArtifactTokenExpired):
        tokens.verify(issue(tokens), NOON - timedelta(minutes=2))


def test_nothing_in_it_can_be_changed(tokens: ArtifactTokens) -> None:
    content, _, signature = issue(tokens).removeprefix("mba_").rpartition("_")
    said = json.loads(base64.urlsafe_b64decode(content))
    for place, other in ((1, "cd" * 32), (2, "operator:eve"), (5, said[5] + 1000)):
        changed = json.dumps([*said[:place], other, *said[place + 1 :]], separators=(",", ":"))
        forged = base64.urlsafe_b64encode(changed.encode()).decode()
        with pytest.raises(ArtifactTokenInvalid):
            tokens.verify(f"mba_{forged}_{signature}", NOON)


@pytest.mark.parametrize(
    "text", ["mba_", "mba__", "mba_!!!_00", "mba_bnVsbA==_00", "mba_W10=_00", "mba_e30=_é"]
)
def test_what_is_no_token_is_refused(tokens: ArtifactTokens, text: str) -> None:
    issue(tokens)
    with pytest.raises(ArtifactTokenInvalid):
        tokens.verify(text, NOON)


def test_another_controllers_token_is_none_of_ours(tokens: ArtifactTokens, tmp_path: Path) -> None:
    other = ArtifactTokens(tmp_path / "other.json")
    issue(tokens)

    with pytest.raises(ArtifactTokenInvalid):
        tokens.verify(issue(other), NOON)


def test_keys_are_on_disk_for_the_owner_alone_and_outlive_a_restart(
    tokens: ArtifactTokens, tmp_path: Path
) -> None:
    token = issue(tokens)
    path = tmp_path / "tokens" / "keys.json"

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ArtifactTokens(path).verify(token, NOON).digest == DIGEST


def test_a_key_signs_for_a_day_and_verifies_while_what_it_signed_lives(
    tokens: ArtifactTokens, tmp_path: Path
) -> None:
    path = tmp_path / "tokens" / "keys.json"
    issue(tokens)
    late = issue(tokens, NOON + KEY_LIFE - SECOND)
    before = json.loads(path.read_text())

    issue(tokens, NOON + KEY_LIFE)  # with a new key

    after = json.loads(path.read_text())
    assert [row["id"] for row in after][1:] == [row["id"] for row in before]
    assert tokens.verify(late, NOON + KEY_LIFE + timedelta(minutes=10)).digest == DIGEST
    issue(tokens, NOON + 2 * KEY_LIFE)
    assert len(json.loads(path.read_text())) == 2


def test_a_signature_of_odd_letters_is_refused_like_any_other(tokens: ArtifactTokens) -> None:
    content, _, signature = issue(tokens).rpartition("_")
    for wrong in ("", "é" * 64, signature[:-1], signature.upper(), "0" * 64):
        with pytest.raises(ArtifactTokenInvalid):
            tokens.verify(f"{content}_{wrong}", NOON)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"[{}]", b"{}", b'[{"id":1}]'])
def test_a_damaged_key_file_costs_a_quarter_of_an_hour_of_tokens(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    tokens = ArtifactTokens(path)

    assert tokens.verify(issue(tokens), NOON).digest == DIGEST


def test_no_secret_shows_when_it_is_printed(tokens: ArtifactTokens, tmp_path: Path) -> None:
    issue(tokens)
    secret = json.loads((tmp_path / "tokens" / "keys.json").read_text())[0]["secret"]

    assert secret not in repr(tokens.__dict__)
    assert repr(bytes.fromhex(secret)) not in repr(tokens.__dict__)


def test_a_stolen_device_does_not_fill_the_audit_log_with_orders(tokens: ArtifactTokens) -> None:
    """Every order is written down there, for ever."""

    def made_at_most(count: int) -> Iterator[str]:
        for _ in range(count):
            yield issue(tokens)

    assert len(list(made_at_most(ORDERS_BURST))) == ORDERS_BURST
    with pytest.raises(RateLimited) as refused:
        list(made_at_most(ORDERS_PER_MINUTE))

    assert refused.value.retry_after is not None
    assert tokens.issue(DIGEST, holder="ci:build", credential="2", now=NOON, life=LIFE_MAX)
