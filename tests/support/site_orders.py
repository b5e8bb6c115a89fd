"""A site that orders by itself: its key, the Policy that names it, orders as people sign them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner

from mailboat_controller.authority.keys import create_key
from mailboat_controller.authority.online import seal
from mailboat_schemas.codec import encode
from mailboat_schemas.documents.policy import PolicyDocument
from mailboat_schemas.envelope import PayloadType
from mailboat_schemas.site_orders import SiteHold, SiteOrder, SiteRollback
from trust_fleet import FLEET

SITE = "harbour"


class SiteDesk:
    """Whoever is on duty at the site."""

    def __init__(
        self, directory: Path, name: str = "harbour master", now: datetime | None = None
    ) -> None:
        self.key_path = directory / f"{name.replace(' ', '-')}.pem"
        self.signer: CryptoSigner = create_key(self.key_path, name=name)
        self.now = now or datetime.now(UTC)

    def public(self, *, days: float = 300) -> dict[str, Any]:
        """As it stands in `site_keys` of a Policy."""
        key = self.signer.public_key
        expires = (self.now + timedelta(days=days)).replace(microsecond=0)
        return {"key": {"keyid": key.keyid, **key.to_dict()}, "expires": expires.isoformat()}

    def until(self, hours: float = 24) -> int:
        return int((self.now + timedelta(hours=hours)).timestamp())

    def hold(self, model: str | None = None, *, hours: float = 24) -> SiteHold:
        return SiteHold(model=model, reason="a storm", expires=self.until(hours))

    def rollback(self, version: str, *, model: str = "vad", hours: float = 24) -> SiteRollback:
        return SiteRollback(
            model=model, version=version, reason="it is deaf", expires=self.until(hours)
        )

    def order(self, counter: int, *items: SiteHold | SiteRollback, **changes: Any) -> SiteOrder:
        return SiteOrder.model_validate(
            {
                "fleet": FLEET,
                "site": SITE,
                "counter": counter,
                "issued": int(self.now.timestamp()),
                "holds": [each.model_dump() for each in items if isinstance(each, SiteHold)],
                "rollbacks": [
                    each.model_dump() for each in items if isinstance(each, SiteRollback)
                ],
                **changes,
            }
        )

    def signed(self, counter: int, *items: SiteHold | SiteRollback, **changes: Any) -> bytes:
        order = self.order(counter, *items, **changes)
        return seal(self.signer, PayloadType.SITE_ORDER, encode(order))


def site_policy(
    *desks: SiteDesk, version: str = "1.0.0", days: float = 300, target: str = SITE
) -> PolicyDocument:
    return PolicyDocument.model_validate(
        {
            "apiVersion": "mailboat/v1",
            "kind": "Policy",
            "metadata": {"name": "island", "version": version, "level": "site", "target": target},
            "spec": {
                "rules": [{}],
                "site_keys": [desk.public(days=days) for desk in desks],
            },
        }
    )
