"""Who stands between the controller and the device, and holds no key: the network, the broker.

They can withhold and repeat, and write whatever they like on the manifest topic.
"""

import json
from datetime import timedelta

import msgpack
import pytest
import zstandard

from attack_forgery import (
    APPROVAL,
    altered,
    changed_inside,
    desired_by,
    file_of,
    fresh,
    next_root,
    rotate_director,
    signed_again,
    unsigned,
    without,
)
from attack_siege import Siege
from mailboat_controller.authority import roles
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import Assignment, ManifestBundle, ReleaseRef
from mailboat_schemas.reports import Ack
from mailboat_schemas.trust import ROLE_BYTES_MAX
from model_fleet import CLASS, DEVICE, MODEL, ModelFleet

HOUR = timedelta(hours=1)


def assigned(ref: ReleaseRef) -> Assignment:
    return Assignment(model=MODEL, current=ref)


def later(siege: Siege) -> bytes:
    """The controller's next message: a second release, approved and current."""
    return siege.fleet.current(siege.fleet.model_release("1.1.0", factor=3.0))


# --- software of one's own -----------------------------------------------------------------------


async def test_arbitrary_software_signed_with_keys_of_ones_own(
    siege: Siege, stranger: ModelFleet
) -> None:
    evil = stranger.current(stranger.model_release("6.6.7", factor=6.0))
    await siege.offer(without(evil, "1.root.json"))
    await siege.assert_refused("E-SIGNATURE")


@pytest.mark.slow
async def test_arbitrary_software_with_its_own_root_beside_it(
    siege: Siege, stranger: ModelFleet
) -> None:
    own_root = signed_again(next_root(siege.fleet), stranger.online.timestamp)
    await siege.offer(altered(later(siege), trust={"2.root.json": own_root}))
    await siege.assert_refused("E-SIGNATURE")


@pytest.mark.slow
async def test_metadata_without_any_signature(siege: Siege) -> None:
    siege.fleet.resign()
    bundle = siege.fleet.current(siege.current)
    bare = unsigned(siege.fleet.roles["timestamp"])
    await siege.offer(altered(bundle, trust={"timestamp.json": bare}))
    await siege.assert_refused("E-SIGNATURE")


async def test_a_plan_widened_after_it_was_signed(siege: Siege) -> None:
    bundle = later(siege)

    def widen(signed: dict[str, object]) -> None:
        signed["targets"] = json.loads(
            json.dumps(signed["targets"]).replace('"cap_ppm": 1000000', '"cap_ppm": 999999')
        )

    wider = changed_inside(siege.fleet.roles[APPROVAL], widen)
    assert b"999999" in wider
    await siege.offer(altered(bundle, trust={file_of(bundle, APPROVAL): wider}))
    await siege.assert_refused("E-SIGNATURE")


@pytest.mark.slow
async def test_a_desired_state_signed_by_nobody_the_root_names(
    siege: Siege, stranger: ModelFleet
) -> None:
    bundle = later(siege)
    forged = desired_by(stranger, 99, assigned(siege.current))
    await siege.offer(altered(bundle, desired=forged))
    await siege.assert_refused("E-SIGNATURE", trust_moves=True)


async def test_one_kind_of_signed_message_passed_off_as_another(siege: Siege) -> None:
    acknowledgement = siege.fleet.online.sign_ack(
        Ack(device=DEVICE, manifest_counter=1, epoch="a" * 16, events_acked=0, telemetry_acked=0)
    )
    siege.fleet.resign()
    bundle = siege.fleet.current(siege.current)
    await siege.offer(altered(bundle, desired=acknowledgement))
    assert siege.alarms()[-1].code in {"E-PAYLOAD-MALFORMED", "E-SIGNATURE"}
    await siege.assert_refused(siege.alarms()[-1].code, trust_moves=True)


# --- repeated and withheld -----------------------------------------------------------------------


async def test_rollback_to_yesterdays_manifest(siege: Siege) -> None:
    yesterday = siege.fleet.current(siege.current)
    siege.fleet.resign()
    await siege.advance(siege.fleet.current(siege.current))
    await siege.offer(yesterday)
    await siege.assert_refused("E-ROLLBACK")


