"""Who has stolen keys: those of CI, of an approver, of the controller; and who lost them for good.

Each thief gets as far as DESIGN section 4 says, and no further.
"""

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Targets

from attack_forgery import (
    APPROVAL,
    RELEASE,
    altered,
    approvers,
    change_targets,
    desired_by,
    fewer_signatures,
    file_of,
    key_of,
    next_root,
    pin_versions,
    pinned,
    rotate_online,
    signed_again,
    signed_twice,
)
from attack_siege import Siege
from mailboat_agent.trust.role_versions import VERSION_STEP_MAX
from mailboat_controller.authority import roles
from mailboat_schemas.desired import Assignment, Offer, OfferWave, ReleaseRef
from mailboat_schemas.documents.release import ReleaseDocument, document_digest
from mailboat_schemas.plan import Plan, PlanWave
from model_fleet import DEVICE, MODEL, ModelFleet

PPM = 1_000_000
EVERYBODY = "f" * 16
A_DAY = 86_400


def approve(fleet: ModelFleet, ref: ReleaseRef, plan: Plan, *signers: CryptoSigner) -> None:
    """The approval role with this release on this plan, and pinned."""
    fleet.roles[APPROVAL] = roles.add_approval(
        fleet.roles[APPROVAL],
        signers or [key_of(fleet, f"approver/{MODEL}")],
        model=MODEL,
        version=ref.version,
        document=fleet.documents[ref.digest],
        plan=plan.to_custom(),
        now=fleet.now,
    )
    fleet.resign()


def planned(*waves: PlanWave, **more: object) -> Plan:
    return Plan.model_validate({"rollout": "careful", "waves": waves, **more})


def offer(siege: Siege, ref: ReleaseRef, *waves: OfferWave) -> bytes:
    """What the controller makes of it."""
    opened = waves or (OfferWave(upto=EVERYBODY, roster=100),)
    wish = Offer(release=ref, rollout="careful", waves=opened)
    return siege.fleet.bundle(Assignment(model=MODEL, current=siege.current, offer=wish))


# --- the key of CI -------------------------------------------------------------------------------


async def test_ci_releases_and_nobody_approves(siege: Siege) -> None:
    rogue = siege.fleet.model_release("6.6.6", factor=6.0, approve=False)
    await siege.offer(siege.fleet.offered(rogue, siege.current))
    await siege.assert_refused("E-NOT-APPROVED", trust_moves=True)


async def test_ci_approves_its_own_release(siege: Siege) -> None:
    rogue = siege.fleet.model_release("6.6.6", factor=6.0, approve=False)
    everybody = planned(PlanWave(count_ppm=PPM, cap_ppm=PPM))
    approve(siege.fleet, rogue, everybody, key_of(siege.fleet, f"ci/{MODEL}"))
    await siege.offer(siege.fleet.offered(rogue, siege.current))
    await siege.assert_refused("E-SIGNATURE")


async def test_ci_exchanges_the_bytes_of_a_version_that_was_approved(siege: Siege) -> None:
    siege.fleet.model_release("1.1.0", factor=3.0)
    other = siege.fleet.model_release("1.1.0", factor=6.0, approve=False)
    await siege.offer(siege.fleet.offered(other, siege.current))
    await siege.assert_refused("E-APPROVED-OTHER", trust_moves=True)


@pytest.mark.slow
async def test_ci_empties_its_role_and_with_it_no_device(siege: Siege) -> None:
    """Only the approver withdraws."""
    emptied = roles.empty_role(siege.fleet.now, roles.RELEASE_ROLE_VALID)
    emptied.version = 3
    siege.fleet.roles[RELEASE] = roles.sign(emptied, [key_of(siege.fleet, f"ci/{MODEL}")])
    siege.fleet.resign()
    await siege.offer(siege.fleet.current(siege.current))
    assert siege.alarms() == []
    await siege.assert_serves()


