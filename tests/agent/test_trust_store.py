"""What this device trusts never goes backwards and is never a mix of two sets."""

import errno
import hashlib
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Targets

from kill_points import killed_at_each_point, recorded_calls, refused_at_each_point
from mailboat_agent.trust import trust_store
from mailboat_agent.trust.kept_manifests import MANIFESTS_KEPT
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_controller.authority import roles
from mailboat_controller.authority.keys import create_key, load_key
from mailboat_schemas import trust
from mailboat_schemas.codec import encode
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.errors import (
    DiskFull,
    RollbackRefused,
    RootChainGap,
    TrustRefused,
    TrustStale,
)
from small_disk import run_on_small_disk
from trust_fleet import MODEL, TrustFleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> TrustFleet:
    """Not changed by any test: those that sign something make their own."""
    return TrustFleet(tmp_path_factory.mktemp("ceremony") / "keys")


@pytest.fixture(scope="module")
def bundles(fleet: TrustFleet) -> list[ManifestBundle]:
    """Three sets, one after the other; 1.0.0 is approved in the second and withdrawn in the third.

    Timestamp versions are 2, 3 and 4.
    """
    fleet.resign()
    first = fleet.read(fleet.bundle())
    fleet.release("1.0.0")
    second = fleet.read(fleet.bundle())
    fleet.withdraw("1.0.0")
    return [first, second, fleet.read(fleet.bundle())]


@pytest.fixture
def store(fleet: TrustFleet, tmp_path: Path) -> TrustStore:
    return TrustStore(tmp_path, fleet.factory_root)


def timestamp_version(store: TrustStore) -> int:
    return store.view().versions().get("timestamp", 0)


def newest_set(directory: Path) -> Path:
    return max((directory / "trust").glob("[0-9]*"), key=lambda path: int(path.name))


def test_a_new_device_holds_nothing_but_trusts_its_factory_root(store: TrustStore) -> None:
    assert store.held() == {}
    assert store.view().versions() == {"root": 1}


def test_what_is_accepted_is_held_by_the_next_process(
    store: TrustStore, fleet: TrustFleet, bundles: list[ManifestBundle], tmp_path: Path
) -> None:
    view = store.accept(bundles[1].trust, [MODEL])

    assert view.standing(MODEL, "1.0.0").approved_digest is not None
    again = TrustStore(tmp_path, fleet.factory_root)
    assert again.view().versions() == view.versions()
    assert again.view().standing(MODEL, "1.0.0") == view.standing(MODEL, "1.0.0")
    assert {"timestamp.json", "snapshot.json", "targets.json"} <= again.held().keys()


def test_one_set_is_kept_and_an_equal_one_is_not_written_again(
    store: TrustStore, bundles: list[ManifestBundle], tmp_path: Path
) -> None:
    for bundle in (*bundles, bundles[-1]):
        store.accept(bundle.trust, [MODEL])

    assert sorted(path.name for path in (tmp_path / "trust").iterdir()) == ["3", "highest.json"]


def test_an_older_set_is_refused_and_nothing_changes(
    store: TrustStore, bundles: list[ManifestBundle]
) -> None:
    store.accept(bundles[2].trust, [MODEL])
    held = store.held()

    with pytest.raises(RollbackRefused):
        store.accept(bundles[1].trust, [MODEL])

    assert store.held() == held


def test_a_refused_set_leaves_no_trace(
    store: TrustStore, bundles: list[ManifestBundle], tmp_path: Path
) -> None:
    store.accept(bundles[0].trust, [MODEL])
    before = sorted((tmp_path / "trust").rglob("*"))
    held = store.held()
    incomplete = {name: text for name, text in bundles[2].trust.items() if "approval" not in name}

    with pytest.raises(TrustRefused):
        store.accept(incomplete, [MODEL])

    assert store.held() == held
    assert sorted((tmp_path / "trust").rglob("*")) == before


def test_expired_metadata_is_refused_as_stale(
    store: TrustStore, bundles: list[ManifestBundle], fleet: TrustFleet
) -> None:
    store.accept(bundles[0].trust, [MODEL])
    long_ago = datetime.now(UTC) - timedelta(days=30)
    snapshot = next(text for name, text in bundles[2].trust.items() if "snapshot" in name)
    expired = roles.sign(roles.make_timestamp(snapshot, 9, long_ago), [fleet.online.timestamp])

    with pytest.raises(TrustStale):
        store.accept({**bundles[2].trust, "timestamp.json": expired}, [MODEL])

    assert timestamp_version(store) == 2


