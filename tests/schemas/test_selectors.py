"""The one syntax in which people name devices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_schemas.selectors import (
    REQUIREMENTS_MAX,
    SELECTOR_CHARS_MAX,
    VALUES_MAX,
    SelectorInvalid,
    Subject,
    parse,
)

KIOSK = Subject(
    device="kiosk-1",
    hardware_class="kiosk",
    site="harbour",
    presence="online",
    labels={"region": "eu", "class": "a-label-of-that-name"},
    notes={"owner": "ann", "region": "noted-otherwise"},
    running=frozenset({"vad", "vad@1.2.0"}),
    held=frozenset({"all"}),
    condition=frozenset({"disk-low"}),
)


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("  ", True),
        ("class=kiosk", True),
        ("class=kiosk,site in (a, harbour),region!=us,running=vad@1.2.0", True),
        ("class=kiosk,site in (a,b)", False),
        ("site notin (a,b)", True),
        ("region", True),
        ("!region", False),
        ("floor", False),
        ("!floor", True),
        ("floor!=2", True),
        ("running=vad", True),
        ("running=vad@1.3.0", False),
        ("running!=vad@1.3.0", True),
        ("presence=online", True),
        ("device in (kiosk-1,kiosk-2)", True),
        ("held", True),
        ("pinned", False),
        ("condition=disk-low", True),
        ("condition=clock-wrong", False),
        ("owner=ann", True),
        ("region=eu", True),
        ("region=noted-otherwise", False),
        ("label.class=a-label-of-that-name", True),
    ],
)
def test_a_selector_names_the_devices_that_meet_all_of_it(selector: str, matches: bool) -> None:
    assert parse(selector).matches(KIOSK) is matches


@pytest.mark.parametrize(
    ("selector", "position"),
    [
        ("class=", 6),
        ("=kiosk", 0),
        ("class=kiosk,", 12),
        ("class=kiosk site=a", 12),
        ("site in a", 8),
        ("site in (a", 10),
        ("site in ()", 9),
        ("class=kiosk;site=a", 11),
        ("Region=eu", 0),
        ("class ? a", 6),
        ("!!class", 1),
        ("class==a", 6),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(selector: str, position: int) -> None:
    with pytest.raises(SelectorInvalid) as refused:
        parse(selector)

    assert refused.value.position == position
    assert f"at character {position + 1}." in refused.value.what


@pytest.mark.parametrize(
    "selector",
    [
        "a" * (SELECTOR_CHARS_MAX + 1),
        ",".join(["a"] * (REQUIREMENTS_MAX + 1)),
        f"site in ({','.join(f's{n}' for n in range(VALUES_MAX + 1))})",
    ],
    ids=["characters", "requirements", "values"],
)
def test_the_bounds_of_a_selector_hold(selector: str) -> None:
    with pytest.raises(SelectorInvalid):
        parse(selector)


def test_as_much_as_is_allowed_is_read() -> None:
    assert len(parse(",".join(["a"] * REQUIREMENTS_MAX)).requirements) == REQUIREMENTS_MAX


@given(st.text(max_size=60))
def test_no_text_does_worse_than_to_be_refused(text: str) -> None:
    try:
        parse(text).matches(KIOSK)
    except SelectorInvalid as error:
        assert 0 <= error.position <= len(text)


def test_a_query_may_look_through_what_can_match_alone() -> None:
    wanted = parse("class in (a,b),class=a,site!=x")

    assert wanted.only("class") == {"a"}
    assert wanted.only("site") is None
