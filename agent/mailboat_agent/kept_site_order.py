"""The order of a device's site as it lies on the disk, and what it says to whoever only looks: the
agent's commands, which need neither its process nor a network.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter

from mailboat_agent.device_rules import policy_of
from mailboat_agent.facts import Device
from mailboat_agent.trust.kept_manifests import read_bounded
from mailboat_agent.trust.manifest import Manifest
from mailboat_schemas.documents.site_key import SiteKey
from mailboat_schemas.errors import MailboatError, NotFound, PayloadTooLarge
from mailboat_schemas.names import DIRECT_SITE
from mailboat_schemas.site_orders import OpenedOrder, SiteOrderOld, open_site_order
from mailboat_schemas.topics import TOPICS, Channel

FILE_NAME = "site-order.json"
PAYLOAD_BYTES_MAX = TOPICS[Channel.SITE_ORDER].payload_bytes_max
FILE_BYTES_MAX = 4 * PAYLOAD_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is on the disk. ``taken_at`` is in seconds since 1970 UTC, 0 while this device's clock
    cannot be right; ``counters`` by site and key id: a device may come to another site whose key is
    the same."""

    counters: Mapping[str, int] = field(default_factory=dict)
    taken_at: int = 0
    envelope: str = ""  # base64

    @property
    def payload(self) -> bytes:
        """Raises ValueError."""
        try:
            return base64.b64decode(self.envelope, validate=True)
        except binascii.Error as error:
            raise ValueError("it is not base64") from error


KEPT = TypeAdapter(Kept)


def read_kept(data_dir: Path) -> Kept:
    """Raises OSError, ValueError: it is damaged."""
    try:
        return KEPT.validate_json(read_bounded(data_dir / FILE_NAME, FILE_BYTES_MAX))
    except FileNotFoundError:
        return Kept()


def kept_or_nothing(data_dir: Path) -> Kept:
    """For who only looks."""
    try:
        return read_kept(data_dir)
    except (OSError, ValueError):
        return Kept()


def refuse_old(opened: OpenedOrder, kept: Kept, keys: tuple[SiteKey, ...]) -> None:
    """
    Raises:
        SiteOrderOld: a key that is named now has signed this counter, or a higher one.
    """
    named = {counted_as(opened.order.site, each) for each in keys}
    newest = max((n for key, n in kept.counters.items() if key in named), default=0)
    if opened.order.counter <= newest:
        raise SiteOrderOld(
            f"Order {opened.order.counter} of site {opened.order.site} is not newer than {newest}, "
            "which this device has taken.",
            next_step="sign the next one on the newest: give its file with --out, or where that is "
            f"lost its counter with `--after {newest}`.",
        )


def standing_offline(
    data_dir: Path, device: Device, manifest: Manifest, now: datetime
) -> OpenedOrder | None:
    """What stood when the agent last wrote it, by what ``manifest`` says; sets
    ``device.site_order``."""
    kept, keys = kept_or_nothing(data_dir), policy_of(device, manifest).site_keys or ()
    if not kept.envelope:
        return None
    try:
        opened = opened_for(kept.payload, keys, device, now)
    except (ValueError, MailboatError):
        return None
    device.site_order = opened.standing(now, taken_at=kept.taken_at)
    return opened


def judge(
    payload: bytes, data_dir: Path, device: Device, manifest: Manifest, now: datetime
) -> OpenedOrder:
    """What the agent will say to an order that somebody brings; the one that it has is no news.

    Raises: as `SiteOrders.take`.
    """
    kept, keys = kept_or_nothing(data_dir), policy_of(device, manifest).site_keys or ()
    opened = opened_for(payload, keys, device, now)
    if kept.envelope != base64.b64encode(payload).decode():
        refuse_old(opened, kept, keys)
    return opened


def opened_for(
    payload: bytes, keys: tuple[SiteKey, ...], device: Device, now: datetime | None
) -> OpenedOrder:
    # An envelope of any kind may be longer, and what one may add to it is no part of the order: it
    # must fit into the file that is read back.
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge("SiteOrder", len(payload), PAYLOAD_BYTES_MAX)
    if device.site == DIRECT_SITE:
        raise NotFound(
            "This device belongs to no site, so no site orders anything here.",
            next_step="hold it from the centre: `mailboat device hold`.",
        )
    return open_site_order(payload, keys, fleet=device.fleet, site=device.site, now=now)


def counted_as(site: str, key: SiteKey) -> str:
    return f"{site}/{key.key.keyid}"