@pytest.mark.slow
def test_accepting_may_die_anywhere_and_leaves_one_whole_set(
    fleet: TrustFleet, bundles: list[ManifestBundle], tmp_path: Path
) -> None:
    def accept(directory: Path, number: int) -> None:
        TrustStore(directory, fleet.factory_root).accept(bundles[number].trust, [MODEL])

    accept(tmp_path / "first", 0)
    versions = []
    for directory in killed_at_each_point(
        tmp_path, copy_of(tmp_path / "first"), lambda place: accept(place, 1), step=2
    ):
        store = TrustStore(directory, fleet.factory_root)
        view = store.view()
        versions.append(view.versions()["timestamp"])
        approved = view.standing(MODEL, "1.0.0").approved_digest
        assert (approved is not None) == (versions[-1] == 3)

    assert set(versions) == {2, 3}
    assert versions == sorted(versions)


def test_every_file_of_a_set_is_durable_before_the_set_counts(
    store: TrustStore,
    bundles: list[ManifestBundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = recorded_calls(monkeypatch, tmp_path)
    store.accept(bundles[1].trust, [MODEL])
    done = [call for call in recorded if "scratch-" not in call]

    switch = done.index("rename trust/new-1 -> trust/1")
    files = [path.relative_to(tmp_path / "trust" / "1") for path in every_file(tmp_path)]
    before = set(done[:switch])
    assert {f"fsync trust/new-1/{name}" for name in files} <= before
    assert {"fsync trust/new-1", "fsync trust/new-1/root_history"} <= before
    assert done[:3] == [
        "fsync trust/highest.json.new",
        "rename trust/highest.json.new -> trust/highest.json",
        "fsync trust",
    ]
    assert done[switch + 1 :] == ["fsync trust", "fsync ."]


def copy_of(prepared: Path) -> Callable[[Path], object]:
    return lambda directory: shutil.copytree(prepared, directory, dirs_exist_ok=True)


def test_what_a_killed_process_left_behind_is_tidied_up(
    store: TrustStore, bundles: list[ManifestBundle], tmp_path: Path
) -> None:
    for name in ("1", "new-3", "scratch-abc"):
        (tmp_path / "trust" / name).mkdir(parents=True)
        (tmp_path / "trust" / name / "file").write_bytes(b"x")

    store.accept(bundles[1].trust, [MODEL])

    assert [path.name for path in (tmp_path / "trust").iterdir() if path.is_dir()] == ["2"]


def test_a_disk_that_refuses_leaves_one_whole_set(
    fleet: TrustFleet, bundles: list[ManifestBundle], tmp_path: Path
) -> None:
    def accept(directory: Path, number: int) -> None:
        TrustStore(directory, fleet.factory_root).accept(bundles[number].trust, [MODEL])

    accept(tmp_path / "first", 0)
    for directory in refused_at_each_point(
        tmp_path,
        copy_of(tmp_path / "first"),
        lambda place: accept(place, 1),
        error=errno.ENOSPC,
        expected=(DiskFull,),
        step=5,
    ):
        assert timestamp_version(TrustStore(directory, fleet.factory_root)) in (2, 3)


def test_a_device_enrolled_into_another_fleet_begins_anew(tmp_path: Path) -> None:
    fleet, other = TrustFleet(tmp_path / "keys"), TrustFleet(tmp_path / "other")
    rotated(fleet, "timestamp")
    fleet.resign()
    store = TrustStore(tmp_path, fleet.factory_root)
    store.accept(fleet.read(fleet.bundle()).trust, [MODEL])
    moved = TrustStore(tmp_path, other.factory_root)

    with pytest.raises(TrustRefused):
        moved.view()
    moved.accept(other.read(other.bundle()).trust, [MODEL])

    assert store.factory_root != moved.factory_root
    assert moved.view().versions() == dict.fromkeys(("root", "timestamp", "snapshot", "targets"), 1)


def every_file(directory: Path) -> list[Path]:
    return sorted(path for path in newest_set(directory).rglob("*.json"))


@pytest.mark.parametrize("damage", ["flipped", "zeroed", "missing"])
def test_any_damaged_file_is_refused_then_repaired_and_versions_do_not_go_down(
    fleet: TrustFleet, bundles: list[ManifestBundle], tmp_path: Path, damage: str
) -> None:
    """A vanished approval role must not look like a withdrawal."""
    rng = random.Random(1)
    store = TrustStore(tmp_path, fleet.factory_root)
    store.accept(bundles[1].trust, [MODEL])
    names = [path.relative_to(newest_set(tmp_path)) for path in every_file(tmp_path)]
    assert len(names) >= 7  # index, root history, four top-level roles, release and approval

    for name in names:
        path = newest_set(tmp_path) / name
        content = bytearray(path.read_bytes())
        if damage == "missing":
            path.unlink()
        elif damage == "zeroed":
            path.write_bytes(bytes(len(content)))
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content)

        with pytest.raises(TrustRefused):
            store.view()
        with pytest.raises(TrustRefused):
            store.held()
        with pytest.raises(RollbackRefused):
            store.accept(bundles[0].trust, [MODEL])

        store.accept(bundles[1].trust, [MODEL])
        assert timestamp_version(store) == 3


def test_a_damaged_mark_is_made_up_for_by_the_set(
    store: TrustStore, bundles: list[ManifestBundle], tmp_path: Path
) -> None:
    store.accept(bundles[2].trust, [MODEL])
    (tmp_path / "trust" / "highest.json").write_bytes(bytes(300))

    assert timestamp_version(store) == 4
    with pytest.raises(RollbackRefused):
        store.accept(bundles[1].trust, [MODEL])


def test_a_stray_file_in_the_set_is_not_read(
    store: TrustStore, bundles: list[ManifestBundle], tmp_path: Path
) -> None:
    store.accept(bundles[1].trust, [MODEL])
    (newest_set(tmp_path) / "approval-other.json").write_bytes(b"{}")

    assert "approval-other.json" not in store.held()


def rotated(fleet: TrustFleet, role: str) -> None:
    """Root version + 1, with a new key for an online role, signed by the offline root key."""
    root: Metadata[Root] = Metadata[Root].from_bytes(fleet.roots[-1])
    old, new = getattr(fleet.online, role), create_key(fleet.directory / f"{role}-2.pem")
    root.signed.revoke_key(old.public_key.keyid, role)
    root.signed.add_key(new.public_key, role)
    root.signed.version += 1
    signer = load_key(fleet.directory / "offline" / "root.pem")
    fleet.roots.append(roles.sign(root.signed, [signer]))
    keys = {name: getattr(fleet.online, name) for name in ("snapshot", "timestamp", "director")}
    fleet.online = type(fleet.online)(**{**keys, role: new})


def test_a_role_with_new_keys_may_count_anew(tmp_path: Path) -> None:
    """Who stole the timestamp key may have signed version 2**31; rotating it must cure that."""
    fleet = TrustFleet(tmp_path / "keys")
    store = TrustStore(tmp_path / "device", fleet.factory_root)
    high = roles.make_timestamp(fleet.roles["snapshot"], 1 << 31, fleet.now)
    honest = fleet.roles["timestamp"]
    fleet.roles["timestamp"] = roles.sign(high, [fleet.online.timestamp])
    store.accept(fleet.read(fleet.bundle()).trust, [MODEL])

    fleet.roles["timestamp"] = honest
    with pytest.raises(RollbackRefused):
        store.accept(fleet.read(fleet.bundle()).trust, [MODEL])
    rotated(fleet, "timestamp")
    fleet.resign()
    store.accept(fleet.read(fleet.bundle()).trust, [MODEL])

    assert store.view().versions() == {"root": 2, "timestamp": 2, "snapshot": 2, "targets": 1}


def test_new_snapshot_keys_do_not_let_an_old_approval_back_in(tmp_path: Path) -> None:
    """python-tuf compares role versions through the snapshot; here every role counts by itself."""
    fleet = TrustFleet(tmp_path / "keys")
    store = TrustStore(tmp_path / "device", fleet.factory_root)
    fleet.release("1.0.0")
    approved = fleet.roles["approval-vad"]
    fleet.withdraw("1.0.0")
    store.accept(fleet.read(fleet.bundle()).trust, [MODEL])
    assert store.view().standing(MODEL, "1.0.0").approved_digest is None

    rotated(fleet, "snapshot")
    rotated(fleet, "timestamp")
    fleet.roles["approval-vad"] = approved
    versions = {"targets": 1, "policy": 1, "config": 1, "release-vad": 2, "approval-vad": 2}
    rewound = roles.make_snapshot(versions, fleet.now)
    fleet.roles["snapshot"] = roles.sign(rewound, [fleet.online.snapshot])
    fleet.roles["timestamp"] = fleet.online.sign_timestamp(
        fleet.roles["timestamp"], fleet.roles["snapshot"], now=fleet.now
    )

    with pytest.raises(RollbackRefused, match="approval-vad"):
        store.accept(fleet.read(fleet.bundle()).trust, [MODEL])
    assert store.view().standing(MODEL, "1.0.0").approved_digest is None


def test_a_role_whose_delegation_has_new_keys_is_left_behind_unless_it_is_asked_for(
    tmp_path: Path,
) -> None:
    fleet = TrustFleet(tmp_path / "keys")
    store = TrustStore(tmp_path / "device", fleet.factory_root)
    store.accept(fleet.read(fleet.bundle()).trust, [MODEL])
    targets: Metadata[Targets] = Metadata[Targets].from_bytes(fleet.roles["targets"])
    new = create_key(tmp_path / "approver-2.pem")
    old = load_key(fleet.directory / "approver" / "vad.pem").public_key.keyid
    targets.signed.revoke_key(old, "approval-vad")
    targets.signed.add_key(new.public_key, "approval-vad")
    targets.signed.version += 1
    signer = load_key(fleet.directory / "offline" / "targets.pem")
    fleet.roles["targets"] = roles.sign(targets.signed, [signer])
    fleet.resign()
    offered = fleet.read(fleet.bundle()).trust

    with pytest.raises(TrustRefused):
        store.accept(offered, [MODEL])
    store.accept(offered, [])

    assert "approval-vad.json" not in store.held()
    assert "release-vad.json" in store.held()


def test_the_newest_manifests_are_kept(store: TrustStore, tmp_path: Path) -> None:
    assert store.newest_manifest() is None

    for counter in (8, 9, 10, 11):
        store.keep_manifest(counter, b"bundle %d" % counter)

    assert store.newest_manifest() == b"bundle 11"
    kept = {path.name for path in (tmp_path / "manifests").iterdir()}
    assert kept == {"9", "10", "11"}
    assert len(kept) == MANIFESTS_KEPT


def test_a_director_that_counts_anew_replaces_the_manifests_of_its_predecessor(
    store: TrustStore,
) -> None:
    store.keep_manifest(500, b"old director")
    store.keep_manifest(1, b"new director")

    assert store.newest_manifest() == b"new director"


def test_a_full_disk_refuses_a_new_set_and_keeps_the_old_one(
    fleet: TrustFleet, bundles: list[ManifestBundle], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    bundle.write_bytes(encode(bundles[1]))
    root = tmp_path / "root.json"
    root.write_bytes(fleet.factory_root)
    run_on_small_disk(
        tmp_path / "disk",
        1 << 20,
        f"""
        from mailboat_agent.trust.trust_store import TrustStore
        from mailboat_schemas.codec import decode
        from mailboat_schemas.desired import ManifestBundle
        from mailboat_schemas.errors import DiskFull

        bundle = decode(ManifestBundle, open({str(bundle)!r}, "rb").read())
        store = TrustStore(DISK, open({str(root)!r}, "rb").read())
        store.accept(bundle.trust, [])
        fill()
        held = store.held()
        for attempt in (lambda: store.accept(bundle.trust, ["vad"]),
                        lambda: store.keep_manifest(1, b"x" * 9999)):
            try:
                attempt()
            except DiskFull:
                pass
            else:
                raise AssertionError("no DiskFull")
        assert store.held() == held
        assert store.newest_manifest() is None
        """,
    )


def test_a_device_follows_so_many_roots_from_the_factorys_on_and_not_one_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "ROOT_ROTATIONS_MAX", 3)
    fleet = TrustFleet(tmp_path / "keys")
    store = TrustStore(tmp_path / "device", fleet.factory_root)
    for _ in range(3):
        renewed(fleet)
    store.accept(fleet.read(fleet.bundle()).trust, [MODEL])

    renewed(fleet)
    with pytest.raises(RootChainGap):
        store.accept(fleet.read(fleet.bundle()).trust, [MODEL])
    assert store.view().versions()["root"] == 4


def renewed(fleet: TrustFleet) -> None:
    """Root version + 1, with the same keys."""
    root: Metadata[Root] = Metadata[Root].from_bytes(fleet.roots[-1])
    root.signed.version += 1
    fleet.roots.append(roles.sign(root.signed, [load_key(fleet.directory / "offline/root.pem")]))


@pytest.mark.parametrize("over", [0, 1])
def test_an_index_of_more_bytes_than_any_is_a_damaged_one(
    store: TrustStore, bundles: list[ManifestBundle], tmp_path: Path, over: int
) -> None:
    store.accept(bundles[1].trust, [MODEL])
    held = store.held()
    index = newest_set(tmp_path) / trust_store._INDEX
    body = index.read_bytes().partition(b"\n")[2]
    body += b" " * (trust_store._INDEX_BYTES_MAX + over - len(body) - 65)
    index.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    if over:
        with pytest.raises(TrustRefused, match=f"more than {trust_store._INDEX_BYTES_MAX} bytes"):
            store.held()
    else:
        assert store.held() == held