async def test_ci_releases_for_another_model(siege: Siege) -> None:
    """What stands under another model's path in this model's role is never looked up."""
    content = siege.fleet.documents[siege.current.digest]
    siege.fleet.roles[RELEASE] = roles.add_release(
        siege.fleet.roles[RELEASE],
        key_of(siege.fleet, f"ci/{MODEL}"),
        model="asr",
        version="1.0.0",
        document=content,
        now=siege.fleet.now,
    )
    siege.fleet.resign()
    ref = ReleaseRef(version="1.0.0", digest=siege.current.digest)
    wish = Assignment(model="asr", current=ref)
    await siege.offer(siege.fleet.bundle(Assignment(model=MODEL, current=siege.current), wish))
    assert siege.box.ledger.model("asr").active is None
    await siege.assert_refused("E-NOT-RELEASED", trust_moves=True)


# --- thresholds ----------------------------------------------------------------------------------


async def test_threshold_minus_one_of_the_approvers(siege: Siege) -> None:
    two = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    approvers(siege.fleet, *two, threshold=2)
    await siege.advance(siege.fleet.current(siege.current))
    rogue = siege.fleet.model_release("6.6.6", factor=6.0, approve=False)
    approve(siege.fleet, rogue, planned(PlanWave(cap_ppm=PPM)), two[0])
    await siege.offer(siege.fleet.offered(rogue, siege.current))
    await siege.assert_refused("E-THRESHOLD")


@pytest.mark.slow
async def test_threshold_met_by_the_same_key_twice(siege: Siege) -> None:
    two = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    approvers(siege.fleet, *two, threshold=2)
    await siege.advance(siege.fleet.current(siege.current))
    rogue = siege.fleet.model_release("6.6.6", factor=6.0, approve=False)
    approve(siege.fleet, rogue, planned(PlanWave(cap_ppm=PPM)), two[0])
    bundle = siege.fleet.offered(rogue, siege.current)
    twice = signed_twice(siege.fleet.roles[APPROVAL])
    await siege.offer(altered(bundle, trust={file_of(bundle, APPROVAL): twice}))
    await siege.assert_refused("E-THRESHOLD")


@pytest.mark.slow
async def test_threshold_filled_up_with_a_key_nobody_named(siege: Siege) -> None:
    two = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    approvers(siege.fleet, *two, threshold=2)
    await siege.advance(siege.fleet.current(siege.current))
    rogue = siege.fleet.model_release("6.6.6", factor=6.0, approve=False)
    own = CryptoSigner.generate_ed25519()
    approve(siege.fleet, rogue, planned(PlanWave(cap_ppm=PPM)), two[0], own)
    await siege.offer(siege.fleet.offered(rogue, siege.current))
    await siege.assert_refused("E-THRESHOLD")


@pytest.mark.slow
async def test_threshold_minus_one_of_the_root(siege: Siege) -> None:
    second = CryptoSigner.generate_ed25519()

    def two_of_two(root: object) -> None:
        root.add_key(second.public_key, "root")  # type: ignore[attr-defined]
        root.roles["root"].threshold = 2  # type: ignore[attr-defined]

    both = next_root(siege.fleet, two_of_two)
    siege.fleet.roots.append(signed_again(both, key_of(siege.fleet, "offline/root"), second))
    siege.fleet.resign()
    await siege.advance(siege.fleet.current(siege.current))
    alone = next_root(siege.fleet)
    siege.fleet.resign()
    siege.fleet.roots.append(alone)
    await siege.offer(siege.fleet.current(siege.current))
    await siege.assert_refused("E-THRESHOLD")


@pytest.mark.slow
async def test_a_signature_taken_off_a_role_that_needs_it(siege: Siege) -> None:
    siege.fleet.resign()
    bundle = siege.fleet.current(siege.current)
    bare = fewer_signatures(siege.fleet.roles["snapshot"], 0)
    pinned(siege.fleet, bare)
    name = file_of(bundle, "snapshot")
    timestamp = siege.fleet.roles["timestamp"]
    await siege.offer(altered(bundle, trust={name: bare, "timestamp.json": timestamp}))
    await siege.assert_refused("E-SIGNATURE")


# --- retired keys --------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_retired_key_of_an_approver(siege: Siege) -> None:
    retired = key_of(siege.fleet, f"approver/{MODEL}")
    approvers(siege.fleet, CryptoSigner.generate_ed25519(), threshold=1)
    await siege.advance(siege.fleet.current(siege.current))
    rogue = siege.fleet.model_release("6.6.6", factor=6.0, approve=False)
    approve(siege.fleet, rogue, planned(PlanWave(cap_ppm=PPM)), retired)
    await siege.offer(siege.fleet.offered(rogue, siege.current))
    await siege.assert_refused("E-SIGNATURE")


