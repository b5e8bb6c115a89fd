"""Signatures as the specification has them, and the example of a receiver that checks them."""

import base64
import importlib.util
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

from mailboat_controller.webhooks import signing
from mailboat_schemas.errors import ConfigurationInvalid

EXAMPLE = Path(__file__).parents[3] / "examples" / "webhook_receiver.py"
BODY = b'{"test": 2432232314}'


def receiver() -> ModuleType:
    spec = importlib.util.spec_from_file_location("webhook_receiver_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_of_the_specification_comes_out() -> None:
    """Source: the reference libraries of Standard Webhooks, test vector "sign function works"."""
    key = signing.key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    at = datetime.fromtimestamp(1614265330, UTC)

    headers = signing.headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", BODY, at)

    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


class TestTheExampleOfAReceiver:
    NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)

    @pytest.fixture
    def secret(self) -> str:
        return signing.new_secret()

    def test_takes_what_we_sign(self, secret: str) -> None:
        headers = signing.headers([signing.key_of(secret)], "msg_1", BODY, self.NOW)

        assert receiver().verify(secret, headers, BODY, self.NOW.timestamp()) == "msg_1"

    def test_takes_what_two_secrets_sign_while_one_takes_the_others_place(
        self, secret: str
    ) -> None:
        keys = [signing.key_of(each) for each in (signing.new_secret(), secret)]
        headers = signing.headers(keys, "msg_1", BODY, self.NOW)

        assert receiver().verify(secret, headers, BODY, self.NOW.timestamp()) == "msg_1"

    @pytest.mark.parametrize("what", ["body", "id", "secret", "age", "no signature", "time"])
    def test_refuses_whatever_was_changed_on_the_way(self, secret: str, what: str) -> None:
        headers = dict(signing.headers([signing.key_of(secret)], "msg_1", BODY, self.NOW))
        body, now = BODY, self.NOW.timestamp()
        match what:
            case "body":
                body += b" "
            case "id":
                headers["webhook-id"] = "msg_2"
            case "secret":
                secret = signing.new_secret()
            case "age":
                now += 301
            case "no signature":
                del headers["webhook-signature"]
            case "time":
                headers["webhook-timestamp"] = str(int(now) + 1)
        module = receiver()

        with pytest.raises(module.NotVerified):
            module.verify(secret, headers, body, now)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        "whsec_",
        "whsec_c2hvcnQ=",
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_!!!!" + "A" * 40,
        "whsec_" + "A" * 33,
    ],
)
def test_a_weak_or_mistyped_secret_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        signing.key_of(text)
    assert not text or text not in str(caught.value) or text == "whsec_"


def test_a_new_secret_is_one() -> None:
    first, second = signing.new_secret(), signing.new_secret()

    assert first != second
    assert len(signing.key_of(first)) == signing.SECRET_BYTES
