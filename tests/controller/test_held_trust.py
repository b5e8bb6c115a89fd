from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Targets

from controller_core import Core, plan
from enrolled_fleet import migrated_store
from mailboat_controller.authority import roles
from mailboat_controller.authority.keys import load_key
from mailboat_controller.store import audit, trust_roles
from mailboat_controller.trust import held_trust
from mailboat_schemas.errors import ConfigurationInvalid, MailboatError, TrustRefused
from trust_fleet import TrustFleet


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def newer_targets(core: Core) -> bytes:
    signer = load_key(core.trust.directory / "offline" / "targets.pem")
    held = Metadata[Targets].from_bytes(core.trust.roles["targets"]).signed
    held.version += 1
    return roles.sign(held, [signer])


def test_importing_the_same_directory_again_takes_nothing(core: Core) -> None:
    with core.store.transaction() as tx:
        assert held_trust.import_directory(tx, core.trust_directory, core.now) == ()


def test_a_controller_never_goes_back_to_the_snapshot_of_the_ceremony(core: Core) -> None:
    core.release("1.0.0", plan("first"))

    with core.store.transaction() as tx:
        held_trust.import_directory(tx, core.trust_directory, core.now)
        held = trust_roles.newest_of(tx, "snapshot")

    assert held is not None
    assert held[0] == 2


def test_a_newer_targets_role_is_taken_and_the_snapshot_follows(core: Core) -> None:
    (core.trust_directory / "targets.json").write_bytes(newer_targets(core))

    with core.store.transaction() as tx:
        taken = held_trust.import_directory(tx, core.trust_directory, core.now)
        signed = held_trust.renew(tx, core.trust.online, core.now)
        trust = held_trust.read(tx)

    assert taken == ("targets 2",)
    assert signed == ("snapshot", "timestamp")
    assert trust.view.versions() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}


def test_roles_of_another_fleet_are_not_taken(core: Core, tmp_path: Path) -> None:
    other = TrustFleet(tmp_path / "other", now=core.now)
    strange = Metadata[Targets].from_bytes(other.roles["targets"]).signed
    strange.version = 9
    signer = load_key(other.directory / "offline" / "targets.pem")
    (core.trust_directory / "targets.json").write_bytes(roles.sign(strange, [signer]))

    with pytest.raises(MailboatError) as refused, core.store.transaction() as tx:
        held_trust.import_directory(tx, core.trust_directory, core.now)

    assert isinstance(refused.value, TrustRefused)
    with core.store.read() as tx:
        held = trust_roles.newest_of(tx, "targets")
    assert held is not None
    assert held[0] == 1


def test_a_file_that_is_no_metadata_is_named(core: Core) -> None:
    (core.trust_directory / "notes.json").write_text('{"hello": 1}')

    with (
        pytest.raises(ConfigurationInvalid, match=r"notes\.json"),
        core.store.transaction() as tx,
    ):
        held_trust.import_directory(tx, core.trust_directory, core.now)


def test_without_trust_metadata_nothing_is_decided(tmp_path: Path) -> None:
    store = migrated_store(tmp_path)

    with pytest.raises(ConfigurationInvalid), store.read() as tx:
        held_trust.read(tx)
    store.close()


def test_nothing_is_signed_while_everything_is_fresh(core: Core) -> None:
    with core.store.transaction() as tx:
        assert held_trust.renew(tx, core.trust.online, core.now) == ()
        almost = core.now + held_trust.TIMESTAMP_AGE_MAX
        assert held_trust.renew(tx, core.trust.online, almost) == ()
        later = almost + timedelta(seconds=1)
        assert held_trust.renew(tx, core.trust.online, later) == ("timestamp",)


def test_the_snapshot_is_signed_anew_at_half_of_its_life_although_nothing_changed(
    core: Core,
) -> None:
    half = core.now + held_trust.SNAPSHOT_AGE_MAX
    with core.store.transaction() as tx:
        assert held_trust.renew(tx, core.trust.online, half) == ("timestamp",)
        later = half + timedelta(seconds=1)
        assert held_trust.renew(tx, core.trust.online, later) == ("snapshot", "timestamp")


def actions(core: Core) -> list[tuple[str, str]]:
    with core.store.read() as tx:
        return [(row.action, row.subject) for row in audit.page(tx) if row.action[:5] == "trust"]


def test_what_is_imported_and_what_is_signed_is_in_the_audit_log(core: Core) -> None:
    (core.trust_directory / "targets.json").write_bytes(newer_targets(core))
    with core.store.transaction() as tx:
        held_trust.import_directory(tx, core.trust_directory, core.now)
    core.run()
    core.run()

    assert actions(core)[-2:] == [
        ("trust.import", "targets 2"),
        ("trust.sign", "snapshot, timestamp"),
    ]


@pytest.mark.parametrize("role", ["snapshot", "timestamp", "director"])
def test_a_key_that_the_metadata_does_not_name_is_found_at_the_start(core: Core, role: str) -> None:
    keys = core.trust.online
    other = keys.director if role != "director" else keys.snapshot
    with core.store.read() as tx:
        assert held_trust.named_keys(tx, keys) == keys

        with pytest.raises(ConfigurationInvalid, match=rf"{role}\.pem is not the one") as refused:
            held_trust.named_keys(tx, replace(keys, directory=None, **{role: other}))
    assert refused.value.code == "E-ONLINE-KEY"
