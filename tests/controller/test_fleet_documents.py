"""Config that people signed: taken in, sent along, refused where every device would stumble."""

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller_core import Core, plan
from enrolled_fleet import CLASS, FLEET
from mailboat_controller.artifacts import references
from mailboat_controller.authority import fleet_documents as authority
from mailboat_controller.authority import roles
from mailboat_controller.authority.keys import load_key
from mailboat_controller.content import keys
from mailboat_controller.device_orders import OrderTooLarge
from mailboat_controller.explaining.device_config import DeviceConfigs
from mailboat_controller.overrides.orders import Overrides
from mailboat_controller.releases import bundle_room
from mailboat_controller.store import audit, devices, fleet_documents, overrides, sites
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.transfer.selection import Wanted, contents_of
from mailboat_controller.trust import fleet_intake
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.device_orders import DeviceDesired
from mailboat_schemas.documents.config import ConfigDocument
from mailboat_schemas.documents.fleet_document import Level, document_digest
from mailboat_schemas.documents.release import Compatibility
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.fleet_documents import Listed, Place
from mailboat_schemas.overlays import goes_with
from mailboat_schemas.reports import (
    ModelPhase,
    ReportedConfig,
    ReportedLayer,
    ReportedModel,
    ReportedState,
)
from mailboat_schemas.submission import Submission, SubmissionReply
from signed_config import config_document, held, listed, sign_config, withdraw_config
from trust_fleet import document as core_document

OF_CLASS = Place("config", Level.CLASS, CLASS)


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    core.fleet.enrol("dev-1")
    core.run()
    core.empty_outbox()
    yield core
    core.store.close()


def config(version: str = "1.0.0", values: Any = None, **more: Any) -> ConfigDocument:
    return config_document(version, values, **{"target": CLASS, **more})


def submit(core: Core, reason: str = "because") -> SubmissionReply:
    content = encode(
        Submission(
            fleet=FLEET,
            roles={"config": core.trust.roles["config"]},
            documents=core.trust.documents,
            reason=reason,
        )
    )
    return core.admission.submit(content, "approver:ana", core.now)


def signed(core: Core, *documents: ConfigDocument, epoch: int = 0) -> SubmissionReply:
    """One submission; a refused one is forgotten, as whoever made it would."""
    before = dict(core.trust.roles)
    for document in documents:
        sign_config(core.trust, document, epoch=epoch)
    at_once = roles.Metadata[roles.Targets].from_bytes(core.trust.roles["config"])
    at_once.signed.version = roles.Metadata.from_bytes(before["config"]).signed.version + 1
    key = load_key(core.trust.directory / "fleet" / "config.pem")
    core.trust.roles["config"] = roles.sign(at_once.signed, [key])
    reply = submit(core)
    if reply.status != "accepted":
        core.trust.roles = before
    return reply


def bundle(core: Core, hardware_class: str = CLASS) -> ManifestBundle:
    return decode(ManifestBundle, core.manifest(hardware_class).bundle)


def order(core: Core) -> DeviceDesired:
    rows = [row for row in core.outbox() if row.topic.endswith("/dev-1/dn/desired")]
    return decode(DeviceDesired, decode(Envelope, rows[-1].payload).payload)


def test_a_config_for_a_class_travels_in_its_bundle_and_in_no_other(core: Core) -> None:
    core.add_class("other")
    core.run()
    core.empty_outbox()

    reply = signed(core, config())

    assert (reply.status, reply.documents) == ("accepted", (f"config class {CLASS}",))
    digest = listed(config()).digest
    assert bundle(core).documents[digest] == config().canonical_bytes()
    assert digest not in bundle(core, "other").documents
    assert "2.config.json" in bundle(core).trust
    assert len([row for row in core.outbox() if "/manifest" in row.topic]) == 2  # one a class


