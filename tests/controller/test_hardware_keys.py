"""Keys on a PKCS#11 token: SoftHSM's, through the same code that signs with a real one."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailboat_controller.authority import roles
from mailboat_controller.authority.changes import Draft, add_key
from mailboat_controller.authority.hardware_key import (
    LIBRARY_VARIABLE,
    MODULE_VARIABLE,
    PIN_FILE_VARIABLE,
    PIN_VARIABLE,
    HardwareKeyUnusable,
    parse_uri,
)
from mailboat_controller.authority.keys import load_key, open_signer
from mailboat_controller.authority.online import OnlineKeys
from mailboat_controller.authority.pending import Pending
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import DesiredState
from mailboat_schemas.envelope import Envelope, PayloadType
from mailboat_schemas.errors import ConfigurationInvalid
from mailboat_schemas.trust import TrustView
from soft_token import LABEL, MODULE, PIN, put_key, use_token
from trust_fleet import CLASS, EVERYBODY, FLEET, TrustFleet

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def _key() -> str:
    return put_key(0x21)


@pytest.fixture
def uri(_key: str, monkeypatch: pytest.MonkeyPatch) -> str:
    use_token(monkeypatch)
    return _key


@pytest.fixture(autouse=True)
def _pin(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (PIN_FILE_VARIABLE, MODULE_VARIABLE, LIBRARY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(PIN_VARIABLE, PIN)


class TestUri:
    def test_both_forms_name_the_same_key(self) -> None:
        full = parse_uri("pkcs11:token=my%20token;id=%0a;type=private?module-path=/m.so")
        short = parse_uri("hsm:10?label=my+token&module-path=/m.so")

        assert full == short
        assert (full.key_id, full.token, full.module) == (10, "my token", "/m.so")

    @pytest.mark.parametrize(
        "uri",
        [
            "pkcs11:token=a;id=%02?pin-value=1234",
            "hsm:2?label=a&pin-value=1234",
            "pkcs11:token=a;slot-id=3",
            "pkcs11:token=a;token=b",
            "pkcs11:token",
            "pkcs11:id=",
            "pkcs11:id=" + "%01" * 17,
            "pkcs11:token=a?x=y",
            "hsm:two",
            "hsm:²",
            "hsm:" + "9" * 5000,
        ],
    )
    def test_what_it_cannot_mean_is_refused_without_saying_a_pin(self, uri: str) -> None:
        with pytest.raises(ConfigurationInvalid) as refused:
            parse_uri(uri)
        assert "1234" not in str(refused.value)

    def test_a_pin_in_it_is_refused_because_everybody_could_read_it(self) -> None:
        with pytest.raises(ConfigurationInvalid, match="everybody on the machine"):
            parse_uri("pkcs11:token=a;id=%02?pin-value=1234")


class TestToken:
    def test_signs_and_the_metadata_can_name_its_key(self, uri: str) -> None:
        signer = open_signer(uri)
        signature = signer.sign(b"content")

        signer.public_key.verify_signature(signature, b"content")
        assert signer.public_key.scheme == "ecdsa-sha2-nistp256"

    def test_takes_p384_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        place = put_key(0x22, curve="P-384")
        use_token(monkeypatch)
        signer = open_signer(place)

        signer.public_key.verify_signature(signer.sign(b"content"), b"content")

    def test_is_found_by_its_number_and_the_module_of_the_environment(
        self, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(MODULE_VARIABLE, str(MODULE))

        assert open_signer(f"hsm:{0x21}?label={LABEL}").public_key == open_signer(uri).public_key

    @pytest.mark.parametrize("where", ["variable", "uri"])
    def test_takes_its_pin_from_a_file(
        self, uri: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(PIN_VARIABLE)
        (tmp_path / "pin").touch(mode=0o600)
        (tmp_path / "pin").write_text(f"{PIN}\n")
        if where == "variable":
            monkeypatch.setenv(PIN_FILE_VARIABLE, str(tmp_path / "pin"))
        else:
            uri += f"&pin-source=file:{tmp_path / 'pin'}"

        assert open_signer(uri).sign(b"content")

    def test_asks_a_person_once(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(PIN_VARIABLE)
        asked: list[str] = []

        def ask(question: str) -> str:
            asked.append(question)
            return PIN

        signer = open_signer(uri, ask=ask)
        signer.sign(b"one")
        signer.sign(b"two")

        assert asked == [f"PIN of token {LABEL}: "]

    def test_without_a_pin_says_so(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(PIN_VARIABLE)

        with pytest.raises(HardwareKeyUnusable, match="asks for a PIN") as refused:
            open_signer(uri).sign(b"content")
        assert refused.value.code == "E-KEY-HARDWARE"

    def test_a_wrong_pin_is_said_and_not_repeated(
        self, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PIN_VARIABLE, "000111")

        with pytest.raises(HardwareKeyUnusable) as refused:
            open_signer(uri).sign(b"content")
        assert "lock themselves" in refused.value.next_step
        assert "000111" not in str(refused.value)

    def test_without_a_module_says_which_variable(self) -> None:
        with pytest.raises(HardwareKeyUnusable) as refused:
            open_signer("hsm:2?label=any")
        assert MODULE_VARIABLE in refused.value.next_step

    def test_a_module_that_is_not_there_is_named(self) -> None:
        with pytest.raises(HardwareKeyUnusable, match=r"/no/such\.so"):
            open_signer("hsm:2?label=any&module-path=/no/such.so")

    def test_a_module_that_is_none_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "module.so").write_bytes(b"not a library")

        with pytest.raises(HardwareKeyUnusable):
            open_signer(f"hsm:2?label=any&module-path={tmp_path / 'module.so'}")

    @pytest.mark.parametrize("place", ["token=nobody;id=%21", f"token={LABEL};id=%7f"])
    def test_a_token_or_key_that_is_not_there_is_said(
        self, place: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_token(monkeypatch)
        with pytest.raises(HardwareKeyUnusable):
            open_signer(f"pkcs11:{place}?module-path={MODULE}")


class TestInUse:
    def test_a_root_that_only_the_token_could_sign_is_one_that_devices_walk_to(
        self, uri: str, tmp_path: Path
    ) -> None:
        fleet = TrustFleet(tmp_path / "keys", now=NOW)
        signer = open_signer(uri)
        held = {**fleet.roles, "root": fleet.factory_root}
        draft = Draft(held, NOW)
        add_key(draft, "root", signer.public_key, threshold=2)
        pending = Pending.of(held, draft.finish())

        pending.sign(load_key(fleet.directory / "offline" / "root.pem"))
        assert pending.missing()
        pending.sign(signer)

        root = pending.submission()["root"]
        files = {f"{role}.json": content for role, content in fleet.roles.items()}
        view = TrustView(fleet.factory_root, {**files, "root_history/2.root.json": root})
        assert view.versions()["root"] == 2

    def test_an_approver_on_the_token_approves(self, uri: str, tmp_path: Path) -> None:
        fleet = TrustFleet(tmp_path / "keys", now=NOW)
        signer = open_signer(uri)
        held = {**fleet.roles, "root": fleet.factory_root}
        draft = Draft(held, NOW)
        draft.set_keys("approval-vad", [signer.public_key], 1)
        pending = Pending.of(held, draft.finish())
        pending.sign(load_key(fleet.directory / "offline" / "targets.pem"))
        pending.sign(signer)
        fleet.roles |= pending.submission()
        fleet.resign()
        approved = roles.add_approval(
            fleet.roles["approval-vad"],
            [signer],
            model="vad",
            version="1.0.0",
            document=b"{}",
            plan=EVERYBODY.to_custom(),
            now=NOW,
        )

        files = {f"{role}.json": content for role, content in fleet.roles.items()}
        view = TrustView(fleet.factory_root, {**files, "approval-vad.json": approved})
        assert view.standing("vad", "1.0.0").approved_digest

    def test_the_director_may_live_on_the_token(self, uri: str, tmp_path: Path) -> None:
        fleet = TrustFleet(tmp_path / "keys", now=NOW)
        keys = fleet.directory / "controller" / "keys"
        held = {**fleet.roles, "root": fleet.factory_root}
        draft = Draft(held, NOW)
        draft.set_keys("director", [open_signer(uri).public_key], 1)
        pending = Pending.of(held, draft.finish())
        pending.sign(load_key(fleet.directory / "offline" / "targets.pem"))
        targets = pending.submission()["targets"]
        desired = DesiredState(
            fleet=FLEET, hardware_class=CLASS, counter=1, issued=1, assignments=()
        )
        # Both are named in the settings while the rotation is under way.
        online = OnlineKeys.load(keys, {"director": f"{keys / 'director.pem'} {uri}"})
        named = {
            role: (getattr(online, role).public_key.keyid,) for role in ("snapshot", "timestamp")
        }
        online = online.named({**named, "director": tuple(draft.keys_of("director"))})
        envelope = decode(Envelope, online.sign_desired(desired))

        files = {f"{role}.json": content for role, content in fleet.roles.items()}
        view = TrustView(fleet.factory_root, {**files, "targets.json": targets})
        payload = view.open_from_director(envelope, PayloadType.DESIRED_STATE)
        assert decode(DesiredState, payload) == desired


def test_without_the_extra_it_says_what_to_install(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "securesystemslib.signer._hsm_signer.PKCS11_IMPORT_ERROR", "'python-pkcs11' required"
    )

    with pytest.raises(HardwareKeyUnusable) as refused:
        open_signer(uri)
    assert "mailboat[controller,hsm]" in refused.value.next_step
