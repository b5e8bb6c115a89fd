"""Everything is read again, slowly; what is damaged is taken out and told."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.artifacts.directory import DirectoryStore
from mailboat_controller.artifacts.scrub import Pass, Scrubber
from mailboat_controller.artifacts.settings import ArtifactSettings
from mailboat_controller.store import artifact_life
from mailboat_schemas.errors import ConfigurationInvalid
from released_files import Shop, digest_of, shop_in
from s3_server import S3Server

FAST = 1 << 40  # bytes a second


def damage(shop: Shop, digest: str, content: bytes, request: pytest.FixtureRequest) -> None:
    """As a disk or a bucket would, in silence."""
    if isinstance(shop.artifacts, DirectoryStore):
        path = shop.artifacts.path(digest)
        path.chmod(0o644)
        path.write_bytes(content)
        return
    server: S3Server = request.getfixturevalue("s3")
    key = f"{shop.settings.prefix}/sha256/{digest}"
    server.client.put_object(Bucket=shop.settings.bucket, Key=key, Body=content)


def read_all(shop: Shop, *, bytes_per_second: int = FAST) -> Pass:
    scrubber = Scrubber(shop.store, shop.artifacts, bytes_per_second)
    return scrubber.run(lambda: shop.now, threading.Event())


def test_what_is_whole_is_left_alone(shop: Shop) -> None:
    held = {shop.put(str(number).encode()) for number in range(5)}

    state = read_all(shop)

    assert (state.checked, state.checked_bytes, state.damaged) == (5, 5, 0)
    assert not state.running
    assert shop.held() == held
    assert shop.care.health() == "ok"


def test_a_flipped_bit_is_missing_from_then_on_told_and_healed_by_an_upload(
    shop: Shop, request: pytest.FixtureRequest
) -> None:
    shop.publish("1.0.0", b"model", b"labels", approved=False)
    digest = digest_of(b"model")
    damage(shop, digest, b"mndel", request)

    state = read_all(shop)

    assert state.damaged == 1
    assert not shop.artifacts.has(digest)
    assert [entry.digest for entry in shop.artifacts.quarantined()] == [digest]
    assert shop.audited("artifact.damaged") == [digest]
    assert shop.care.health() == "damaged"
    status = shop.care.status()
    assert [(row["digest"], row["needed_by"]) for row in status["damaged"]] == [
        (digest, "vad 1.0.0")
    ]
    assert [row["digest"] for row in status["upload_again"]] == [digest]

    shop.put(b"model")
    shop.care.look()

    assert shop.care.health() == "ok"
    assert shop.audited("artifact.heal") == [digest]
    assert shop.care.status()["missing"] == 0


def test_a_file_that_was_cut_short_is_damaged_too(
    corner_shop: Shop, request: pytest.FixtureRequest
) -> None:
    digest = corner_shop.put(b"model")
    damage(corner_shop, digest, b"mod", request)

    assert read_all(corner_shop).damaged == 1
    assert corner_shop.held() == set()


def test_it_goes_on_where_it_was_stopped(corner_shop: Shop) -> None:
    for number in range(6):
        corner_shop.put(str(number).encode())
    seen: list[str] = []
    stop = threading.Event()

    class StopsAfterThree(DirectoryStore):
        def read(self, digest: str, *rest: object, **more: object) -> object:  # type: ignore[override]
            seen.append(digest)
            if len(seen) == 4:
                stop.set()
            return super().read(digest, *rest, **more)  # type: ignore[arg-type]

    artifacts = StopsAfterThree(Path(corner_shop.artifacts.place))
    half = Scrubber(corner_shop.store, artifacts, FAST).run(lambda: corner_shop.now, stop)
    assert half.running
    assert half.checked == 3

    whole = read_all(corner_shop)

    assert whole.started_at == half.started_at
    assert (whole.checked, whole.running) == (6, False)


def test_the_rate_is_kept(corner_shop: Shop) -> None:
    corner_shop.put(bytes(30_000))
    began = time.monotonic()

    read_all(corner_shop, bytes_per_second=100_000)

    assert time.monotonic() - began >= 0.3


def test_a_stop_ends_the_slowest_pass_at_once(corner_shop: Shop) -> None:
    corner_shop.put(bytes(30_000))
    stop = threading.Event()
    timer = threading.Timer(0.1, stop.set)
    timer.start()
    began = time.monotonic()

    state = Scrubber(corner_shop.store, corner_shop.artifacts, 1).run(lambda: corner_shop.now, stop)

    assert time.monotonic() - began < 60  # of eight hours
    assert state.running
    assert corner_shop.held() != set()


class TestWhenItIsDue:
    def test_a_new_controller_reads_after_the_interval_not_at_once(self, corner_shop: Shop) -> None:
        corner_shop.put(b"x")
        corner_shop.care.scrub(threading.Event())
        first = corner_shop.care.newest_scrub()
        assert first is not None
        assert first.checked == 0

        corner_shop.pass_time(days=7)
        corner_shop.care.scrub(threading.Event())

        newest = corner_shop.care.newest_scrub()
        assert newest is not None
        assert newest.checked == 1

    def test_never_without_an_interval_except_on_command(self, tmp_path: Path) -> None:
        settings = ArtifactSettings(scrub_days=0)
        shop = shop_in(tmp_path, DirectoryStore(tmp_path / "artifacts"), settings)
        shop.put(b"x")
        shop.care.scrub(threading.Event())
        shop.pass_time(days=20)
        shop.care.scrub(threading.Event())
        none_yet = shop.care.newest_scrub()
        assert none_yet is not None
        assert none_yet.checked == 0

        shop.care.begin_scrub(actor="operator:alice")
        assert shop.care.scrub_wanted.is_set()
        shop.care.scrub(threading.Event())

        newest = shop.care.newest_scrub()
        assert newest is not None
        assert newest.checked == 1
        shop.store.close()


def test_damage_of_what_nothing_names_is_forgotten_after_its_grace(
    corner_shop: Shop, request: pytest.FixtureRequest
) -> None:
    digest = corner_shop.put(b"nobody's")
    damage(corner_shop, digest, b"x", request)
    read_all(corner_shop)
    corner_shop.collect()
    assert corner_shop.care.health() == "damaged"

    corner_shop.pass_time(days=7)
    corner_shop.collect()

    assert corner_shop.care.health() == "ok"
    assert corner_shop.artifacts.quarantined() == ()


def test_damage_of_what_is_needed_is_remembered_until_it_is_whole(
    corner_shop: Shop, request: pytest.FixtureRequest
) -> None:
    corner_shop.publish("1.0.0", b"model", approved=False)
    damage(corner_shop, digest_of(b"model"), b"x", request)
    read_all(corner_shop)

    corner_shop.pass_time(days=20)
    corner_shop.collect()

    assert corner_shop.care.health() == "damaged"
    with corner_shop.store.read() as tx:
        assert [row.digest for row in artifact_life.damaged(tx)] == [digest_of(b"model")]


def test_a_store_that_cannot_be_reached_is_said_and_comes_back(
    corner_shop: Shop, tmp_path: Path
) -> None:
    incoming = tmp_path / "artifacts" / "incoming"
    incoming.rmdir()
    incoming.write_text("")

    corner_shop.care.look()
    assert corner_shop.care.health() == "unreachable"

    incoming.unlink()
    incoming.mkdir()
    corner_shop.care.look()
    assert corner_shop.care.health() == "ok"


def test_a_file_that_cannot_be_read_is_damaged(corner_shop: Shop) -> None:
    digest = corner_shop.put(b"model")
    path = Path(corner_shop.artifacts.place) / digest[:2] / digest
    path.unlink()
    path.mkdir()  # as good as a bad sector: opening it fails

    assert read_all(corner_shop).damaged == 1
    with corner_shop.store.read() as tx:
        (row,) = artifact_life.damaged(tx)
    assert (row.digest, row.problem) == (digest, "it cannot be read: Is a directory")
    assert not corner_shop.artifacts.has(digest)


class Unreadable(DirectoryStore):
    """Reading fails with ``number``, as it does on a machine in trouble."""

    number = errno.EMFILE

    def read(self, *_what: Any, **_more: Any) -> Iterator[bytes]:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOMEM, errno.ESTALE])
def test_trouble_of_the_machine_is_no_damage_and_takes_nothing_out(
    corner_shop: Shop, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    held = {corner_shop.put(content) for content in (b"one", b"two")}
    monkeypatch.setattr(Unreadable, "number", number)
    artifacts = Unreadable(Path(corner_shop.artifacts.place))

    with pytest.raises(ConfigurationInvalid, match=os.strerror(number)):
        Scrubber(corner_shop.store, artifacts, FAST).run(lambda: corner_shop.now, threading.Event())

    assert corner_shop.held() == held
    assert corner_shop.care.health() == "ok"
    state = corner_shop.care.newest_scrub()
    assert state is not None
    assert state.running  # and goes on when it can be read


def test_a_bad_sector_is_damage(corner_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    corner_shop.put(b"model")
    monkeypatch.setattr(Unreadable, "number", errno.EIO)
    artifacts = Unreadable(Path(corner_shop.artifacts.place))

    state = Scrubber(corner_shop.store, artifacts, FAST).run(
        lambda: corner_shop.now, threading.Event()
    )

    assert state.damaged == 1
    assert corner_shop.held() == set()


class ReplacedMeanwhile(DirectoryStore):
    """Somebody uploads the whole of what was cut short, while that is read a second time."""

    reads = 0

    def read(self, digest: str, *rest: Any, **more: Any) -> Iterator[bytes]:
        yield from super().read(digest, *rest, **more)
        self.reads += 1
        if self.reads == 2:
            self.put(digest, [b"model"], 5)


def test_an_upload_that_comes_while_the_damaged_file_is_read_is_not_taken_out(
    corner_shop: Shop, request: pytest.FixtureRequest
) -> None:
    digest = corner_shop.put(b"model")
    damage(corner_shop, digest, b"mod", request)
    artifacts = ReplacedMeanwhile(Path(corner_shop.artifacts.place))

    state = Scrubber(corner_shop.store, artifacts, FAST).run(
        lambda: corner_shop.now, threading.Event()
    )

    assert state.damaged == 0
    assert b"".join(corner_shop.artifacts.read(digest)) == b"model"


def test_what_cannot_be_taken_out_stays_damaged_until_it_is_whole(
    corner_shop: Shop, request: pytest.FixtureRequest
) -> None:
    digest = corner_shop.put(b"model")
    damage(corner_shop, digest, b"mndel", request)
    quarantine = Path(corner_shop.artifacts.place) / "quarantine"
    quarantine.write_text("")  # in the way
    with pytest.raises(OSError, match="exists"):
        read_all(corner_shop)

    corner_shop.care.look()
    assert corner_shop.care.health() != "ok"
    assert corner_shop.audited("artifact.heal") == []

    quarantine.unlink()
    corner_shop.care.look()
    assert corner_shop.care.health() == "damaged"
    assert not corner_shop.artifacts.has(digest)
    assert corner_shop.audited("artifact.damaged") == [digest]  # once, not at every try


def test_what_was_cut_short_is_whole_again_when_it_comes_back_from_a_backup(
    corner_shop: Shop, request: pytest.FixtureRequest
) -> None:
    digest = corner_shop.put(b"model")
    damage(corner_shop, digest, b"mod", request)
    read_all(corner_shop)
    path = Path(corner_shop.artifacts.place) / digest[:2] / digest
    path.write_bytes(b"model")

    corner_shop.care.look()

    assert corner_shop.care.health() == "ok"
    assert corner_shop.audited("artifact.heal") == [digest]


def test_trouble_of_the_disk_is_told_and_ends_no_controller(
    corner_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_what: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    corner_shop.put(b"nobody's")
    corner_shop.collect()
    corner_shop.pass_time(days=7)
    monkeypatch.setattr(DirectoryStore, "delete", fails)

    corner_shop.care.look()

    assert corner_shop.care.health() == "unreachable"


def test_whoever_asks_for_a_scrub_is_recorded(corner_shop: Shop) -> None:
    corner_shop.care.begin_scrub(actor="operator:alice")

    assert corner_shop.audited("artifact.scrub") == ["directory"]
