"""The topic table: every topic, who speaks, QoS, retained or not, and how large a payload may be.

Up and down trees are apart, so that a site's bridge cannot echo; ``{site}`` is ``-`` for devices
that connect to the centre directly, which makes bridge and ACL scoping a prefix. A topic stays
under `TOPIC_LENGTH_ADVISED` characters with names of ordinary length: Grafana's MQTT source breaks
on long ones.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from mailboat_schemas.errors import WrongTopic
from mailboat_schemas.names import LABEL_PATTERN

ROOT = "mb/1"
TOPIC_LENGTH_ADVISED = 60
KIB = 1024


class Channel(StrEnum):
    """What a topic is for. The value is its name in the documentation and in AsyncAPI."""

    MANIFEST = "manifest"
    FRESH = "fresh"
    DESIRED = "desired"
    SITE_ORDER = "site-order"
    ACK = "ack"
    HELLO = "hello"
    REPORT = "report"
    EVENTS = "events"
    TELEMETRY = "telemetry"
    LOGS = "logs"
    STATUS = "status"
    SUBMIT = "submit"
    REPLY = "reply"
    STATS = "stats"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRule:
    """One row of the table. ``payload_bytes_max`` bounds what is on the wire, before unpacking."""

    template: str
    sender: Literal["controller", "device", "ci", "site"]
    qos: Literal[0, 1]
    retain: bool
    payload_bytes_max: int
    payload: str  # the model's name in this package, for the published contract
    summary: str


_DEVICE = ROOT + "/{fleet}/site/{site}/dev/{device}"

TOPICS: Mapping[Channel, TopicRule] = MappingProxyType(
    {
        Channel.MANIFEST: TopicRule(
            template=ROOT + "/{fleet}/class/{hardware_class}/manifest",
            sender="controller",
            qos=1,
            retain=True,
            payload_bytes_max=512 * KIB,
            payload="ManifestBundle",
            summary="Trust metadata, release documents and the desired state of one class.",
        ),
        Channel.FRESH: TopicRule(
            template=ROOT + "/{fleet}/class/{hardware_class}/fresh",
            sender="controller",
            qos=1,
            retain=True,
            payload_bytes_max=16 * KIB,
            payload="FreshTimestamp",
            summary="The timestamp role alone, signed again daily.",
        ),
        Channel.DESIRED: TopicRule(
            template=_DEVICE + "/dn/desired",
            sender="controller",
            qos=1,
            retain=True,
            payload_bytes_max=64 * KIB,
            payload="DeviceDesired",
            summary="What one device alone is asked, signed by the director: its log, holds, pins.",
        ),
        Channel.SITE_ORDER: TopicRule(
            template=ROOT + "/{fleet}/site/{site}/dn/order",
            sender="site",
            qos=1,
            retain=True,
            payload_bytes_max=16 * KIB,
            payload="SiteOrder",
            summary="What a site orders for its devices, signed with a key that its Policy names; "
            "at the site's own broker alone.",
        ),
        Channel.ACK: TopicRule(
            template=_DEVICE + "/dn/ack",
            sender="controller",
            qos=0,
            retain=False,
            payload_bytes_max=4 * KIB,
            payload="Ack",
            summary="On the controller's disk up to here; signed by the director.",
        ),
        Channel.HELLO: TopicRule(
            template=_DEVICE + "/up/hello",
            sender="device",
            qos=1,
            retain=False,
            payload_bytes_max=4 * KIB,
            payload="Hello",
            summary="What the outbox holds, signed by the device; answered by an ack.",
        ),
        Channel.REPORT: TopicRule(
            template=_DEVICE + "/up/report",
            sender="device",
            qos=1,
            retain=True,
            payload_bytes_max=64 * KIB,
            payload="ReportedState",
            summary="What runs now, signed by the device.",
        ),
        Channel.EVENTS: TopicRule(
            template=_DEVICE + "/up/events",
            sender="device",
            qos=1,
            retain=False,
            payload_bytes_max=128 * KIB,
            payload="EventBatch",
            summary="State events in sequence, signed by the device; never thinned.",
        ),
        Channel.TELEMETRY: TopicRule(
            template=_DEVICE + "/up/telemetry",
            sender="device",
            qos=1,
            retain=False,
            payload_bytes_max=256 * KIB,
            payload="TelemetryBatch",
            summary="Counters and latency sketches per window, signed by the device.",
        ),
        Channel.LOGS: TopicRule(
            template=_DEVICE + "/up/logs",
            sender="device",
            qos=1,
            retain=False,
            payload_bytes_max=128 * KIB,
            payload="LogExcerpt",
            summary="Log lines that were asked for, signed by the device.",
        ),
        Channel.STATUS: TopicRule(
            template=_DEVICE + "/st",
            sender="device",
            qos=1,
            retain=True,
            payload_bytes_max=4 * KIB,
            payload="Presence",
            summary="Birth and last will with a session number, signed by the device.",
        ),
        Channel.SUBMIT: TopicRule(
            template=ROOT + "/{fleet}/ci/{pipeline}/submit",
            sender="ci",
            qos=1,
            retain=False,
            payload_bytes_max=512 * KIB,
            payload="Submission",
            summary="A signed release and, or, its approval.",
        ),
        Channel.REPLY: TopicRule(
            template=ROOT + "/{fleet}/ci/{pipeline}/reply/{job}",
            sender="controller",
            qos=1,
            retain=False,
            payload_bytes_max=64 * KIB,
            payload="SubmissionReply",
            summary="Accepted or rejected, with reasons; JSON, so that a shell can read it.",
        ),
        Channel.STATS: TopicRule(
            template=ROOT + "/{fleet}/stats/{scope}/{name}",
            sender="controller",
            qos=0,
            retain=True,
            payload_bytes_max=16 * KIB,
            payload="RollUp",
            summary="Flat JSON for live panels.",
        ),
    }
)

# What a device may write below its own level, for brokers' rules.
SAID_BY_DEVICES = tuple(
    rule.template.removeprefix(f"{_DEVICE}/") for rule in TOPICS.values() if rule.sender == "device"
)

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LABEL = LABEL_PATTERN.strip("^$")


def _level(name: str) -> str:
    return f"(?P<{name}>-|{_LABEL})" if name == "site" else f"(?P<{name}>{_LABEL})"


def _pattern(template: str) -> re.Pattern[str]:
    parts = (
        _level(part[1:-1]) if part.startswith("{") else re.escape(part)
        for part in template.split("/")
    )
    return re.compile("/".join(parts))


_PATTERNS = {channel: _pattern(rule.template) for channel, rule in TOPICS.items()}
_NAMES = {channel: set(_PLACEHOLDER.findall(rule.template)) for channel, rule in TOPICS.items()}


@dataclass(frozen=True, slots=True)
class Topic:
    """A parsed topic: its channel and the names in its levels."""

    channel: Channel
    names: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.names[name]


def build(channel: Channel, **names: str) -> str:
    """The topic of a channel with its names filled in.

    Raises:
        WrongTopic: a name is missing, unknown, or cannot stand in a topic level.
    """
    template = TOPICS[channel].template
    wanted = _NAMES[channel]
    if wanted != names.keys():
        raise WrongTopic(
            f"Topic {channel} takes the names {sorted(wanted)}, not {sorted(names)}.",
            next_step="report this as a bug.",
        )
    text = template.format(**names)
    if _PATTERNS[channel].fullmatch(text) is None:
        raise WrongTopic(
            f"{names} cannot stand in a topic.",
            next_step="use lower-case letters, digits and inner hyphens, at most 63 characters.",
        )
    return text


def parse(text: str) -> Topic:
    """Which channel a topic belongs to.

    Raises:
        WrongTopic: it is none of ours.
    """
    for channel, pattern in _PATTERNS.items():
        found = pattern.fullmatch(text)
        if found is not None:
            return Topic(channel, MappingProxyType(found.groupdict()))
    raise WrongTopic(
        f"{text[:200]!r} is not a topic of this contract.",
        next_step="see docs/protocol.md for the topic table.",
    )


def subscription(channel: Channel, **names: str) -> str:
    """A topic filter: names that are given are fixed, the others become ``+``."""
    return _PLACEHOLDER.sub(lambda found: names.get(found[1], "+"), TOPICS[channel].template)
