"""Content keys are kept wrapped: under a file's key, or one that never leaves its token."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mailboat_controller.authority.hardware_key import PIN_FILE_VARIABLE, PIN_VARIABLE
from mailboat_controller.content.kek import (
    FileKek,
    KekUnusable,
    KeyEncryptionKey,
    TokenKek,
    open_kek,
)
from mailboat_schemas.errors import ConfigurationInvalid

CONTENT, BINDING = b"c" * 32, b"fleet and id"
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "5678"


@pytest.fixture
def file_kek(tmp_path: Path) -> KeyEncryptionKey:
    kek = open_kek("", tmp_path / "content-keys" / "kek")
    kek.make_if_ours()
    return kek


@pytest.fixture
def token_kek(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyEncryptionKey:
    if not (SOFTHSM.exists() and shutil.which("softhsm2-util")):
        pytest.skip("SoftHSM is not installed")
    pkcs11 = pytest.importorskip("pkcs11")
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    monkeypatch.setenv(PIN_VARIABLE, PIN)
    label = f"kek-{os.urandom(4).hex()}"
    words = ["--init-token", "--free", "--label", label, "--so-pin", "1234", "--pin", PIN]
    subprocess.run(["softhsm2-util", *words], check=True, capture_output=True)
    library = pkcs11.lib(str(SOFTHSM))
    library.reinitialize()
    with library.get_token(token_label=label).open(rw=True, user_pin=PIN) as session:
        session.generate_key(pkcs11.KeyType.AES, 256, label="content-kek", store=True)
    return open_kek(f"pkcs11:token={label};object=content-kek?module-path={SOFTHSM}", tmp_path)


@pytest.fixture(params=["file_kek", "token_kek"])
def kek(request: pytest.FixtureRequest) -> KeyEncryptionKey:
    found: KeyEncryptionKey = request.getfixturevalue(request.param)
    return found


class TestEitherKind:
    def test_opens_what_it_wrapped_and_no_two_are_the_same(self, kek: KeyEncryptionKey) -> None:
        one, two = kek.wrap(CONTENT, BINDING), kek.wrap(CONTENT, BINDING)
        assert kek.unwrap(one, BINDING) == kek.unwrap(two, BINDING) == CONTENT
        assert one != two
        assert CONTENT not in one

    def test_opens_nothing_that_was_kept_under_another_name_or_changed(
        self, kek: KeyEncryptionKey
    ) -> None:
        wrapped = kek.wrap(CONTENT, BINDING)
        for bad, binding in (
            (wrapped, b"other"),
            (wrapped[:-1] + bytes([wrapped[-1] ^ 1]), BINDING),
            (b"\0" * len(wrapped), BINDING),
            (b"", BINDING),
        ):
            with pytest.raises(KekUnusable) as caught:
                kek.unwrap(bad, binding)
            assert caught.value.code == "E-CONTENT-KEK"

    def test_the_id_stays_the_same(self, kek: KeyEncryptionKey) -> None:
        assert kek.id() == kek.id()
        assert len(kek.id()) <= 128


class TestAFile:
    def test_that_is_ours_is_made_once_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "content-keys" / "kek"
        kek = FileKek(path, ours=True)
        kek.make_if_ours()
        first = path.read_bytes()
        kek.make_if_ours()
        assert path.read_bytes() == first
        assert len(first) == 32
        assert path.stat().st_mode & 0o777 == 0o600

    def test_that_an_operator_named_is_never_made(self, tmp_path: Path) -> None:
        kek = open_kek(f"file:{tmp_path / 'kek'}", tmp_path / "own")
        kek.make_if_ours()
        with pytest.raises(KekUnusable):
            kek.wrap(CONTENT, BINDING)
        assert list(tmp_path.iterdir()) == []

    def test_that_is_another_than_before_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "kek"
        path.write_bytes(b"1" * 32)
        path.chmod(0o600)
        kek = open_kek(str(path), tmp_path / "own")
        before, wrapped = kek.id(), kek.wrap(CONTENT, BINDING)
        path.write_bytes(b"2" * 32)
        assert kek.id() != before
        with pytest.raises(KekUnusable):
            kek.unwrap(wrapped, BINDING)

    @pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
    def test_of_another_length_is_no_key(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "kek"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(KekUnusable, match="32 bytes"):
            open_kek(str(path), tmp_path).wrap(CONTENT, BINDING)

    def test_that_others_can_read_is_not_used(self, tmp_path: Path) -> None:
        path = tmp_path / "kek"
        path.write_bytes(b"1" * 32)
        path.chmod(0o640)
        with pytest.raises(KekUnusable, match="chmod 600"):
            open_kek(str(path), tmp_path).wrap(CONTENT, BINDING)


class TestAToken:
    def test_that_is_gone_or_takes_another_pin_is_an_error_with_a_next_step(
        self, token_kek: TokenKek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrapped = token_kek.wrap(CONTENT, BINDING)
        for pin in ("0000", None):
            if pin is None:
                monkeypatch.delenv(PIN_VARIABLE)
            else:
                monkeypatch.setenv(PIN_VARIABLE, pin)
            with pytest.raises(KekUnusable) as caught:
                token_kek.unwrap(wrapped, BINDING)
            assert PIN not in str(caught.value)
            assert "0000" not in str(caught.value)
        (tmp_path / "pin").touch(0o600)  # open to others, it would be refused
        (tmp_path / "pin").write_text(PIN + "\n")
        monkeypatch.setenv(PIN_FILE_VARIABLE, str(tmp_path / "pin"))
        assert token_kek.unwrap(wrapped, BINDING) == CONTENT
        elsewhere = TokenKek(module=str(SOFTHSM), token="elsewhere", label="content-kek")
        with pytest.raises(KekUnusable):
            elsewhere.unwrap(wrapped, BINDING)
        assert token_kek.unwrap(wrapped, BINDING) == CONTENT

    @pytest.mark.parametrize(
        "uri",
        [
            "pkcs11:token=a;object=b",
            "pkcs11:token=a?module-path=/m.so",
            "pkcs11:",
            "pkcs11:token=a;object=b?module-path=/m.so&pin-value=1234",
            "pkcs11:token=a;object=b;pin-value=1234?module-path=/m.so",
            "pkcs11:token=a;object=b?module-path=/m.so&PIN-Value=1234",
        ],
    )
    def test_whose_uri_lacks_something_or_tells_a_pin_is_refused(
        self, tmp_path: Path, uri: str
    ) -> None:
        with pytest.raises(ConfigurationInvalid) as caught:
            open_kek(uri, tmp_path)
        assert "1234" not in str(caught.value)