async def test_a_retired_key_of_the_timestamp(siege: Siege) -> None:
    retired = siege.fleet.online.timestamp
    rotate_online(siege.fleet, "timestamp")
    siege.fleet.resign()
    await siege.advance(siege.fleet.current(siege.current))
    siege.fleet.resign()
    bundle = siege.fleet.current(siege.current)
    old = signed_again(siege.fleet.roles["timestamp"], retired)
    await siege.offer(altered(bundle, trust={"timestamp.json": old}))
    await siege.assert_refused("E-SIGNATURE")


@pytest.mark.slow
async def test_a_retired_key_of_the_root(siege: Siege) -> None:
    new = CryptoSigner.generate_ed25519()
    old = key_of(siege.fleet, "offline/root")

    def exchange(root: object) -> None:
        root.revoke_key(old.public_key.keyid, "root")  # type: ignore[attr-defined]
        root.add_key(new.public_key, "root")  # type: ignore[attr-defined]

    siege.fleet.roots.append(signed_again(next_root(siege.fleet, exchange), old, new))
    siege.fleet.resign()
    await siege.advance(siege.fleet.current(siege.current))
    siege.fleet.roots.append(next_root(siege.fleet))  # by the old key
    siege.fleet.resign()
    await siege.offer(siege.fleet.current(siege.current))
    await siege.assert_refused("E-SIGNATURE")


@pytest.mark.slow
async def test_ten_skipped_rotations_are_walked_one_by_one(siege: Siege) -> None:
    """Not an attack: a device that was in a cupboard."""
    for _ in range(5):
        rotate_online(siege.fleet, "timestamp")
        rotate_online(siege.fleet, "snapshot")
    siege.fleet.resign()
    await siege.advance(siege.fleet.current(siege.current))
    assert siege.box.trust.view().versions()["root"] == 11
    assert siege.alarms() == []
    await siege.assert_serves()


# --- the online keys of the controller -----------------------------------------------------------


async def test_fast_forward_of_the_timestamp(siege: Siege) -> None:
    ahead = 1 + VERSION_STEP_MAX + siege.box.trust.view().versions()["timestamp"]
    timestamp = roles.make_timestamp(siege.fleet.roles["snapshot"], ahead, siege.fleet.now)
    siege.fleet.roles["timestamp"] = roles.sign(timestamp, [siege.fleet.online.timestamp])
    await siege.offer(siege.fleet.current(siege.current))
    await siege.assert_refused("E-FAST-FORWARD")


@pytest.mark.slow
async def test_fast_forward_of_the_counter_of_wishes(siege: Siege) -> None:
    siege.fleet.counter = 1 + VERSION_STEP_MAX
    siege.fleet.resign()
    await siege.offer(siege.fleet.current(siege.current))
    await siege.assert_refused("E-FAST-FORWARD", trust_moves=True)
    assert siege.box.ledger.state.manifest_counter < VERSION_STEP_MAX


@pytest.mark.slow
async def test_fast_forward_step_by_step_is_cured_by_a_new_key(siege: Siege) -> None:
    """Not refused, and not for ever: rotating the stolen key lets its owner count anew."""
    honest = siege.fleet.roles["timestamp"]
    ahead = VERSION_STEP_MAX + siege.box.trust.view().versions()["timestamp"]
    timestamp = roles.make_timestamp(siege.fleet.roles["snapshot"], ahead, siege.fleet.now)
    siege.fleet.roles["timestamp"] = roles.sign(timestamp, [siege.fleet.online.timestamp])
    assert siege.box.take(siege.fleet.current(siege.current))
    siege.fleet.roles["timestamp"] = honest
    rotate_online(siege.fleet, "timestamp")
    siege.fleet.resign()
    assert siege.box.take(siege.fleet.current(siege.current))
    assert siege.box.trust.view().versions()["timestamp"] < VERSION_STEP_MAX
    await siege.assert_serves()