@pytest.mark.slow
async def test_rollback_by_a_restored_broker_after_the_power_was_cut(siege: Siege) -> None:
    yesterday = siege.fleet.current(siege.current)
    siege.fleet.resign()
    await siege.advance(siege.fleet.current(siege.current))
    await siege.power_cut()
    await siege.offer(yesterday)
    await siege.assert_refused("E-ROLLBACK")


@pytest.mark.slow
async def test_rollback_of_the_wish_alone_under_the_newest_metadata(siege: Siege) -> None:
    old_wish = decode(ManifestBundle, siege.bundle).desired
    siege.fleet.resign()
    newest = siege.fleet.current(siege.current)
    await siege.advance(newest)
    siege.fleet.resign()
    await siege.offer(altered(siege.fleet.current(siege.current), desired=old_wish))
    await siege.assert_refused("E-ROLLBACK", trust_moves=True)


@pytest.mark.slow
async def test_rollback_of_the_director_to_the_one_before_the_theft(siege: Siege) -> None:
    stolen = siege.fleet.online
    rotate_director(siege.fleet)
    await siege.advance(siege.fleet.current(siege.current))
    siege.fleet.resign()
    thief, siege.fleet.online = stolen, siege.fleet.online
    replayed = siege.fleet.current(siege.current)
    siege.fleet.online = thief
    wish = desired_by(siege.fleet, 10**6, assigned(siege.current))
    await siege.offer(altered(replayed, desired=wish))
    await siege.assert_refused("E-SIGNATURE", trust_moves=True)


async def test_freeze_with_a_manifest_that_has_expired(siege: Siege) -> None:
    siege.fleet.now -= 8 * 24 * HOUR  # a timestamp is good for a week
    siege.fleet.resign()
    await siege.offer(siege.fleet.current(siege.current))
    await siege.assert_refused("E-TRUST-STALE")


@pytest.mark.slow
async def test_freeze_by_withholding_everything_for_forty_days(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0)
    offered = siege.fleet.offered(second, siege.current)
    siege.box.clock_offset = 40 * 24 * HOUR
    await siege.offer(offered)
    await siege.assert_refused("E-TRUST-STALE", trust_moves=True)


# --- mixed and incomplete ------------------------------------------------------------------------


async def test_mix_and_match_of_an_old_approval_under_a_new_snapshot(siege: Siege) -> None:
    siege.fleet.model_release("1.1.0", factor=3.0)
    approved = siege.fleet.roles[APPROVAL]
    siege.fleet.withdraw("1.1.0")
    bundle = siege.fleet.current(siege.current)
    await siege.offer(altered(bundle, trust={file_of(bundle, APPROVAL): approved}))
    await siege.assert_refused("E-MIXED")


@pytest.mark.slow
async def test_mix_and_match_of_an_old_snapshot_under_a_new_timestamp(siege: Siege) -> None:
    old = siege.fleet.roles["snapshot"]
    bundle = later(siege)
    await siege.offer(altered(bundle, trust={file_of(bundle, "snapshot"): old}))
    await siege.assert_refused("E-MIXED")


async def test_a_bundle_that_hides_the_approval_role(siege: Siege) -> None:
    bundle = later(siege)
    await siege.offer(without(bundle, file_of(bundle, APPROVAL)))
    await siege.assert_refused("E-METADATA-MISSING")


@pytest.mark.slow
async def test_a_bundle_that_hides_the_snapshot(siege: Siege) -> None:
    bundle = later(siege)
    await siege.offer(without(bundle, file_of(bundle, "snapshot")))
    await siege.assert_refused("E-METADATA-MISSING")


async def test_a_root_chain_with_a_gap(siege: Siege) -> None:
    siege.fleet.roots.append(next_root(siege.fleet))
    siege.fleet.roots.append(next_root(siege.fleet))
    await siege.offer(without(siege.fleet.current(siege.current), "2.root.json"))
    await siege.assert_refused("E-ROOT-GAP")


@pytest.mark.slow
async def test_a_root_chain_that_skips_a_version_under_a_false_name(siege: Siege) -> None:
    siege.fleet.roots.append(next_root(siege.fleet))
    third = next_root(siege.fleet)
    bundle = siege.fleet.current(siege.current)
    await siege.offer(altered(bundle, trust={"2.root.json": third}))
    await siege.assert_refused("E-ROOT-GAP")


