"""The topic table, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_schemas import topics
from mailboat_schemas.codec import WireModel
from mailboat_schemas.errors import WrongTopic
from mailboat_schemas.names import LABEL_PATTERN
from mailboat_schemas.topics import TOPICS, Channel

NAMES = {
    "fleet": "demo",
    "hardware_class": "kiosk-x86",
    "site": "-",
    "device": "dev-1",
    "pipeline": "vision",
    "job": "7f",
    "scope": "class",
    "name": "kiosk-x86",
}


def names_of(channel: Channel) -> dict[str, str]:
    return {name: NAMES[name] for name in NAMES if "{" + name + "}" in TOPICS[channel].template}


@pytest.mark.parametrize("channel", Channel)
def test_every_topic_parses_back_to_its_channel_and_names(channel: Channel) -> None:
    topic = topics.parse(topics.build(channel, **names_of(channel)))

    assert topic.channel is channel
    assert dict(topic.names) == names_of(channel)


@pytest.mark.parametrize("channel", Channel)
def test_ordinary_names_keep_every_topic_under_sixty_characters(channel: Channel) -> None:
    assert len(topics.build(channel, **names_of(channel))) < topics.TOPIC_LENGTH_ADVISED


def test_every_payload_bound_in_the_table_covers_what_its_model_allows() -> None:
    models = {model.__name__: model for model in WireModel.__subclasses__()}
    for rule in TOPICS.values():
        if rule.payload in models:
            assert models[rule.payload].wire_bytes_max <= rule.payload_bytes_max, rule.payload


def test_what_is_retained_is_what_the_design_says() -> None:
    retained = {channel for channel, rule in TOPICS.items() if rule.retain}

    assert retained == {
        Channel.MANIFEST,
        Channel.FRESH,
        Channel.DESIRED,
        Channel.SITE_ORDER,
        Channel.REPORT,
        Channel.STATUS,
        Channel.STATS,
    }


@pytest.mark.parametrize("device", ["a/b", "+", "#", "..", "", "A", "a b", "x" * 64, "dev\n"])
def test_a_name_that_could_leave_its_level_is_refused(device: str) -> None:
    with pytest.raises(WrongTopic):
        topics.build(Channel.ACK, fleet="demo", site="-", device=device)


@pytest.mark.parametrize("text", ["", "mb/1/demo", "mb/2/demo/class/a/manifest", "$SYS/broker/x"])
def test_a_foreign_topic_is_refused(text: str) -> None:
    with pytest.raises(WrongTopic):
        topics.parse(text)


def test_a_missing_name_is_refused() -> None:
    with pytest.raises(WrongTopic, match="takes the names"):
        topics.build(Channel.ACK, fleet="demo")


def test_a_subscription_fixes_what_is_given_and_leaves_the_rest_open() -> None:
    assert topics.subscription(Channel.EVENTS, fleet="demo") == "mb/1/demo/site/+/dev/+/up/events"


@given(st.from_regex(LABEL_PATTERN, fullmatch=True))
def test_any_label_can_name_a_device(device: str) -> None:
    text = topics.build(Channel.ACK, fleet="f", site="-", device=device)

    assert topics.parse(text)["device"] == device