@pytest.mark.slow
async def test_a_stolen_controller_brings_an_old_approval_back(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0)
    approved = siege.fleet.roles[APPROVAL]
    siege.fleet.withdraw("1.1.0")
    await siege.advance(siege.fleet.current(siege.current))
    siege.fleet.roles[APPROVAL] = approved
    pin_versions(siege.fleet, approval_vad=3)
    await siege.offer(siege.fleet.offered(second, siege.current))
    await siege.assert_refused("E-ROLLBACK")


@pytest.mark.slow
async def test_a_stolen_controller_hides_a_role_in_its_snapshot(siege: Siege) -> None:
    pin_versions(siege.fleet, approval_vad=None)
    await siege.offer(siege.fleet.current(siege.current))
    await siege.assert_refused("E-METADATA-MISSING")


async def test_a_stolen_controller_names_a_release_nobody_signed(siege: Siege) -> None:
    content = ReleaseDocument.parse(siege.fleet.documents[siege.current.digest])
    rogue = content.model_copy(update={"version": "6.6.6"}).canonical_bytes()
    ref = ReleaseRef(version="6.6.6", digest=document_digest(rogue))
    siege.fleet.documents[ref.digest] = rogue
    siege.fleet.resign()
    await siege.offer(siege.fleet.current(ref))
    await siege.assert_refused("E-NOT-RELEASED", trust_moves=True)


async def test_a_stolen_controller_delegates_approval_to_itself(siege: Siege) -> None:
    def usurp(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        targets.add_key(siege.fleet.online.director.public_key, APPROVAL)

    genuine = siege.fleet.roles["targets"]
    change_targets(siege.fleet, usurp)
    forged = signed_again(siege.fleet.roles["targets"], siege.fleet.online.snapshot)
    assert forged != genuine
    siege.fleet.roles["targets"] = forged
    await siege.offer(siege.fleet.current(siege.current))
    await siege.assert_refused("E-SIGNATURE")


async def test_a_stolen_controller_opens_a_wave_wider_than_approved(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0, approve=False)
    approve(siege.fleet, second, planned(PlanWave(count=1, cap_ppm=10), PlanWave(cap_ppm=PPM)))
    await siege.offer(offer(siege, second, OfferWave(upto=EVERYBODY, roster=100)))
    await siege.assert_refused("E-PLAN-WIDENED", trust_moves=True)


@pytest.mark.slow
async def test_a_stolen_controller_opens_more_waves_than_approved(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0, approve=False)
    approve(siege.fleet, second, planned(PlanWave(count=1, cap_ppm=10)))
    narrow = OfferWave(upto="", roster=100)
    await siege.offer(offer(siege, second, narrow, OfferWave(upto=EVERYBODY, roster=100)))
    await siege.assert_refused("E-PLAN-WAVES", trust_moves=True)


@pytest.mark.slow
async def test_a_stolen_controller_names_pilots_nobody_approved(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0, approve=False)
    approve(siege.fleet, second, planned(PlanWave(pilots=("lab-1",)), PlanWave(cap_ppm=PPM)))
    await siege.offer(offer(siege, second, OfferWave(upto="", roster=100, pilots=(DEVICE,))))
    await siege.assert_refused("E-PLAN-PILOTS", trust_moves=True)


@pytest.mark.slow
async def test_a_stolen_controller_skips_to_a_wave_before_its_time(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0, approve=False)
    tomorrow = int(siege.fleet.now.timestamp()) + A_DAY
    careful = planned(PlanWave(count=1, cap_ppm=1), PlanWave(cap_ppm=PPM, earliest=tomorrow))
    approve(siege.fleet, second, careful)
    narrow = OfferWave(upto="", roster=100)
    await siege.offer(offer(siege, second, narrow, OfferWave(upto=EVERYBODY, roster=100)))
    await siege.assert_refused("E-PLAN-EARLY", trust_moves=True)


@pytest.mark.slow
async def test_a_stolen_controller_leaves_out_the_wave_before(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0, approve=False)
    approve(siege.fleet, second, planned(PlanWave(pilots=("lab-1",)), PlanWave(cap_ppm=PPM)))
    unopened = OfferWave(upto="", roster=0)
    await siege.offer(offer(siege, second, unopened, OfferWave(upto=EVERYBODY, roster=100)))
    await siege.assert_refused("E-PLAN-SKIPPED", trust_moves=True)


@pytest.mark.slow
async def test_a_stolen_controller_calls_a_release_current_before_its_first_wave(
    siege: Siege,
) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0, approve=False)
    tomorrow = int(siege.fleet.now.timestamp()) + A_DAY
    approve(siege.fleet, second, planned(PlanWave(cap_ppm=PPM, earliest=tomorrow)))
    await siege.offer(siege.fleet.current(second))
    await siege.assert_refused("E-PLAN-EARLY", trust_moves=True)


