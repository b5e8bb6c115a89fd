"""A site's own order: the next one after the one in a file, signed with the site's key.

Needs no controller. Its counter is the second in which it is made, or one more than that of the
order before, so that a file that was lost keeps nobody from ordering.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError
from securesystemslib.signer import Signer

from mailboat_controller.authority.online import seal
from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.envelope import Envelope, PayloadType
from mailboat_schemas.errors import ConfigurationInvalid, Conflict, MailboatError
from mailboat_schemas.site_orders import SiteHold, SiteOrder, SiteRollback
from mailboat_schemas.topics import TOPICS, Channel, build

FILE_BYTES_MAX = TOPICS[Channel.SITE_ORDER].payload_bytes_max


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFile:
    """A signed order as it is handed on. Whether its signature holds, devices say."""

    order: SiteOrder
    content: bytes

    @property
    def topic(self) -> str:
        return build(Channel.SITE_ORDER, fleet=self.order.fleet, site=self.order.site)


def read_order(path: Path) -> OrderFile:
    """
    Raises:
        ConfigurationInvalid: it cannot be read, or is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        envelope = decode(Envelope, content[: FILE_BYTES_MAX + 1])
        if len(content) > FILE_BYTES_MAX or envelope.payload_type != PayloadType.SITE_ORDER:
            raise _unusable(path, "it is something else")
        return OrderFile(order=decode(SiteOrder, envelope.payload), content=content)
    except OSError as error:
        raise _unusable(path, error.strerror or "it cannot be read") from error
    except ConfigurationInvalid:
        raise
    except MailboatError as error:
        raise _unusable(path, error.what) from error


def order_before(path: Path, fleet: str, site: str, *, after: int = 0) -> SiteOrder:
    """What stands by the file; an order that says nothing, where there is none.

    Args:
        after: the counter of the newest order, where the file that said it was lost.

    Raises:
        ConfigurationInvalid: no fleet is named and no file says one, or it cannot be read.
        Conflict: the file is another fleet's or site's.
    """
    if not path.exists():
        if not fleet:
            raise ConfigurationInvalid(
                f"There is no order {path} yet, so the fleet has to be named.",
                next_step="give --fleet as it stands in a device's agent.toml.",
            )
        try:
            return SiteOrder(fleet=fleet, site=site, counter=max(1, after), issued=0)
        except ValidationError as error:
            raise _no_order(error) from error
    found = read_order(path).order
    if found.site != site or fleet not in ("", found.fleet):
        raise Conflict(
            f"{path} is an order for site {found.site} of fleet {found.fleet}.",
            next_step="name another file with --out.",
        )
    return found.model_copy(update={"counter": max(found.counter, after)})


def next_order(
    before: SiteOrder,
    *,
    now: datetime,
    holds: tuple[SiteHold, ...] | None = None,
    rollbacks: tuple[SiteRollback, ...] | None = None,
) -> SiteOrder:
    """What stands of the one before, with what is given in its place.

    Raises:
        ConfigurationInvalid: over the bounds of an order.
    """
    seconds = int(now.timestamp())
    held = before.holds if holds is None else holds
    back = before.rollbacks if rollbacks is None else rollbacks
    try:
        return SiteOrder(
            fleet=before.fleet,
            site=before.site,
            counter=max(before.counter + 1, seconds),
            issued=seconds,
            holds=tuple(each for each in held if each.expires > seconds),
            rollbacks=tuple(each for each in back if each.expires > seconds),
        )
    except ValidationError as error:
        raise _no_order(error) from error


def with_hold(before: SiteOrder, hold: SiteHold) -> tuple[SiteHold, ...]:
    """In the place of one of the same model."""
    return (*(each for each in before.holds if each.model != hold.model), hold)


def with_rollback(before: SiteOrder, rollback: SiteRollback) -> tuple[SiteRollback, ...]:
    return (*(each for each in before.rollbacks if each.model != rollback.model), rollback)


def without(before: SiteOrder, model: str) -> tuple[tuple[SiteHold, ...], tuple[SiteRollback, ...]]:
    """What is left once what is ordered for one model is lifted; for none: once all is."""
    if not model:
        return (), ()
    return (
        tuple(each for each in before.holds if each.model != model),
        tuple(each for each in before.rollbacks if each.model != model),
    )


def sign_and_write(path: Path, order: SiteOrder, signer: Signer) -> bytes:
    """
    Raises:
        ConfigurationInvalid: the file cannot be written; the one before is as it was.
    """
    content = seal(signer, PayloadType.SITE_ORDER, encode(order))
    try:
        replace_durably(path, content, mode=PUBLIC_MODE)
    except OSError as error:
        raise ConfigurationInvalid(
            f"{path} cannot be written: {error.strerror}.", next_step="name another with --out."
        ) from error
    return content


def _no_order(error: ValidationError) -> ConfigurationInvalid:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return ConfigurationInvalid(
        f"This cannot be ordered: {f'{place}: ' if place else ''}{first['msg']}.",
        next_step="look at docs/sites.md for what a site may order, and for how long.",
    )


def _unusable(path: Path, problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"{path} is not a site's order: {problem}",
        next_step="make one with `mailboat site hold`, `site rollback` or `site lift`.",
    )