def test_a_config_beside_releases_keeps_nobody_from_reading_those(core: Core) -> None:
    """Collecting artifacts, filling a carrier and giving out content keys read every document."""
    digest = core.release("1.0.0", plan("first"))
    assert signed(core, config()).status == "accepted"
    told = core.manifest(CLASS).bundle
    assert len(decode(ManifestBundle, told).documents) == 2

    with core.store.read() as tx:
        assert {use.by for use in references.of_manifests(tx)} == {"vad 1.0.0"}
    carried = contents_of(told, b"timestamp", Wanted()).releases
    assert [each.digest for each in carried] == [digest]
    assert keys._read(CLASS, told) == ()


def test_it_is_kept_and_audited_with_who_signed_it_in_and_why(core: Core) -> None:
    signed(core, config())

    with core.store.read() as tx:
        (row,) = fleet_documents.history(tx, OF_CLASS)
        found = [each for each in audit.page(tx) if each.action == "config.change"]
    assert (row.version, row.accepted_by, row.reason) == ("1.0.0", "approver:ana", "because")
    assert found[0].details == {f"class {CLASS}": "defaults 1.0.0"}


def test_a_config_for_one_device_goes_to_it_alone_in_its_order(core: Core) -> None:
    document = config(level="device", target="dev-1")

    assert signed(core, document).status == "accepted"
    digest = listed(document).digest
    assert order(core).documents == {digest: document.canonical_bytes()}
    assert digest not in bundle(core).documents
    core.empty_outbox()
    withdraw_config(core.trust, Place("config", Level.DEVICE, "dev-1"))
    assert submit(core).status == "accepted"
    assert order(core).documents == {}


def test_a_target_that_is_no_class_site_or_device_is_refused(core: Core) -> None:
    for level, target in (("class", "nobody"), ("site", "nowhere"), ("device", "dev-9")):
        reply = signed(core, config(level=level, target=target))

        assert (reply.status, reply.code) == ("rejected", "E-FLEET-TARGET")
        assert target in reply.reasons[0]


def test_an_older_version_is_refused_unless_it_is_signed_as_going_back(core: Core) -> None:
    assert signed(core, config("1.1.0")).status == "accepted"

    assert signed(core, config("1.0.0", {"gain": 0})).code == "E-FLEET-ROLLBACK"
    assert signed(core, config("1.0.0", {"gain": 0}), epoch=1).status == "accepted"
    assert signed(core, config("1.0.1"), epoch=1).status == "accepted"
    assert signed(core, config("1.2.0")).code == "E-FLEET-ROLLBACK"  # without the mark since


def test_an_older_version_does_not_come_back_through_a_withdrawal(core: Core) -> None:
    signed(core, config("1.1.0"))
    withdraw_config(core.trust, OF_CLASS)
    assert submit(core).status == "accepted"

    assert signed(core, config("1.0.0")).code == "E-FLEET-ROLLBACK"


def test_a_version_never_changes_its_contents(core: Core) -> None:
    signed(core, config("1.0.0", {"gain": 1}))

    assert signed(core, config("1.0.0", {"gain": 2})).code == "E-IMMUTABLE"


def test_a_document_that_was_not_sent_along_is_asked_for(core: Core) -> None:
    sign_config(core.trust, config(), brought=False)

    assert submit(core).code == "E-DOCUMENT-MISSING"


def test_a_role_that_the_config_key_did_not_sign_is_refused(core: Core) -> None:
    pending = authority.put(held(core.trust), listed(config()), core.now)
    stranger = load_key(core.trust.directory / "ci" / "vad.pem")
    (metadata,) = pending.roles.values()
    core.trust.roles["config"] = roles.sign(metadata.signed, [stranger])

    assert submit(core).code == "E-SIGNATURE"


def test_a_document_listed_for_another_place_is_refused(core: Core) -> None:
    core.add_class("other")
    document = config(target="other")
    entry = listed(document)
    wrong = Listed(place=OF_CLASS, digest=entry.digest, length=entry.length)
    pending = authority.put(held(core.trust), wrong, core.now)
    pending.sign(load_key(core.trust.directory / "fleet" / "config.pem"))
    core.trust.roles |= pending.submission()
    core.trust.documents[entry.digest] = document.canonical_bytes()

    assert submit(core).code == "E-PATH"