@pytest.mark.slow
async def test_a_stolen_controller_calls_a_release_current_for_those_of_later_waves(
    siege: Siege,
) -> None:
    """It may name the pilots' release current; who is no pilot waits for its own wave."""
    second = siege.fleet.model_release("1.1.0", factor=3.0, approve=False)
    tomorrow = int(siege.fleet.now.timestamp()) + A_DAY
    approve(
        siege.fleet,
        second,
        planned(PlanWave(pilots=("lab-1",)), PlanWave(cap_ppm=PPM, earliest=tomorrow)),
    )
    await siege.offer(siege.fleet.current(second))
    assert "no wave of the plan lets it in" in siege.box.reconciler.loops[MODEL].because
    await siege.assert_serves()


@pytest.mark.slow
async def test_a_stolen_controller_walks_a_plan_that_has_expired(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0, approve=False)
    yesterday = int(siege.fleet.now.timestamp()) - A_DAY
    approve(siege.fleet, second, planned(PlanWave(cap_ppm=PPM), expires=yesterday))
    await siege.offer(offer(siege, second))
    await siege.assert_refused("E-PLAN-EXPIRED", trust_moves=True)


@pytest.mark.slow
async def test_a_stolen_controller_gives_a_class_what_was_approved_for_another(
    siege: Siege,
) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0, approve=False)
    everybody = PlanWave(cap_ppm=PPM)
    approve(siege.fleet, second, planned(everybody, hardware_classes=("camera-arm",)))
    await siege.offer(siege.fleet.current(second))
    await siege.assert_refused("E-PLAN-CLASS", trust_moves=True)


@pytest.mark.slow
async def test_a_stolen_controller_goes_back_to_a_withdrawn_release(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0)
    await siege.box.install(siege.fleet.current(second), "1.1.0")
    siege.fleet.withdraw("1.0.0")
    assert siege.box.take(siege.fleet.current(second))
    await siege.looks()
    siege.remember()
    await siege.offer(siege.fleet.current(siege.current))
    assert "E-NOT-APPROVED" in [event.code for event in siege.alarms()]
    await siege.assert_serves("1.1.0", 3.0)


@pytest.mark.slow
async def test_a_stolen_controller_goes_back_below_the_security_version(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0, security_version=2)
    third = siege.fleet.model_release("1.2.0", factor=4.0, security_version=1)
    await siege.box.install(siege.fleet.current(second), "1.1.0")
    siege.remember()
    await siege.offer(siege.fleet.current(third))
    assert "E-DOWNGRADE" in [event.code for event in siege.alarms()]
    await siege.assert_serves("1.1.0", 3.0)


@pytest.mark.slow
async def test_a_stolen_controller_offers_again_what_failed_here(siege: Siege) -> None:
    broken = siege.fleet.model_release("1.1.0", model=b"no model at all")
    siege.box.take(siege.fleet.offered(broken, siege.current))
    await siege.box.until(lambda: "trial_failed 1.1.0" in siege.box.told())
    await siege.until_served()
    for _ in range(2):
        siege.fleet.resign()
        await siege.offer(siege.fleet.offered(broken, siege.current))
    assert siege.box.told().count("trial_started 1.1.0") == 1
    await siege.assert_serves()


@pytest.mark.slow
async def test_a_director_of_another_fleet_signs_for_this_one(
    siege: Siege, stranger: ModelFleet
) -> None:
    siege.fleet.resign()
    forged = desired_by(stranger, 50, Assignment(model=MODEL))
    await siege.offer(altered(siege.fleet.current(siege.current), desired=forged))
    await siege.assert_refused("E-SIGNATURE", trust_moves=True)
