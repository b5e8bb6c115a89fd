"""Where a signing command takes its key from, and what it says when there is none."""

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailboat_controller.authority.keys import (
    KEY_FILE_BYTES_MAX,
    PASSPHRASE_BYTES_MAX,
    PASSPHRASE_FILE_VARIABLE,
    PASSPHRASE_VARIABLE,
    create_key,
    new_passphrase,
    open_signer,
)
from mailboat_controller.authority.public_keys import (
    NAME_CHARS_MAX,
    PUBLIC_KEY_BYTES_MAX,
    has_own_id,
    name_of,
    read_public_key,
    with_name,
    write_public_key,
)
from mailboat_schemas.errors import ConfigurationInvalid


@pytest.fixture(autouse=True)
def _no_passphrase_of_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    monkeypatch.delenv(PASSPHRASE_FILE_VARIABLE, raising=False)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_key(tmp_path / "key.pem")
    return tmp_path / "key.pem"


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    create_key(tmp_path / "locked.pem", passphrase=b"correct horse")
    return tmp_path / "locked.pem"


def keyid(source: str) -> str:
    return str(open_signer(source).public_key.keyid)


class TestSources:
    def test_a_path_and_a_file_are_the_same(self, key: Path) -> None:
        assert keyid(str(key)) == keyid(f"file:{key}")

    def test_a_descriptor_is_read_to_its_end(self, key: Path) -> None:
        read, write = os.pipe()
        try:
            os.write(write, key.read_bytes())
            os.close(write)
            assert keyid(f"fd:{read}") == keyid(str(key))
        finally:
            os.close(read)

    @pytest.mark.parametrize("encode", [lambda pem: pem, base64.b64encode, base64.encodebytes])
    def test_a_variable_holds_the_pem_or_its_base64(
        self, key: Path, encode: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RELEASE_KEY", encode(key.read_bytes()).decode())

        assert keyid("env:RELEASE_KEY") == keyid(str(key))

    @pytest.mark.parametrize(
        "source",
        ["fd:x", "fd:", "fd:-1", "fd:99999", "fd:1234567890", "env:NOT_SET", "env:", "file:", ""],
    )
    def test_what_is_not_there_is_said(self, source: str) -> None:
        with pytest.raises(ConfigurationInvalid) as refused:
            open_signer(source)
        assert refused.value.next_step

    @pytest.mark.parametrize("content", ["rubbish!", "cnViYmlzaA==", "x" * 100_000])
    def test_what_is_no_key_is_not_repeated_in_the_error(
        self, content: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RELEASE_KEY", content)

        with pytest.raises(ConfigurationInvalid) as refused:
            open_signer("env:RELEASE_KEY")
        assert content not in str(refused.value)

    def test_an_endless_descriptor_is_read_to_the_bound(self) -> None:
        with Path("/dev/zero").open("rb") as file, pytest.raises(ConfigurationInvalid):
            open_signer(f"fd:{file.fileno()}")

    def test_of_a_long_one_no_more_is_read_than_the_bound(self, tmp_path: Path) -> None:
        (tmp_path / "long").write_bytes(b"x" * 4 * KEY_FILE_BYTES_MAX)
        with (tmp_path / "long").open("rb", buffering=0) as file:
            with pytest.raises(ConfigurationInvalid):
                open_signer(f"fd:{file.fileno()}")
            assert file.tell() == KEY_FILE_BYTES_MAX

    def test_a_file_over_the_bound_is_no_key(self, key: Path) -> None:
        key.write_bytes(b"\n" * KEY_FILE_BYTES_MAX + key.read_bytes())

        with pytest.raises(ConfigurationInvalid):
            open_signer(str(key))


class TestPassphrase:
    def test_comes_from_a_variable(self, locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")

        assert keyid(str(locked))

    def test_comes_from_a_file_without_its_line_end(
        self, locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "passphrase").touch(mode=0o600)
        (tmp_path / "passphrase").write_text("correct horse\n")
        monkeypatch.setenv(PASSPHRASE_FILE_VARIABLE, str(tmp_path / "passphrase"))

        assert keyid(str(locked))

    def test_is_asked_for_when_no_variable_has_it(self, locked: Path) -> None:
        asked: list[str] = []

        def ask(question: str) -> str:
            asked.append(question)
            return "correct horse"

        assert open_signer(str(locked), ask=ask)
        assert asked == [f"Passphrase of {locked}: "]

    def test_is_not_asked_for_without_need(self, key: Path) -> None:
        def ask(question: str) -> str:
            raise AssertionError(question)

        assert open_signer(str(key), ask=ask)

    @pytest.mark.parametrize("passphrase", ["wrong", ""])
    def test_that_is_wrong_does_not_open_it(
        self, locked: Path, passphrase: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PASSPHRASE_VARIABLE, passphrase)

        with pytest.raises(ConfigurationInvalid) as refused:
            open_signer(str(locked))
        assert PASSPHRASE_FILE_VARIABLE in refused.value.next_step

    @pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x" * (PASSPHRASE_BYTES_MAX + 1)])
    def test_in_a_file_that_cannot_be_read_is_said(
        self,
        locked: Path,
        tmp_path: Path,
        content: bytes | None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if content is not None:
            (tmp_path / "passphrase").write_bytes(content)
        monkeypatch.setenv(PASSPHRASE_FILE_VARIABLE, str(tmp_path / "passphrase"))

        with pytest.raises(ConfigurationInvalid, match="The secret in"):
            open_signer(str(locked))

    def test_of_a_new_key_is_asked_for_twice(self) -> None:
        answers = iter(["one", "one", "one", "two"])

        assert new_passphrase(lambda _question: next(answers)) == b"one"
        with pytest.raises(ConfigurationInvalid, match="differ"):
            new_passphrase(lambda _question: next(answers))


class TestPublicKeyFile:
    def test_carries_key_and_name(self, tmp_path: Path) -> None:
        signer = create_key(tmp_path / "key.pem", name="vad approver 1")
        write_public_key(tmp_path / "key.pub", signer.public_key)
        key = read_public_key(tmp_path / "key.pub")

        assert key == signer.public_key
        assert name_of(key) == "vad approver 1"

    def test_may_be_a_plain_pem(self, tmp_path: Path, key: Path) -> None:
        signer = open_signer(str(key))
        pem = signer.public_key._crypto_key().public_bytes(  # type: ignore[attr-defined]
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        (tmp_path / "key.pub.pem").write_bytes(pem)

        assert read_public_key(tmp_path / "key.pub.pem").keyid == signer.public_key.keyid

    def test_a_name_does_not_change_the_id(self, key: Path) -> None:
        plain = open_signer(str(key)).public_key
        named = with_name(plain, "anna")

        assert named.keyid == plain.keyid
        assert has_own_id(named)

    @pytest.mark.parametrize("name", ["x" * (NAME_CHARS_MAX + 1), "a\nb", "\x1b[2J"])
    def test_a_name_that_would_repaint_a_terminal_is_refused(self, key: Path, name: str) -> None:
        with pytest.raises(ConfigurationInvalid):
            with_name(open_signer(str(key)).public_key, name)

    def test_another_id_than_its_own_is_refused(self, tmp_path: Path, key: Path) -> None:
        """One key under two ids would count twice."""
        write_public_key(tmp_path / "key.pub", open_signer(str(key)).public_key)
        text = (tmp_path / "key.pub").read_text()
        own = open_signer(str(key)).public_key.keyid
        (tmp_path / "key.pub").write_text(text.replace(own, "0" * 64))

        with pytest.raises(ConfigurationInvalid, match="hash"):
            read_public_key(tmp_path / "key.pub")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"[]",
            b"{}",
            b"nonsense",
            b'{"keyid": "x", "keytype": "ed25519", "scheme": "", "keyval": {"public": "zz"}}',
            b'{"keyid": "x", "keytype": "rsa", "scheme": "?", "keyval": {"public": "zz"}}',
            b" " * (PUBLIC_KEY_BYTES_MAX + 1),
        ],
    )
    def test_what_is_no_public_key_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "key.pub").write_bytes(content)

        with pytest.raises(ConfigurationInvalid, match=r"key\.pub"):
            read_public_key(tmp_path / "key.pub")

    def test_a_kind_of_key_that_no_device_verifies_is_refused(self, tmp_path: Path) -> None:
        public = x25519.X25519PrivateKey.generate().public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "key.pub").write_bytes(pem)

        with pytest.raises(ConfigurationInvalid, match="none of"):
            read_public_key(tmp_path / "key.pub")

    def test_a_private_key_handed_over_by_mistake_is_refused(self, key: Path) -> None:
        with pytest.raises(ConfigurationInvalid):
            read_public_key(key)
