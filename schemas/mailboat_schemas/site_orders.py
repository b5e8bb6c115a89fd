"""What a site orders for its own devices while nobody at the centre can be reached. Pure.

A `SiteOrder` travels in a DSSE envelope, signed with a key that the Policy for this very site
names. It holds, or goes back to a release that is approved and on the device; it installs nothing,
and what has to be left is left all the same. Each order says all that stands, the newest counter
wins, and everything in it ends by itself. What the centre orders for a device alone goes before it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, ClassVar, Self, TypeVar

from packaging.version import InvalidVersion
from packaging.version import Version as PackagingVersion
from pydantic import AfterValidator, Field, model_validator

from mailboat_schemas.codec import WireModel, decode
from mailboat_schemas.device_orders import OVERRIDE_REASON_CHARS_MAX, Hold, Pin
from mailboat_schemas.documents.site_key import KEY_NAME_CHARS_MAX, KEY_NAME_PATTERN, SiteKey
from mailboat_schemas.envelope import Envelope, PayloadType
from mailboat_schemas.errors import RollbackRefused, SignatureInvalid, TrustRefused, WrongFleet
from mailboat_schemas.names import FleetId, Label, ModelName, Version

ITEMS_MAX = 16  # holds and rollbacks of one order together
LASTS_DAYS_MAX = 14  # longer than a line is usually down; whoever holds for longer says so again
LASTS_SECONDS_MAX = LASTS_DAYS_MAX * 86_400
INSTANT_SECONDS_MAX = 1 << 40
COUNTER_MAX = (1 << 63) - 1


class SiteOrderKey(SignatureInvalid):
    """No key that this site's Policy names, or one that has ended, made a signature over it."""

    code = "E-SITE-ORDER-KEY"


class SiteOrderElsewhere(TrustRefused):
    """An order for the devices of another site."""

    code = "E-SITE-ORDER-ELSEWHERE"


class SiteOrderOld(RollbackRefused):
    """An order from before one that was taken, said again."""

    code = "E-SITE-ORDER-OLD"


def _in_one_line(text: str) -> str:
    """It is shown in terminals: whoever has a site's key, or a device, must not move them."""
    if not text.isprintable():
        raise ValueError("a reason is one line without control characters")
    return text


class _Item(WireModel):
    reason: Annotated[str, AfterValidator(_in_one_line)] = Field(
        min_length=1, max_length=OVERRIDE_REASON_CHARS_MAX
    )
    expires: int = Field(
        ge=0,
        le=INSTANT_SECONDS_MAX,
        description="seconds since 1970 UTC; afterwards it counts no more",
    )


_SomeItem = TypeVar("_SomeItem", bound=_Item)


class SiteHold(_Item):
    """Nothing new is installed. It does not keep a device on what has to be left."""

    model: ModelName | None = Field(default=None, description="none: every model")


class SiteRollback(_Item):
    """Of this model nothing new is installed, and a device that has this release on its disk, and
    runs a newer one, goes back to it."""

    model: ModelName
    version: Version


class SiteOrder(WireModel):
    """All that a site orders. What an earlier one said and this one does not name is taken back."""

    wire_bytes_max: ClassVar[int] = 12 * 1024
    unpacked_bytes_max: ClassVar[int] = 32 * 1024

    fleet: FleetId
    site: Label
    counter: int = Field(ge=1, le=COUNTER_MAX)
    issued: int = Field(ge=0, le=INSTANT_SECONDS_MAX, description="seconds since 1970 UTC")
    holds: tuple[SiteHold, ...] = Field(default=(), max_length=ITEMS_MAX)
    rollbacks: tuple[SiteRollback, ...] = Field(default=(), max_length=ITEMS_MAX)

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        items = (*self.holds, *self.rollbacks)
        if len(items) > ITEMS_MAX:
            raise ValueError(f"{len(items)} holds and rollbacks, at most {ITEMS_MAX}")
        if any(each.expires > self.issued + LASTS_SECONDS_MAX for each in items):
            raise ValueError(f"a site's order lasts {LASTS_DAYS_MAX} days at most")
        if len({each.model for each in self.rollbacks}) < len(self.rollbacks):
            raise ValueError("two rollbacks of one model")
        return self