NO_DOCUMENTS = (
    b'{"apiVersion":"mailboat/v1","kind":"Config","kind":"Config"}',
    b'{"gain":NaN}',
    b"[" * 70_000,
    b"[" * 100_000,
    b"",
    b'{"apiVersion": "mailboat/v1"}',
)


def test_signed_bytes_that_are_no_document_are_refused(core: Core) -> None:
    before = dict(core.trust.roles)
    for content in NO_DOCUMENTS:
        core.trust.roles = dict(before)
        entry = Listed(place=OF_CLASS, digest=document_digest(content), length=len(content))
        pending = authority.put(held(core.trust), entry, core.now)
        pending.sign(load_key(core.trust.directory / "fleet" / "config.pem"))
        core.trust.roles |= pending.submission()
        core.trust.documents = {entry.digest: content}

        assert submit(core).code in ("E-PAYLOAD-MALFORMED", "E-PAYLOAD-TOO-LARGE"), content[:20]


def test_a_role_filled_up_beyond_its_list_is_refused(core: Core) -> None:
    """It travels in every bundle, and one too large keeps withdrawals from every class."""
    key = load_key(core.trust.directory / "fleet" / "config.pem")
    sign_config(core.trust, config())
    plain = core.trust.roles["config"]
    for place in ("role", "target", "custom"):
        role = roles.Metadata[roles.Targets].from_bytes(plain).signed
        (target,) = role.targets.values()
        filled = {
            "role": role.unrecognized_fields,
            "target": target.unrecognized_fields,
            "custom": target.unrecognized_fields.setdefault("custom", {}),
        }[place]
        filled["more"] = "x" * 1000
        core.trust.roles["config"] = roles.sign(role, [key])

        assert submit(core).code == "E-ROLE-SHAPE", place


def test_too_much_for_all_sites_together_is_refused_with_a_next_step(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_intake, "SITE_DOCUMENTS_BYTES_MAX", 300)
    monkeypatch.setattr(sites, "get", lambda _tx, _name: None)
    small = config(level="site", target="north", values={})
    large = config(level="site", target="south", values={"text": "x" * 200})

    assert signed(core, small).status == "accepted"
    reply = signed(core, large)
    assert reply.code == "E-FLEET-DOCUMENTS"
    assert "Say for the class" in reply.reasons[0]


def test_a_device_document_that_its_order_has_no_room_for_is_refused(core: Core) -> None:
    large = config(level="device", target="dev-1", values={"text": "x" * 9000})

    assert signed(core, large).code == "E-FLEET-DOCUMENTS"


def test_so_many_places_and_no_more(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_intake, "PLACES_MAX", {Level.CLASS: 1})
    core.add_class("other")

    assert signed(core, config()).status == "accepted"
    assert signed(core, config(target="other")).code == "E-FLEET-DOCUMENTS"


def test_trust_submit_is_no_side_door_for_documents(core: Core) -> None:
    from mailboat_controller.store import trust_roles
    from mailboat_controller.trust.role_intake import RoleContentsChanged, judge_roles

    sign_config(core.trust, config())
    with core.store.read() as tx:
        newest = trust_roles.newest(tx)

    with pytest.raises(RoleContentsChanged):
        judge_roles({"config": core.trust.roles["config"]}, newest, core.now)


def test_the_controller_works_out_the_config_of_a_device_by_the_device_s_own_rule(
    core: Core,
) -> None:
    signed(core, config("1.0.0", {"gain": 1}), config(level="device", target="dev-1"))
    with core.store.read() as tx:
        row = devices.get(tx, "dev-1")
        heard = DeviceConfigs(tx).choice(row, None, lambda _digest: None)
    assert heard.in_force.titles == "defaults 1.0.0, defaults 1.0.0"
    document = core_document("6.0.0", compatibility={"config": "<2"})
    told = report(row, [layer_of(config("1.0.0", {"gain": 1}))], serving="6.0.0")
    signed(core, config("2.0.0", {"gain": 2}))

    with core.store.read() as tx:
        choice = DeviceConfigs(tx).choice(row, told, lambda _digest: document)

    assert choice.in_force.titles == "defaults 1.0.0"
    assert choice.waiting is not None
    assert choice.kept_by == {"vad"}
    asks = Compatibility(config=">=9")
    assert goes_with(choice, "vad", "7.0.0", asks, None)[2] == "E-CONFIG-RANGE"


