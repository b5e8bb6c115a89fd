"""Policies as they are written, and read by an agent that may be older than what wrote them."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from mailboat_schemas.documents.config import ConfigDocument
from mailboat_schemas.documents.fleet_document import canonical_json, document_digest
from mailboat_schemas.documents.hardware_class import HardwareClassSpec
from mailboat_schemas.documents.policy import PolicyDocument
from mailboat_schemas.documents.release import Compatibility
from mailboat_schemas.errors import MalformedPayload
from mailboat_schemas.fleet_documents import Listed, Place
from mailboat_schemas.overlays import (
    EffectiveConfig,
    Layer,
    Running,
    choose,
    effective,
    goes_with,
)
from mailboat_schemas.policy_rules import PolicyRange, PolicyRule, Staleness, rules_for
from mailboat_schemas.signed_policy import NO_POLICY, SignedPolicy
from signed_config import config_document
from signed_policies import policy_document
from trust_fleet import CLASS

ANY = Compatibility()


def written(**spec: Any) -> bytes:
    """As a newer writer would sign it."""
    content = json.loads(policy_document({"days_between": 3}).canonical_bytes())
    content["spec"] |= spec
    return canonical_json(content)


def test_what_is_not_given_is_not_in_the_signed_bytes() -> None:
    plain = policy_document({"days_between": 3, "staleness": {"minor_versions_behind_max": 1}})

    for later in (b"enforce", b"grace_hours", b"compatible", b"may_ignore"):
        assert later not in plain.canonical_bytes()


@pytest.mark.parametrize(
    "spec",
    [
        {"freeze": True},
        {"rules": [{"days_between": 3, "freeze": True}]},
        {"rules": [{"staleness": {"enforce": "stop", "freeze": 1}}]},
        {"compatible": {"freeze": ">=1"}},
    ],
)
def test_a_field_that_a_reader_does_not_know_is_passed_over_only_where_its_writer_says_so(
    spec: dict[str, Any],
) -> None:
    with pytest.raises(MalformedPayload, match="freeze"):
        PolicyDocument.parse_as_reader(written(**spec))
    with pytest.raises(MalformedPayload, match="freeze"):
        PolicyDocument.parse_as_reader(written(**spec, may_ignore=["another"]))

    read = PolicyDocument.parse_as_reader(written(**spec, may_ignore=["freeze"]))
    assert read.spec.rules[0] is not None


def test_a_field_that_a_reader_knows_is_never_passed_over() -> None:
    spec = {"rules": [{"days_between": 3}], "may_ignore": ["rules", "days_between"]}

    assert PolicyDocument.parse_as_reader(written(**spec)).spec.rules[0].days_between == 3


@pytest.mark.parametrize(
    "content",
    [
        b'{"spec":{"may_ignore":["a"]}}\n',
        b'[{"may_ignore":1}]\n',
        b'{"spec": {"may_ignore":[]}}',
        b'{"a":"may_ignore"',
        b'{"spec":{"may_ignore":{"a":1}}}\n',
        b'{"spec":{"may_ignore":["a"],"rules":[[1]],"compatible":3}}\n',
        b'{"spec":{"may_ignore":["a"],"rules":{"a":1}}}\n',
        b'{"spec":{"may_ignore":["a"],"rules":[{"windows":[7],"staleness":1}]}}\n',
    ],
)
def test_what_is_no_policy_at_all_is_refused_whatever_it_says_may_be_ignored(
    content: bytes,
) -> None:
    with pytest.raises(MalformedPayload):
        PolicyDocument.parse_as_reader(content)


def test_bounds_of_enforcement_are_checked_where_it_is_written() -> None:
    for wrong in ({"enforce": "shout"}, {"grace_hours": -1}, {"grace_hours": 24 * 365 + 1}):
        with pytest.raises(ValidationError):
            policy_document({"staleness": wrong})
    with pytest.raises(ValidationError):
        policy_document({"days_between": 1}, may_ignore=[f"f{n}" for n in range(33)])


# --- what a policy is for ------------------------------------------------------------------------


def config(version: str) -> EffectiveConfig:
    document: ConfigDocument = config_document(version)
    content = document.canonical_bytes()
    place = Place("config", document.metadata.level, CLASS)
    listed = Listed(place=place, digest=document_digest(content), length=len(content))
    return effective([Layer(listed=listed, document=document, content=content)])


def range_of(config: str = "", **models: str) -> PolicyRange:
    return PolicyRange(title="hours 2.0.0", models=models, config=config)


def test_a_release_outside_the_range_of_a_policy_is_not_installed_beside_it() -> None:
    choice = choose(config("1.0.0"), config("1.0.0"), (), ())
    wanted = (range_of(other=">=9"), range_of(vad=">=6,<7"))

    assert goes_with(choice, "vad", "6.2.0", ANY, "2.0.0", wanted)[0]
    assert goes_with(choice, "vad", "7.0.0", ANY, "2.0.0", wanted) == (
        False,
        "policy hours 2.0.0 is for vad >=6,<7, not for 7.0.0",
        "E-POLICY-RANGE",
    )


def test_a_config_outside_the_range_of_a_policy_waits() -> None:
    new, old = config("2.0.0"), config("1.0.0")
    running = (Running(model="vad", version="6.0.0", compatibility=ANY),)

    found = choose(new, old, (), running, "2.0.0", (range_of(config="<2"),))

    assert found.in_force.titles == "defaults 1.0.0"
    assert found.waiting is not None
    assert found.because == "config defaults 2.0.0 is not <2, as policy hours 2.0.0 needs"
    assert choose(new, old, (), running, "2.0.0", (range_of(),)).waiting is None


def test_what_the_controller_signs_for_a_class_stops_nothing() -> None:
    """Who has stolen it may ask for a warning; people with the key of the role say `stop`."""
    stop = PolicyRule(staleness=Staleness(minor_versions_behind_max=0, enforce="stop"))
    by_people = SignedPolicy(rules=(stop,))

    def enforced(policy: SignedPolicy, *assigned: PolicyRule) -> str:
        labels: dict[str, str] = {}
        who = {"device": "d", "hardware_class": CLASS, "site": "-"}
        return rules_for(policy.before(assigned), **who, labels=labels).staleness.enforce

    assert enforced(by_people) == "stop"
    assert enforced(NO_POLICY, stop) == "warn"
    assert enforced(by_people, PolicyRule(staleness=Staleness())) == "stop"
    spec = {"arch": "x86_64", "memory_budget": 1, "disk_budget": 1}
    for wrong in (
        {"staleness": {"enforce": "stop"}},
        {"rules": [{"staleness": {"enforce": "stop"}}]},
    ):
        with pytest.raises(ValidationError, match="in a signed Policy alone"):
            HardwareClassSpec.model_validate(spec | wrong)