class ReportedSiteOrder(WireModel):
    """The order of its site that a device goes by: what of it stands."""

    site: Label
    counter: int = Field(ge=1, le=COUNTER_MAX)
    key: str = Field(
        max_length=KEY_NAME_CHARS_MAX,
        pattern=KEY_NAME_PATTERN,
        description="its name in the Policy",
    )
    holds: tuple[SiteHold, ...] = Field(default=(), max_length=ITEMS_MAX)
    rollbacks: tuple[SiteRollback, ...] = Field(default=(), max_length=ITEMS_MAX)

    @property
    def by(self) -> str:
        return f"site {self.site} ({self.key})"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedOrder:
    """An order, and the key that signed it."""

    order: SiteOrder
    key: SiteKey

    @property
    def keyid(self) -> str:
        return self.key.key.keyid

    def standing(self, now: datetime, *, taken_at: int) -> ReportedSiteOrder:
        """What of it stands now, none of it for longer than `LASTS_DAYS_MAX` from ``taken_at``
        (seconds since 1970 UTC): by the device's clock too, whatever the site's clock said. 0: its
        clock could not be right then, and nothing can be counted from it."""
        until = taken_at + LASTS_SECONDS_MAX if taken_at else INSTANT_SECONDS_MAX
        order, seconds = self.order, now.timestamp()
        return ReportedSiteOrder(
            site=order.site,
            counter=order.counter,
            key=self.key.key.name,
            holds=tuple(_within(order.holds, seconds, until)),
            rollbacks=tuple(_within(order.rollbacks, seconds, until)),
        )


def _within(items: Iterable[_SomeItem], seconds: float, until: int) -> Iterable[_SomeItem]:
    for each in items:
        expires = min(each.expires, until)
        if seconds < expires:
            yield each if each.expires == expires else each.model_copy(update={"expires": expires})


def open_site_order(
    payload: bytes, keys: Iterable[SiteKey], *, fleet: str, site: str, now: datetime | None
) -> OpenedOrder:
    """An order for this site, once a signature by a key of its Policy held.

    Args:
        keys: that the newest verified Policy for this site names.
        now: None: whether the key has ended is not asked.

    Raises:
        SiteOrderKey: none of them made a signature over it, or the one that did has ended.
        MalformedPayload: not a site's order. WrongFleet, SiteOrderElsewhere: for others.
    """
    envelope = decode(Envelope, payload)
    key = _signer(envelope, keys, now)
    if key is None or envelope.payload_type != PayloadType.SITE_ORDER:
        raise SiteOrderKey(
            f"An order for site {site} is not signed with a key that the site's Policy names now.",
            next_step="sign it with such a key, or have the Policy for the site name this one in "
            "`site_keys`: `mailboat policy approve`.",
        )
    order = decode(SiteOrder, envelope.payload)
    if order.fleet != fleet:
        raise WrongFleet(
            f"This order is for fleet {order.fleet}, not {fleet}.",
            next_step="sign one with --fleet as it stands in agent.toml.",
        )
    if order.site != site:
        raise SiteOrderElsewhere(
            f"This order is for site {order.site}, the device is at {site}.",
            next_step="look at who repeats messages of one site at another.",
        )
    return OpenedOrder(order=order, key=key)


def _signer(envelope: Envelope, keys: Iterable[SiteKey], now: datetime | None) -> SiteKey | None:
    known = {each.key.keyid: each for each in keys if now is None or now < each.expires}
    signed = envelope.pae()
    for signature in envelope.signatures:
        key = known.get(signature.keyid)
        if key is not None and key.key.holds(signature.sig, signed):
            return key
    return None


def goes_back(version: str, running: str) -> bool:
    """Whether ``version`` is the one that runs or an older one: an order never goes forward."""
    try:
        return PackagingVersion(version) <= PackagingVersion(running)
    except InvalidVersion:
        return False


def holds_of(said: ReportedSiteOrder | None) -> tuple[Hold, ...]:
    """A rollback holds its model, whether the device has somewhere to go back to or not."""
    if said is None:
        return ()
    rollbacks = (
        Hold(
            model=each.model,
            by=said.by,
            reason=f"roll back to {each.version}: {each.reason}"[:OVERRIDE_REASON_CHARS_MAX],
            expires=each.expires,
        )
        for each in said.rollbacks
    )
    holds = (
        Hold(model=each.model, by=said.by, reason=each.reason, expires=each.expires)
        for each in said.holds
    )
    return (*holds, *rollbacks)


def pins_of(
    said: ReportedSiteOrder | None, way_back: Callable[[str, str], str | None]
) -> tuple[Pin, ...]:
    """
    Args:
        way_back: by model and version, the digest of what runs or of the release that the device
            can go back to without a trial, if it is that version; None if it is not.
    """
    found = []
    for each in () if said is None else said.rollbacks:
        digest = way_back(each.model, each.version)
        if digest is not None:
            found.append(
                Pin(
                    model=each.model,
                    version=each.version,
                    digest=digest,
                    by=said.by if said is not None else "",
                    reason=each.reason,
                    expires=each.expires,
                )
            )
    return tuple(found)