def layer_of(document: ConfigDocument) -> ReportedLayer:
    about = document.metadata
    digest = listed(document).digest
    return ReportedLayer(level=about.level, name=about.name, version=about.version, digest=digest)


def report(row: DeviceRow, layers: list[ReportedLayer], *, serving: str) -> ReportedState:
    return ReportedState(
        fleet=FLEET,
        device=row.device,
        hardware_class=row.hardware_class,
        site=row.site,
        session=1,
        observed_at=0,
        manifest_counter=1,
        models=(
            ReportedModel(
                model="vad",
                phase=ModelPhase.COMMITTED,
                serving_version=serving,
                serving_digest="ab" * 32,
            ),
        ),
        config=ReportedConfig(digest="cd" * 32, layers=tuple(layers)),
    )


def test_a_config_that_would_overfill_the_message_of_a_class_is_refused_before_it_is_taken(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the class would go on with its old manifest, and miss the next withdrawal with it."""
    core.release("1.0.0", plan("first"))
    before = core.manifest(CLASS)
    room = len(before.bundle) + bundle_room.GROWTH_BYTES + 4096
    monkeypatch.setattr(ManifestBundle, "wire_bytes_max", room)
    noise = {f"n{n}": hashlib.sha256(str(n).encode()).hexdigest() for n in range(100)}

    reply = signed(core, config("1.0.0", noise))

    assert (reply.status, reply.code) == ("rejected", "E-FLEET-DOCUMENTS")
    assert f"the one message of class {CLASS} would be too large" in reply.reasons[0]
    core.run()
    assert core.manifest(CLASS).counter == before.counter
    assert signed(core, config("1.0.0", {"gain": 1})).status == "accepted"


def test_too_many_documents_for_one_message_are_refused_before_they_are_taken(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    core.release("1.0.0", plan("first"))
    monkeypatch.setattr(bundle_room, "DOCUMENTS_MAX", 1)

    assert signed(core, config()).code == "E-FLEET-DOCUMENTS"


def test_an_order_that_would_be_too_large_for_a_device_is_refused_with_what_it_holds(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = Overrides(
        core.store, core.reconciler, FLEET, now=lambda: core.now, queued=lambda: None
    )
    who = {"actor": "operator:ana", "valid": timedelta(hours=1)}
    orders.hold("dev-1", None, reason="short", **who)  # type: ignore[arg-type]
    noise = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(4))
    monkeypatch.setattr(DeviceDesired, "wire_bytes_max", 256)

    with pytest.raises(OrderTooLarge, match="2 holds, 0 pins") as refused:
        orders.hold("dev-1", "vad", reason=noise, **who)  # type: ignore[arg-type]

    assert refused.value.code == "E-ORDER-TOO-LARGE"
    with core.store.read() as tx:
        assert [row.reason for row in overrides.of_device(tx, "dev-1")] == ["short"]


def test_a_mark_of_going_back_is_never_forgotten_however_many_versions_came(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_documents, "HISTORY_MAX", 2)
    assert signed(core, config("1.0.0")).status == "accepted"
    assert signed(core, config("0.9.0", {"gain": 0}), epoch=1).status == "accepted"
    for minor in range(1, 4):
        core.now += timedelta(minutes=1)
        assert signed(core, config(f"1.{minor}.0"), epoch=1).status == "accepted"

    with core.store.read() as tx:
        assert len(fleet_documents.history(tx, OF_CLASS)) == 2
        assert len(fleet_documents.marks(tx, OF_CLASS)) == 5
    assert signed(core, config("1.0.0", {"gain": 7}), epoch=2).code == "E-IMMUTABLE"
