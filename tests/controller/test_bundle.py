"""One message with everything a device needs to check it by itself."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailboat_controller.authority import roles
from mailboat_controller.authority.keys import load_key
from mailboat_controller.trust.bundle import compose_bundle, trust_file_name
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import DOCUMENTS_MAX, ManifestBundle
from mailboat_schemas.errors import MailboatError, PayloadTooLarge
from mailboat_schemas.trust import TrustView, accept_trust
from trust_fleet import CLASS, FLEET, MODEL, TrustFleet

NOW = datetime.now(UTC)  # python-tuf reads the wall clock


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> TrustFleet:
    fleet = TrustFleet(tmp_path_factory.mktemp("trust") / "keys", now=NOW)
    fleet.release("1.0.0")
    return fleet


def compose(fleet: TrustFleet, **changes: object) -> bytes:
    content: dict[str, object] = {
        "fleet": FLEET,
        "hardware_class": CLASS,
        "counter": 3,
        "roles": fleet.roles,
        "roots": fleet.roots,
        "documents": fleet.documents,
        "desired": b"sealed",
    }
    return compose_bundle(**(content | changes))  # type: ignore[arg-type]


def test_roles_stand_under_the_names_that_clients_ask_for(fleet: TrustFleet) -> None:
    bundle = decode(ManifestBundle, compose(fleet))

    assert set(bundle.trust) == {
        "timestamp.json",
        "2.snapshot.json",
        "1.targets.json",
        "2.release-vad.json",
        "2.approval-vad.json",
        "1.policy.json",
        "1.config.json",
        "1.root.json",
    }
    assert (bundle.fleet, bundle.hardware_class, bundle.counter) == (FLEET, CLASS, 3)
    assert bundle.desired == b"sealed"


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "release-vad"])
def test_what_was_signed_travels_byte_for_byte(fleet: TrustFleet, role: str) -> None:
    bundle = decode(ManifestBundle, compose(fleet))

    assert bundle.trust[trust_file_name(role, fleet.roles[role])] == fleet.roles[role]


def test_a_device_that_knows_only_its_factory_root_accepts_it(
    fleet: TrustFleet, tmp_path: Path
) -> None:
    bundle = decode(ManifestBundle, compose(fleet))
    held = accept_trust(
        bundle.trust, factory_root=fleet.factory_root, held={}, models=[MODEL], scratch=tmp_path
    )
    (digest,) = bundle.documents

    assert TrustView(fleet.factory_root, held).standing(MODEL, "1.0.0").may_install(digest)


def test_the_whole_chain_of_roots_travels_along(fleet: TrustFleet, tmp_path: Path) -> None:
    key = load_key(fleet.directory / "offline" / "root.pem")
    root = roles.Metadata[roles.Root].from_bytes(fleet.factory_root).signed
    chain = [fleet.factory_root]
    for _ in range(2):
        root.version += 1
        chain.append(roles.sign(root, [key]))
    bundle = decode(ManifestBundle, compose(fleet, roots=chain))
    held = accept_trust(
        bundle.trust, factory_root=fleet.factory_root, held={}, models=[MODEL], scratch=tmp_path
    )

    assert TrustView(fleet.factory_root, held).versions()["root"] == 3


def test_more_than_one_message_carries_is_refused(fleet: TrustFleet) -> None:
    noise = b"".join(hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(20_000))

    with pytest.raises(PayloadTooLarge):
        compose(fleet, documents={"ab" * 32: noise})


def test_more_documents_than_a_bundle_names_are_refused_like_more_bytes(fleet: TrustFleet) -> None:
    """So that the other classes are told what is new all the same."""
    many = {f"{number:064x}": b"{}" for number in range(DOCUMENTS_MAX + 1)}

    assert compose(fleet, documents=dict(list(many.items())[:DOCUMENTS_MAX]))
    with pytest.raises(MailboatError, match="257 documents") as refused:
        compose(fleet, documents=many)
    assert refused.value.code == PayloadTooLarge.code
