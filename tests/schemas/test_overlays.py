"""Config documents: bounds, canonical bytes, merging, and what goes with what."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mailboat_schemas.documents import config as config_module
from mailboat_schemas.documents.config import (
    KEY_CHARS_MAX,
    VALUES_DEPTH_MAX,
    VALUES_KEYS_MAX,
    ConfigDocument,
    problem_with_values,
)
from mailboat_schemas.documents.fleet_document import Level, strict_json
from mailboat_schemas.documents.release import Compatibility
from mailboat_schemas.errors import MalformedPayload, PayloadTooLarge
from mailboat_schemas.fleet_documents import Place, is_older, place_of
from mailboat_schemas.overlays import (
    ConfigChoice,
    ConfigRefused,
    EffectiveConfig,
    Layer,
    Running,
    choose,
    effective,
    goes_with,
    merge_patch,
)
from signed_config import config_document, listed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


def layer(document: ConfigDocument) -> Layer:
    return Layer(listed=listed(document), document=document, content=document.canonical_bytes())


def one(version: str = "1.0.0", values: Any = None, **more: Any) -> EffectiveConfig:
    return effective([layer(config_document(version, values, **more))])


def running(version: str, config: str = "", model: str = "vad") -> Running:
    return Running(model=model, version=version, compatibility=Compatibility(config=config))


# Source: RFC 7386, appendix A.
@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merging_is_that_of_rfc_7386(target: Any, patch: Any, merged: Any) -> None:
    before = json.dumps(target)

    assert merge_patch(target, patch) == merged
    assert json.dumps(target) == before


@settings(max_examples=40)
@given(VALUES, VALUES)
def test_merging_a_patch_twice_is_merging_it_once(target: Any, patch: Any) -> None:
    once = merge_patch(target, patch)

    assert merge_patch(once, patch) == once


def test_the_digest_depends_on_the_values_and_not_on_the_order_of_documents() -> None:
    of_class = layer(config_document(values={"a": 1, "b": 1}))
    of_site = layer(config_document(values={"b": 2}, level="site", target="harbour"))

    assert effective([of_class, of_site]).digest == effective([of_site, of_class]).digest
    assert effective([of_class, of_site]).values == {"a": 1, "b": 2}


def test_merged_values_are_held_to_the_bounds_of_one_document() -> None:
    a = layer(config_document(values={"a": "x" * 40_000}))
    b = layer(config_document(values={"b": "y" * 40_000}, level="site", target="harbour"))

    with pytest.raises(ConfigRefused, match="80016 bytes, at most 65536"):
        effective([a, b])


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([], "an object"),
        ({"a": float("nan")}, "finite"),
        ({"a": [float("inf")]}, "finite"),
        ({"a": 1 << 60}, "beyond"),
        ({"": 1}, "a name"),
        ({"x" * (KEY_CHARS_MAX + 1): 1}, "a name"),
        ({7: 1}, "a name"),
        ({"a": "\ud800"}, "Unicode"),
        ({"a": b"x"}, "bytes is not"),
        ({"a": {1, 2}}, "set is not"),
        (deep(VALUES_DEPTH_MAX + 1), "deep"),
        (deep(100_000), "deep"),
        ({str(n): n for n in range(VALUES_KEYS_MAX + 1)}, "names"),
        ({"a": [0] * 1_000_000}, "names"),
    ],
)
def test_values_beyond_the_bounds_are_refused(values: Any, problem: str) -> None:
    assert problem in problem_with_values(values)


def test_values_at_the_bounds_are_taken() -> None:
    many = {str(n): n for n in range(VALUES_KEYS_MAX)}

    assert problem_with_values(many) == ""
    assert problem_with_values(deep(VALUES_DEPTH_MAX)) == ""
    assert problem_with_values({"a": 1 << 53, "b": -0.5, "c": None, "d": True, "e": "ü"}) == ""


def test_a_document_reads_its_own_canonical_bytes_and_no_others() -> None:
    content = config_document(values={"b": 1, "a": {"z": None}}).canonical_bytes()

    assert ConfigDocument.parse(content).canonical_bytes() == content
    with pytest.raises(MalformedPayload, match="canonical"):
        ConfigDocument.parse(content.replace(b",", b", "))
    with pytest.raises(PayloadTooLarge):
        ConfigDocument.parse(b" " * (ConfigDocument.bytes_max + 1))


def test_values_of_more_bytes_than_there_may_be_are_refused() -> None:
    with pytest.raises(ValidationError, match=f"at most {config_module.VALUES_BYTES_MAX}"):
        config_document(values={"a": "x" * config_module.VALUES_BYTES_MAX})


@pytest.mark.parametrize(
    "content",
    [b'{"a":1,"a":2}', b'{"a":{"b":1,"b":1}}', b"NaN", b"-Infinity", b"[" * 9999, b"\xff"],
)
def test_json_that_readers_disagree_about_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedPayload):
        strict_json(content)


def test_a_name_that_stands_twice_behind_thousands_is_found_at_once() -> None:
    names = ",".join(f'"{number}":1' for number in range(8000))
    began = time.process_time()

    with pytest.raises(MalformedPayload, match="'last' stands twice"):
        strict_json(f'{{{names},"last":1,"last":2}}'.encode())
    assert time.process_time() - began < 1  # looking through all for each takes seconds


@pytest.mark.parametrize("version", ["1.0", "1.0.0-rc.1", "01.0.0", "1.0.0.0", "v1.0.0", ""])
def test_a_version_is_three_numbers(version: str) -> None:
    with pytest.raises(ValidationError):
        config_document(version)


@pytest.mark.parametrize(
    "path",
    [
        "config/class.a.b.json",
        "config/fleet.a.json",
        "release/a/1.0.0.json",
        "config/class.-a.json",
    ],
)
def test_a_path_that_is_no_place_is_none(path: str) -> None:
    assert place_of(path) is None
    assert place_of("config/site.harbour.json") == Place("config", Level.SITE, "harbour")


def test_documents_are_ordered_by_epoch_and_then_by_version_as_numbers() -> None:
    assert is_older((0, "1.9.0"), (0, "1.10.0"))
    assert not is_older((1, "0.1.0"), (0, "9.0.0"))
    assert not is_older((0, "1.0.0"), (0, "1.0.0"))


def test_a_release_needs_every_document_of_the_config_in_its_range() -> None:
    asks = Compatibility(config=">=1,<2")

    assert goes_with(ConfigChoice(in_force=one("1.4.0")), "vad", "6.0.0", asks, None)[0]
    passed, because, code = goes_with(
        ConfigChoice(in_force=one("2.0.0")), "vad", "6.0.0", asks, None
    )
    assert (passed, code) == (False, "E-CONFIG-RANGE")
    assert because == "config defaults 2.0.0 is not >=1,<2, as vad 6.0.0 needs"
    nothing = goes_with(ConfigChoice(in_force=EffectiveConfig()), "vad", "6.0.0", asks, None)
    assert nothing[1] == "vad 6.0.0 needs config >=1,<2, and there is none"


def test_a_config_names_the_releases_it_is_for() -> None:
    choice = ConfigChoice(in_force=one(models={"vad": ">=6,<7"}))

    assert goes_with(choice, "vad", "6.1.0", Compatibility(), None)[0]
    assert goes_with(choice, "heat", "1.0.0", Compatibility(), None)[0]
    passed, because, _ = goes_with(choice, "vad", "7.0.0", Compatibility(), None)
    assert (passed, because) == (False, "config defaults 1.0.0 is for vad >=6,<7, not for 7.0.0")


def test_a_release_asks_for_a_policy_too() -> None:
    asks, choice = Compatibility(policy=">=2"), ConfigChoice(in_force=EffectiveConfig())

    assert goes_with(choice, "vad", "1.0.0", asks, "2.1.0")[0]
    assert goes_with(choice, "vad", "1.0.0", asks, "1.0.0")[2] == "E-POLICY-RANGE"
    assert goes_with(choice, "vad", "1.0.0", asks, None)[2] == "E-POLICY-RANGE"


def test_a_release_may_come_with_the_config_that_waits_for_it_and_for_nothing_else() -> None:
    old, new = one("1.0.0"), one("2.0.0")
    asks = Compatibility(config=">=2")

    waits = choose(new, old, (), [running("6.0.0", "<2")])
    assert (waits.in_force, waits.waiting, waits.kept_by) == (old, new, {"vad"})
    assert goes_with(waits, "vad", "7.0.0", asks, None)[0]
    both = choose(new, old, (), [running("6.0.0", "<2"), running("1.0.0", "<2", "heat")])
    assert not goes_with(both, "vad", "7.0.0", asks, None)[0]


def test_where_nothing_goes_with_what_runs_what_is_in_force_stays() -> None:
    old, new = one("1.0.0"), one("2.0.0")

    choice = choose(new, old, (one("1.1.0"),), [running("6.0.0", ">=9")])

    assert (choice.in_force, choice.waiting) == (old, new)


def test_a_config_waits_for_the_policy_it_needs() -> None:
    old, new = one("1.0.0"), one("1.1.0", policy=">=3")

    assert choose(new, old, (), [], "2.0.0").in_force == old
    assert choose(new, old, (), [], None).kept_by == {""}
    assert choose(new, old, (), [], "3.0.0").in_force == new
