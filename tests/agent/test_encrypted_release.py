"""Encrypted releases on a device: real files, a real server, a real runtime, and a stolen disk."""

import hashlib
import logging
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent_box import AgentBox, Play, device_facts
from mailboat_agent.artifacts import sealed_store
from mailboat_agent.artifacts.content_keys import ContentKeys, ContentKeyUnusable
from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.artifacts.wrapped_keys import WrappedKeys
from mailboat_agent.atomic_file import DiskFull
from mailboat_agent.errand import Kind
from mailboat_schemas.content_key import (
    WrappedContentKey,
    content_key_id,
    device_key_id,
    wrap_to_device,
)
from mailboat_schemas.desired import Assignment
from mailboat_schemas.documents.release import File, Sealed
from mailboat_schemas.errors import ArtifactMissing, DigestMismatch
from mailboat_schemas.sealing import SealedDamaged, salt_of, seal, sealed_length
from model_fleet import (
    DEVICE,
    FLEET,
    MODEL,
    ArtifactServer,
    ModelFleet,
    affine,
    golden,
)

KEY, OTHER_KEY = b"content key of these releases!!!", b"content key of another release!!"
KEY_ID = content_key_id(KEY)
PREPARE = b"""\
import json

def prepare(inputs, bundle):
    return {"x": inputs["x"] * json.loads(bundle["scale.json"])[0]}
"""
XY = {
    f"{side}puts": [{"name": name, "dtype": "float32", "shape": [-1, 4]}]
    for side, name in (("in", "x"), ("out", "y"))
}
PIPELINE = {"model_interface": XY, "preprocess": "prepare"}


@pytest.fixture
def server(server: ArtifactServer) -> ArtifactServer:
    """It has the content key too."""
    server.content_keys[KEY_ID] = KEY
    return server


