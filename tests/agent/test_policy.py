"""Policies on a device: what people signed decides when it switches."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent_box import AgentBox, Play, device_facts
from mailboat_agent.artifacts.metered import Meter
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.device_rules import device_rules, policy_of
from mailboat_agent.facts import Device
from mailboat_agent.trust.manifest import Counter, Manifest
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_agent.update.steps import Keep
from mailboat_schemas.codec import encode
from mailboat_schemas.documents import policy
from mailboat_schemas.documents.fleet_document import Level
from mailboat_schemas.fleet_documents import Place
from model_fleet import CLASS, FLEET, MODEL, ModelFleet
from signed_policies import policy_document, sign_policy, window_in
from trust_fleet import TrustFleet

SITE = "harbour"
NIGHT = {"windows": [{"start": "02:00", "length_minutes": 60}]}


@pytest.fixture
def fleet_here(tmp_path: Path) -> TrustFleet:
    return TrustFleet(tmp_path / "ceremony")


def heard(fleet: TrustFleet, directory: Path) -> tuple[Device, Manifest]:
    trust = TrustStore(directory, fleet.factory_root)
    manifest = Manifest(
        trust=trust, store=ReleaseStore(directory), fleet=FLEET, hardware_class=CLASS
    )
    manifest.take(fleet.bundle(), [], Counter(0, ""))
    return device_facts(site=SITE, labels={"ring": "canary"}), manifest


def test_a_sites_rules_come_before_its_classes(fleet_here: TrustFleet, tmp_path: Path) -> None:
    canary = {"devices": "ring=canary", "days_between": 1}
    sign_policy(fleet_here, policy_document(canary, {"days_between": 30}, NIGHT))
    sign_policy(
        fleet_here, policy_document({"windows": []}, version="2.0.0", level="site", target=SITE)
    )
    sign_policy(fleet_here, policy_document({"days_between": 9}, level="site", target="other-site"))
    device, manifest = heard(fleet_here, tmp_path)

    rules = device_rules(device, manifest)
    assert rules.windows == ()
    assert rules.days_between == 1
    assert policy_of(device, manifest).titles == ("hours 2.0.0", "hours 1.0.0")


def test_a_policy_that_is_listed_and_has_not_come_keeps_windows_closed(
    fleet_here: TrustFleet, tmp_path: Path
) -> None:
    sign_policy(fleet_here, policy_document(NIGHT), brought=False)
    device, manifest = heard(fleet_here, tmp_path)

    assert "has not come yet" in device_rules(device, manifest).lacking


def test_a_policy_that_another_sent_along_counts_for_nothing(
    fleet_here: TrustFleet, tmp_path: Path
) -> None:
    entry = sign_policy(fleet_here, policy_document(NIGHT))
    fleet_here.documents[entry.digest] = policy_document({"windows": []}).canonical_bytes()
    device, manifest = heard(fleet_here, tmp_path)

    assert device_rules(device, manifest).lacking


def test_a_bundle_that_brings_what_a_stripped_one_lacked_is_news_and_no_other(
    fleet_here: TrustFleet, tmp_path: Path
) -> None:
    sign_policy(fleet_here, policy_document(NIGHT))
    device, manifest = heard(fleet_here, tmp_path)
    whole = fleet_here.bundle()
    bundle = fleet_here.read(whole)
    stripped = encode(bundle.model_copy(update={"documents": {}}))
    again = encode(bundle.model_copy(update={"documents": {"0" * 64: b"another"}}))
    counter = manifest.take(stripped, [], Counter(0, ""))
    assert counter is not None
    assert device_rules(device, manifest).lacking

    assert manifest.take(whole, [], counter) == counter
    assert device_rules(device, manifest).windows
    assert manifest.take(again, [], counter) is None
    assert device_rules(device, manifest).windows


def test_a_zone_unknown_on_the_device_closes_the_windows_that_need_it_alone(
    fleet_here: TrustFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {"start": "02:00", "length_minutes": 60, "zone": "Asia/Tokyo"}
    here = {"start": "02:00", "length_minutes": 60, "zone": "UTC"}
    sign_policy(
        fleet_here,
        policy_document({"devices": "ring=tokyo", "windows": [elsewhere]}, {"windows": [here]}),
    )
    monkeypatch.setattr(policy, "zone_named", lambda _name: None)
    device, manifest = heard(fleet_here, tmp_path)

    rules = device_rules(device, manifest)
    assert not rules.lacking
    assert [window.zone for window in rules.windows] == ["UTC"]
    with pytest.raises(ValidationError, match="there is no time zone"):
        policy_document({"windows": [elsewhere]})


@pytest.mark.slow
@pytest.mark.parametrize("download", ["in-window", "anytime"])
def test_an_agent_waits_for_its_window_and_installs_when_it_opens(
    play: Play, fleet: ModelFleet, download: str
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        window = window_in(box.now(), 2)
        sign_policy(fleet, policy_document({"windows": [window], "download": download}))
        # Nothing serves yet, so the first is not waited for.
        await box.install(fleet.current(a), "1.0.0")
        assert box.take(fleet.offered(b, a))
        loop = box.reconciler.loops[MODEL]
        await box.until(lambda: isinstance(loop.step, Keep) and "the next opens" in loop.because)
        assert (b.digest in loop.view.whole_releases()) == (download == "anytime")
        assert box.serving == "1.0.0"

        box.clock_offset = timedelta(hours=2, minutes=1)
        await box.until(lambda: box.committed("1.1.0"))
        assert box.state.switched_at == pytest.approx(box.now().timestamp(), abs=60)

    play(story)


@pytest.mark.slow
def test_over_a_metered_link_no_larger_file_comes_than_policy_lets(
    play: Play, fleet: ModelFleet, tmp_path: Path
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)
    secure = fleet.model_release("1.2.0", factor=4.0, security_version=1)

    async def story(box: AgentBox) -> None:
        box.meter = Meter(
            tmp_path,
            setting="yes",
            bytes_per_day=None,
            now=box.now,
            monotonic=asyncio.get_running_loop().time,
        )
        await box.restart()
        sign_policy(fleet, policy_document({"metered_file_bytes_max": 64}))
        await box.install(fleet.current(a), "1.0.0")  # nothing serves without it
        assert box.take(fleet.offered(b, a))
        loop = box.reconciler.loops[MODEL]
        await box.until(lambda: "up to 64 bytes" in loop.because)
        assert loop.waits_for_budget
        await box.install(fleet.offered(secure, a), "1.2.0")

    play(story)


def test_the_newest_policy_is_gone_by_also_after_it_has_expired(
    fleet_here: TrustFleet, tmp_path: Path
) -> None:
    """Else a device that comes back late would wait for documents that nobody sends any more."""
    sign_policy(fleet_here, policy_document({"days_between": 3}))
    _, manifest = heard(fleet_here, tmp_path)
    long_ago = fleet_here.now - timedelta(days=4000)
    fleet_here.documents.clear()
    sign_policy(fleet_here, policy_document({"days_between": 30}, version="1.1.0"), at=long_ago)

    device, manifest = heard(fleet_here, tmp_path)
    rules = device_rules(device, manifest)
    assert (rules.lacking, rules.days_between) == ("", 30)
    (tmp_path / "new").mkdir()
    first_heard = device_rules(*heard(fleet_here, tmp_path / "new"))
    assert first_heard.days_between == 30


def test_a_policy_that_is_listed_for_whom_it_is_not_meant_closes_the_windows(
    fleet_here: TrustFleet, tmp_path: Path
) -> None:
    """A role can list it anywhere: a class's rules are none of a site's."""
    of_site = Place("policy", Level.SITE, SITE)
    sign_policy(fleet_here, policy_document({"windows": []}), place=of_site)
    device, manifest = heard(fleet_here, tmp_path)

    assert "says that it is for another" in device_rules(device, manifest).lacking