async def test_one_role_passed_off_as_another(siege: Siege) -> None:
    bundle = later(siege)
    await siege.offer(altered(bundle, trust={"timestamp.json": siege.fleet.roles["snapshot"]}))
    await siege.assert_refused("E-METADATA-MALFORMED")


# --- meant for somebody else ---------------------------------------------------------------------


async def test_cross_class_manifest_on_this_class_topic(siege: Siege) -> None:
    siege.fleet.resign()
    await siege.offer(siege.fleet.bundle(assigned(siege.current), hardware_class="camera-arm"))
    await siege.assert_refused("E-TOPIC-MISMATCH")


async def test_cross_class_manifest_with_its_label_changed(siege: Siege) -> None:
    siege.fleet.resign()
    other = siege.fleet.bundle(assigned(siege.current), hardware_class="camera-arm")
    await siege.offer(altered(other, hardware_class=CLASS))
    await siege.assert_refused("E-WRONG-CLASS", trust_moves=True)


async def test_cross_fleet_manifest_of_a_fleet_with_the_same_keys(siege: Siege) -> None:
    siege.fleet.resign()
    other = siege.fleet.bundle(assigned(siege.current), fleet="sister")
    await siege.offer(altered(other, fleet="demo"))
    await siege.assert_refused("E-WRONG-FLEET", trust_moves=True)


@pytest.mark.slow
async def test_cross_fleet_manifest_of_another_fleets_controller(
    siege: Siege, stranger: ModelFleet
) -> None:
    stranger.resign()
    await siege.offer(stranger.current(siege.current))
    await siege.assert_refused("E-SIGNATURE")


# --- too much, and not at all --------------------------------------------------------------------


async def test_a_cleared_topic_is_no_order_to_uninstall(siege: Siege) -> None:
    await siege.offer(b"")
    await siege.assert_refused("E-PAYLOAD-MALFORMED")


async def test_garbage_on_the_manifest_topic(siege: Siege) -> None:
    await siege.offer(b"\x93 not a manifest")
    await siege.assert_refused("E-PAYLOAD-MALFORMED")


@pytest.mark.slow
async def test_a_message_over_the_bound_of_its_kind(siege: Siege) -> None:
    await siege.offer(bytes(ManifestBundle.wire_bytes_max + 1))
    await siege.assert_refused("E-PAYLOAD-TOO-LARGE")


async def test_a_decompression_bomb_in_a_message(siege: Siege) -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 28))
    assert len(bomb) < ManifestBundle.wire_bytes_max
    await siege.offer(bomb)
    await siege.assert_refused("E-PAYLOAD-TOO-LARGE")


@pytest.mark.slow
async def test_a_message_that_asks_for_a_gigabyte_to_unpack_it(siege: Siege) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    # Good but for its window: a reader that allowed it would take this manifest.
    frame = compressor.compress(_plain(later(siege))) + compressor.flush()
    assert zstandard.get_frame_parameters(frame).window_size == 1 << 30
    await siege.offer(frame)
    await siege.assert_refused("E-PAYLOAD-MALFORMED")


@pytest.mark.slow
async def test_a_message_nested_without_end(siege: Siege) -> None:
    await siege.offer(b"\x81\xa1v" + b"\x91" * 100_000 + b"\xc0")
    await siege.assert_refused("E-PAYLOAD-MALFORMED")


@pytest.mark.slow
async def test_metadata_nested_without_end(siege: Siege) -> None:
    deep = b'{"signatures":' + b"[" * 50_000 + b"]" * 50_000 + b',"signed":{}}'
    bundle = later(siege)
    await siege.offer(altered(bundle, trust={file_of(bundle, "release-vad"): deep}))
    await siege.assert_refused("E-METADATA-MALFORMED")


async def test_a_role_of_endless_metadata(siege: Siege) -> None:
    bundle = later(siege)
    endless = b"{" + b" " * ROLE_BYTES_MAX
    await siege.offer(altered(bundle, trust={file_of(bundle, "release-vad"): endless}))
    await siege.assert_refused("E-METADATA-TOO-LARGE")


@pytest.mark.slow
async def test_more_metadata_files_than_there_are_roles(siege: Siege) -> None:
    many = {f"{n}.release-m{n}.json": b"{}" for n in range(5000)}
    content = msgpack.unpackb(_plain(siege.bundle))
    content["trust"] |= many
    await siege.offer(zstandard.compress(msgpack.packb(content)))
    await siege.assert_refused("E-PAYLOAD-MALFORMED")