def everything_on(directory: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def asked_for_keys(server: ArtifactServer) -> int:
    return sum(path.startswith("/v1/content-keys/") for path in server.requests)


class TestOnADisk:
    def test_it_serves_and_its_disk_and_log_hold_ciphertext_alone(
        self,
        play: Play,
        fleet: ModelFleet,
        server: ArtifactServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        ref = fleet.model_release("1.0.0", content_key=KEY)

        async def story(box: AgentBox) -> None:
            await box.install(fleet.current(ref), "1.0.0")
            assert box.told() == ["trial_started 1.0.0", "soak_started 1.0.0", "committed 1.0.0"]

        box = play(story)
        disk = everything_on(box.directory)
        assert b"scaled" in affine(2.0)
        assert b"in.x" in golden(2.0)
        assert fleet.artifacts.keys() <= box.store.digests()
        for secret in (b"scaled", b"in.x", KEY, KEY.hex().encode()):
            assert secret not in disk
            assert secret not in caplog.text.encode()
        [kept] = (box.directory / "content-keys").iterdir()
        assert kept.stat().st_mode & 0o777 == 0o600
        assert asked_for_keys(server) == 1

    @pytest.mark.slow
    def test_the_code_of_a_release_runs_and_is_nowhere_to_be_read(
        self, play: Play, fleet: ModelFleet
    ) -> None:
        code = {"prepare.py": ("preprocess", PREPARE), "scale.json": ("calibration", b"[3]")}
        ref = fleet.model_release(
            "1.0.0", samples=golden(6.0), code=code, pipeline=PIPELINE, content_key=KEY
        )

        async def story(box: AgentBox) -> None:
            await box.install(fleet.current(ref), "1.0.0")  # its trial asks 6 x + 1 of 2 x + 1
            await box.stop()
            box.start()  # opened again, from the disk
            await box.until(lambda: box.serving == "1.0.0")

        disk = everything_on(play(story).directory)

        for secret in (b"def prepare", PREPARE, KEY, KEY.hex().encode()):
            assert secret not in disk

    @pytest.mark.slow
    def test_after_a_reboot_without_a_network_it_serves_again(
        self, play: Play, fleet: ModelFleet, server: ArtifactServer
    ) -> None:
        ref = fleet.model_release("1.0.0", content_key=KEY)

        async def story(box: AgentBox) -> None:
            await box.install(fleet.current(ref), "1.0.0")
            await box.stop()
            server.refuses_keys = 503
            fleet.artifacts.clear()
            box.start()
            await box.until(lambda: box.serving == "1.0.0")
            assert asked_for_keys(server) == 1

        play(story)

    @pytest.mark.slow
    def test_a_stolen_disk_opens_nothing_without_the_devices_key(
        self, play: Play, fleet: ModelFleet, server: ArtifactServer
    ) -> None:
        ref = fleet.model_release("1.0.0", content_key=KEY)

        async def story(box: AgentBox) -> None:
            await box.install(fleet.current(ref), "1.0.0")
            await box.stop()
            server.refuses_keys = 403  # its certificate was revoked
            box.device_key = ec.generate_private_key(ec.SECP256R1())
            box.start()
            await box.until(lambda: "damaged" in " ".join(box.told()))
            for _ in range(5):
                await box.step()
            assert box.serving is None

        play(story)

    @pytest.mark.slow
    def test_what_nothing_names_any_more_goes_with_its_key(
        self, play: Play, fleet: ModelFleet
    ) -> None:
        old = fleet.model_release("1.0.0", content_key=KEY)
        new = [fleet.model_release(f"1.{n}.0", factor=2.0 + n) for n in (1, 2, 3)]

        async def story(box: AgentBox) -> None:
            await box.install(fleet.current(old), "1.0.0")
            for number, ref in enumerate(new, start=1):
                held = box.store.content_keys.ids()
                assert held == {KEY_ID}  # the two before may be gone back to
                await box.install(fleet.current(ref), f"1.{number}.0")
            await box.until(lambda: not box.store.content_keys.ids())
            assert everything_on(box.directory).count(b"MBSEALED") == 0

        play(story)


class TestAKeyThatIsNotThere:
    @pytest.mark.slow
    def test_is_waited_for_without_a_verdict(
        self, play: Play, fleet: ModelFleet, server: ArtifactServer
    ) -> None:
        a = fleet.model_release("1.0.0")
        b = fleet.model_release("1.1.0", factor=3.0, content_key=KEY)
        withheld = server.content_keys.pop(KEY_ID)

        async def story(box: AgentBox) -> None:
            await box.install(fleet.current(a), "1.0.0")
            told = box.told()
            box.take(fleet.current(b))
            await box.until(lambda: asked_for_keys(server) >= 2)
            assert (box.serving, box.told()) == ("1.0.0", told)
            assert "404" in box.reconciler.loops[MODEL].because
            server.content_keys[KEY_ID] = withheld
            await box.until(lambda: box.committed("1.1.0"))

        play(story)

    @pytest.mark.slow
    def test_is_not_given_to_a_revoked_device_which_serves_on_what_it_has(
        self, play: Play, fleet: ModelFleet, server: ArtifactServer
    ) -> None:
        a = fleet.model_release("1.0.0", content_key=KEY)
        b = fleet.model_release("1.1.0", factor=3.0, content_key=OTHER_KEY)
        server.content_keys[content_key_id(OTHER_KEY)] = OTHER_KEY

        async def story(box: AgentBox) -> None:
            await box.install(fleet.current(a), "1.0.0")
            told = box.told()
            server.refuses_keys = 403
            box.take(fleet.current(b))
            await box.until(lambda: asked_for_keys(server) >= 2)
            assert (box.serving, box.told()) == ("1.0.0", told)
            assert box.store.content_keys.ids() == {KEY_ID}

        play(story)

    @pytest.mark.slow
    def test_or_is_damaged_on_the_disk_is_fetched_again(
        self, play: Play, fleet: ModelFleet, server: ArtifactServer
    ) -> None:
        ref = fleet.model_release("1.0.0", content_key=KEY)

        async def story(box: AgentBox) -> None:
            await box.install(fleet.current(ref), "1.0.0")
            await box.stop()
            (box.directory / "content-keys" / KEY_ID).write_bytes(b"\0" * 200)
            box.start()
            await box.until(lambda: box.serving == "1.0.0" and asked_for_keys(server) == 2)
            assert box.committed("1.0.0")

        play(story)


class TestADeviceKeyThatChanges:
    @pytest.mark.slow
    def test_is_followed_by_its_content_keys_without_a_network(
        self, play: Play, fleet: ModelFleet, server: ArtifactServer
    ) -> None:
        ref = fleet.model_release("1.0.0", content_key=KEY)

        async def story(box: AgentBox) -> None:
            await box.install(fleet.current(ref), "1.0.0")
            new = ec.generate_private_key(ec.SECP256R1())
            keys = ContentKeys(
                box.store.content_keys, box.device, lambda: [box.device_key], lambda: box.source
            )
            for _ in range(2):  # a crash in between only means that it is done again
                keys.rewrap(box.device_key, new)
            await box.stop()
            box.device_key, server.refuses_keys = new, 503
            box.start()
            await box.until(lambda: box.serving == "1.0.0")

        play(story)

    @pytest.mark.slow
    def test_and_was_not_followed_is_cured_by_asking_again(
        self, play: Play, fleet: ModelFleet, server: ArtifactServer
    ) -> None:
        ref = fleet.model_release("1.0.0", content_key=KEY)

        async def story(box: AgentBox) -> None:
            await box.install(fleet.current(ref), "1.0.0")
            await box.stop()
            box.device_key = server.device_key = ec.generate_private_key(ec.SECP256R1())
            box.start()
            await box.until(lambda: box.committed("1.0.0"))
            assert asked_for_keys(server) == 2

        play(story)


class TestAFileThatDoesNotOpen:
    @pytest.mark.slow
    def test_because_it_was_sealed_with_another_key_fails_its_trial_for_good(
        self,
        play: Play,
        fleet: ModelFleet,
        server: ArtifactServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        a = fleet.model_release("1.0.0")
        monkeypatch.setattr("model_fleet.content_key_id", lambda _: KEY_ID)
        bad = fleet.model_release("1.1.0", factor=3.0, content_key=OTHER_KEY)

        async def story(box: AgentBox) -> None:
            await box.install(fleet.current(a), "1.0.0")
            box.take(fleet.offered(bad, a))
            await box.until(lambda: "trial_failed 1.1.0" in box.told())
            assert box.events()[-1].code == "E-SEALED"
            assert box.committed("1.0.0")
            fetched = len(server.requests)
            for _ in range(5):
                await box.step()
            assert (box.serving, len(server.requests)) == ("1.0.0", fetched)

        play(story)

    @pytest.mark.slow
    def test_because_the_disk_damaged_it_is_fetched_again(
        self, play: Play, fleet: ModelFleet
    ) -> None:
        ref = fleet.model_release("1.0.0", content_key=KEY)

        async def story(box: AgentBox) -> None:
            await box.install(fleet.current(ref), "1.0.0")
            await box.stop()
            for digest in fleet.artifacts:
                path = box.store.path(digest)
                path.chmod(0o600)
                path.write_bytes(path.read_bytes()[:-1] + b"\0")
            box.start()
            box.reconciler.begin_serving(box.now(), 0)
            assert (work := box.reconciler.loops[MODEL].work)
            assert work.kind is Kind.SERVE
            await box.until(lambda: box.committed("1.0.0"))
            assert "storage_damaged" in box.told()

        play(story)


# --- one file, without the loop ------------------------------------------------------------------

CONTENT = b"weights " * 30_000


def _nobody_to_ask() -> HttpsSource:
    raise AssertionError("opening a file asks nobody")


class Shelf:
    """A store with one encrypted file, and the key to it."""

    def __init__(self, directory: Path, *, content: bytes = CONTENT, key: bytes = KEY) -> None:
        self.store = ReleaseStore(directory)
        self.device_key = ec.generate_private_key(ec.SECP256R1())
        self.keys = ContentKeys(
            self.store.content_keys, device_facts(), lambda: [self.device_key], _nobody_to_ask
        )
        sha256 = hashlib.sha256(CONTENT).hexdigest()
        encrypted = b"".join(seal([content], key, salt_of(key, sha256, len(CONTENT))))
        self.sealed = Sealed(
            content_key=KEY_ID,
            sha256=self.store.put(encrypted),
            length=sealed_length(len(CONTENT)),
        )
        self.file = File(
            path="m", role="model", sha256=sha256, length=len(CONTENT), sealed=self.sealed
        )
        to = self.device_key.public_key()
        wrapped = wrap_to_device(KEY, to, fleet=FLEET, device=DEVICE)
        self.store.content_keys.put(WrappedContentKey.of(KEY_ID, device_key_id(to), wrapped))

    def open(self) -> bytes:
        memory = sealed_store.open_into_memory(self.store, self.keys, self.file, self.sealed)
        with os.fdopen(memory, "rb") as file:
            return file.read()


def test_the_plaintext_is_in_memory_that_nobody_can_write_to(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    memory = sealed_store.open_into_memory(shelf.store, shelf.keys, shelf.file, shelf.sealed)
    try:
        with pytest.raises(PermissionError):
            os.write(memory, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(memory, 0)
        assert os.pread(memory, len(CONTENT) + 1, 0) == CONTENT
    finally:
        os.close(memory)
    assert b"weights" not in everything_on(tmp_path)


class TestOneFile:
    def test_that_holds_another_content_than_was_signed_is_the_releases_fault(
        self, tmp_path: Path
    ) -> None:
        other = CONTENT[:-1] + b"!"
        with pytest.raises(SealedDamaged):
            Shelf(tmp_path, content=other).open()

    def test_that_changed_on_the_disk_is_set_aside(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path)
        path = shelf.store.path(shelf.sealed.sha256)
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.seek(70_000)
            file.write(b"\0\0\0\0")

        with pytest.raises(DigestMismatch) as caught:
            shelf.open()

        assert caught.value.code == "E-DIGEST"
        assert not shelf.store.has(shelf.sealed.sha256)

    def test_that_is_not_there(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path)
        shelf.store.path(shelf.sealed.sha256).unlink()
        with pytest.raises(ArtifactMissing):
            shelf.open()

    def test_whose_key_does_not_open_here_forgets_the_key(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path)
        shelf.device_key = ec.generate_private_key(ec.SECP256R1())
        with pytest.raises(ContentKeyUnusable) as caught:
            shelf.open()
        assert caught.value.code == "E-CONTENT-KEY-UNUSABLE"
        assert shelf.store.content_keys.ids() == frozenset()


def test_no_descriptor_stays_open_whatever_goes_wrong(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, content=CONTENT[:-1] + b"!")
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(SealedDamaged):
        shelf.open()
    assert len(set(Path("/proc/self/fd").iterdir())) == len(before)


class TestWrappedKeys:
    def key(self) -> WrappedContentKey:
        return WrappedContentKey.of(KEY_ID, "0" * 64, b"wrapped")

    def test_a_file_under_another_keys_name_is_no_key(self, tmp_path: Path) -> None:
        wrapped = WrappedKeys(tmp_path)
        wrapped.put(self.key())
        other = content_key_id(OTHER_KEY)
        (tmp_path / "content-keys" / KEY_ID).rename(tmp_path / "content-keys" / other)
        assert wrapped.read(other) is None

    def test_a_name_that_is_no_id_never_becomes_a_path(self, tmp_path: Path) -> None:
        for name in ("../state.json", "", "A" * 32, f"{KEY_ID}.new"):
            with pytest.raises(ValueError, match="not the id"):
                WrappedKeys(tmp_path).read(name)

    def test_a_full_disk_keeps_the_key_that_is_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrapped = WrappedKeys(tmp_path)
        wrapped.put(self.key())
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(DiskFull):
            wrapped.put(WrappedContentKey.of(KEY_ID, "1" * 64, b"newer"))
        assert wrapped.read(KEY_ID) == self.key()

    def test_leftovers_and_strangers_are_not_counted_as_keys(self, tmp_path: Path) -> None:
        wrapped = WrappedKeys(tmp_path)
        wrapped.put(self.key())
        (tmp_path / "content-keys" / f"{KEY_ID}.new").write_bytes(b"half")
        assert wrapped.ids() == {KEY_ID}
        wrapped.remove_others(frozenset())
        assert wrapped.ids() == frozenset()


@pytest.mark.slow
def test_an_unassigned_model_keeps_nothing_of_an_encrypted_release(
    play: Play, fleet: ModelFleet
) -> None:
    ref = fleet.model_release("1.0.0", content_key=KEY)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(ref), "1.0.0")
        fleet.withdraw("1.0.0")
        box.take(fleet.bundle(Assignment(model=MODEL)))
        await box.until(lambda: box.serving is None and not box.store.content_keys.ids())

    play(story)
