"""Key files on the controller's disk, whenever it is killed, and what is never repeated of them."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.authority import online
from mailboat_controller.authority.keys import create_key, load_key, open_signer
from mailboat_controller.authority.online import NEXT, ONLINE_ROLES, OnlineKeys, make_next, settle
from mailboat_controller.content.key_file import read_key
from mailboat_schemas.errors import ConfigurationInvalid, Conflict


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A controller's ``keys`` directory."""
    for role in ONLINE_ROLES:
        create_key(tmp_path / "keys" / f"{role}.pem")
    return tmp_path / "keys"


def named(keys: Path) -> dict[str, tuple[str, ...]]:
    """What metadata says that names the keys in this directory."""
    return {role: (load_key(keys / f"{role}.pem").public_key.keyid,) for role in ONLINE_ROLES}


def counted(call: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
    """The call, and SIGKILL in its place once ``left`` has come to its end."""

    def calling(*arguments: Any, **options: Any) -> Any:
        if next(left, 0) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)

    return calling


class TestKilledWhileNewKeysAreMade:
    """`mailboat trust online-keys`, ended by SIGKILL before each of its system calls that write."""

    WRITES = ("fsync", "link", "unlink", "replace", "open", "mkdir", "rename")

    def kill_at(self, keys: Path, step: int, act: Callable[[Path], object] = make_next) -> bool:
        """Whether it was killed before it came to its end."""
        child = os.fork()
        if child == 0:
            left = iter(range(step, -1, -1))
            for name in self.WRITES:
                setattr(os, name, counted(getattr(os, name), left))
            try:
                act(keys)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)

    @pytest.mark.parametrize("step", range(48))
    def test_the_controller_starts_and_the_command_can_be_repeated(
        self, keys: Path, step: int
    ) -> None:
        before = named(keys)
        killed = self.kill_at(keys, step)

        assert OnlineKeys.load(keys).named(before).director_keyid == before["director"][0]
        assert settle(keys, before) == ()
        if not killed or (keys / NEXT).is_dir():
            with pytest.raises(Conflict):
                make_next(keys)  # they are all there, and may be on their way to the ceremony
        else:
            make_next(keys)
        following = named(keys / NEXT)
        assert settle(keys, following) == ONLINE_ROLES
        assert named(keys) == following


class TestKilledWhileNewKeysSettle(TestKilledWhileNewKeysAreMade):
    """At the start after a rotation: the named keys move into the places of the old ones."""

    @pytest.mark.parametrize("step", range(14))
    def test_the_controller_starts_and_the_command_can_be_repeated(
        self, keys: Path, step: int
    ) -> None:
        following = named(make_next(keys))
        self.kill_at(keys, step, lambda keys: settle(keys, following))

        assert OnlineKeys.load(keys).named(following).director_keyid == following["director"][0]
        settle(keys, following)
        assert named(keys) == following
        assert named(make_next(keys)) != following


def test_a_new_key_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="full"):
            create_key(tmp_path / "anna.pem")

    assert list(tmp_path.iterdir()) == []
    create_key(tmp_path / "anna.pem")
    assert (tmp_path / "anna.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict):
        create_key(tmp_path / "anna.pem")


def test_a_damaged_successor_that_nobody_names_does_not_keep_a_controller_from_starting(
    keys: Path,
) -> None:
    place = make_next(keys)
    (place / "snapshot.pem").write_bytes(b"")

    assert settle(keys, named(keys)) == ()


def test_new_keys_are_made_again_after_settling_was_cut_off(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = named(make_next(keys))
    public = keys / NEXT / "snapshot.pub"
    content = public.read_bytes()
    settle(keys, following)
    public.write_bytes(content)  # killed before it took the public key away

    assert settle(keys, following) == ()
    assert named(make_next(keys)) != following


def test_a_change_that_is_refused_after_all_brings_the_first_key_back(
    keys: Path, tmp_path: Path
) -> None:
    """Of several sources, such as two keys on a token: nothing in the directory has the first."""
    (keys / "director.pem").rename(tmp_path / "first.pem")
    first = load_key(tmp_path / "first.pem").public_key.keyid
    second = create_key(tmp_path / "second.pem").public_key.keyid
    sources = {"director": f"{tmp_path / 'first.pem'} {tmp_path / 'second.pem'}"}
    wanted = {role: (load_key(keys / f"{role}.pem").public_key.keyid,) for role in ONLINE_ROLES[:2]}

    held = OnlineKeys.load(keys, sources)
    moved = held.named({**wanted, "director": (second,)})
    assert moved.director_keyid == second
    assert moved.named({**wanted, "director": (first,)}).director_keyid == first
    with pytest.raises(online.OnlineKeyNotNamed):
        moved.named({**wanted, "director": ("0" * 64,)})


class TestAKeyInThePlaceOfItsSource:
    """`--key "$KEY"` where `--key env:KEY` was meant: a build log must not show it as well."""

    def test_is_refused_and_not_repeated(self, keys: Path) -> None:
        pem = (keys / "director.pem").read_text()

        for source in (pem, pem.strip(), f"file:{pem}"):
            with pytest.raises(ConfigurationInvalid, match="looks like a key itself") as refused:
                open_signer(source)
            assert pem.splitlines()[1] not in str(refused.value)

    @pytest.mark.parametrize("source", ["ab" * 32, "AB" * 32, "01" * 16])
    def test_nor_is_a_content_key(self, source: str) -> None:
        with pytest.raises(ConfigurationInvalid, match="looks like a key itself") as refused:
            read_key(source)
        assert source not in str(refused.value)