async def test_path_traversal_in_the_name_of_a_metadata_file(siege: Siege) -> None:
    content = msgpack.unpackb(_plain(siege.bundle))
    for name in ("../../state.json", "/etc/cron.d/x.json", "..%2f..%2fstate.json/.json"):
        content["trust"][name] = b"{}"
        await siege.offer(zstandard.compress(msgpack.packb(content)))
        del content["trust"][name]
        await siege.assert_refused("E-PAYLOAD-MALFORMED")
    assert len(siege.alarms()) == 3


@pytest.mark.slow
async def test_a_message_of_a_contract_nobody_has_written(siege: Siege) -> None:
    content = msgpack.unpackb(_plain(siege.bundle)) | {"v": 999}
    await siege.offer(msgpack.packb(content))
    await siege.assert_refused("E-PAYLOAD-MALFORMED")


def _plain(bundle: bytes) -> bytes:
    return zstandard.decompress(bundle, max_output_size=4 << 20)


async def test_a_document_exchanged_under_its_digest(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0)
    bundle = siege.fleet.offered(second, siege.current)
    documents = decode(ManifestBundle, bundle).documents
    swapped = {**documents, second.digest: documents[siege.current.digest]}
    await siege.offer(altered(bundle, documents=swapped))
    await siege.assert_refused("class_matches", trust_moves=True)
    assert not siege.box.store.has(second.digest)


# --- the fresh timestamp -------------------------------------------------------------------------


async def test_a_forged_fresh_timestamp(siege: Siege) -> None:
    forged = changed_inside(siege.fleet.roles["timestamp"], lambda s: s.update(version=10**6))
    siege.box.reconciler.take_fresh(fresh(forged), siege.box.now())
    await siege.looks()
    await siege.assert_refused("E-SIGNATURE")


@pytest.mark.slow
async def test_a_forged_fresh_timestamp_does_not_keep_the_next_manifest_out(siege: Siege) -> None:
    forged = changed_inside(siege.fleet.roles["timestamp"], lambda s: s.update(version=10**6))
    siege.box.reconciler.take_fresh(fresh(forged), siege.box.now())
    siege.fleet.resign()
    assert siege.box.take(siege.fleet.current(siege.current))
    await siege.assert_refused("E-SIGNATURE", trust_moves=True)


@pytest.mark.slow
async def test_a_fresh_timestamp_of_another_class(siege: Siege) -> None:
    siege.fleet.resign()
    other = fresh(siege.fleet.roles["timestamp"], hardware_class="camera-arm")
    siege.box.reconciler.take_fresh(other, siege.box.now())
    await siege.assert_refused("E-TOPIC-MISMATCH")


# --- the clock -----------------------------------------------------------------------------------


async def test_a_clock_set_back_to_1970(siege: Siege) -> None:
    siege.box.clock_offset = timedelta(days=-20_000)
    await siege.offer(later(siege))
    await siege.assert_refused("E-CLOCK-UNTRUSTED")


@pytest.mark.slow
async def test_a_clock_set_ahead_to_2100(siege: Siege) -> None:
    floor = siege.box.ledger.state.time_floor
    second = siege.fleet.model_release("1.1.0", factor=3.0)
    siege.box.clock_offset = timedelta(days=75 * 365)
    await siege.offer(siege.fleet.offered(second, siege.current))
    await siege.assert_refused("E-CLOCK-UNTRUSTED", trust_moves=True)
    assert siege.box.ledger.state.time_floor - floor < 86_400


async def test_an_online_key_cannot_push_the_time_floor_ahead(siege: Siege) -> None:
    """Only what is signed offline says when it was signed."""
    floor = siege.box.ledger.state.time_floor
    wish = desired_by(siege.fleet, 2, assigned(siege.current), issued=1 << 62)
    ahead = siege.fleet.now + timedelta(days=3000)
    timestamp = roles.make_timestamp(siege.fleet.roles["snapshot"], 50, ahead)
    signed = roles.sign(timestamp, [siege.fleet.online.timestamp])
    bundle = siege.fleet.current(siege.current)
    await siege.offer(altered(bundle, trust={"timestamp.json": signed}, desired=wish))
    assert siege.box.ledger.state.time_floor == floor
    assert siege.box.reconciler.clock_trusted
    await siege.assert_serves()
