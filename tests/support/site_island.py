"""A device of a site, as far as its site's orders go: what it accepted, keeps and tells."""

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent_box import device_facts
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.facts import Device
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.ledger import Ledger
from mailboat_agent.site_orders import SiteOrders
from mailboat_agent.state_file import StateFile
from mailboat_agent.trust.counter import Counter
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_schemas.documents.policy import PolicyDocument
from mailboat_schemas.events import EventKind
from model_fleet import CLASS, FLEET
from signed_policies import sign_policy
from site_orders import SITE, SiteDesk, site_policy
from trust_fleet import TrustFleet

NOW = datetime.now(UTC)


class Island:
    """A device of a site that has accepted a manifest with the site's Policy."""

    def __init__(self, directory: Path) -> None:
        self.fleet = TrustFleet(directory / "ceremony")
        self.desk = SiteDesk(directory, now=NOW)
        self.data = directory / "data"
        self.data.mkdir()
        self.start()
        self.hears_policy(site_policy(self.desk))

    def start(self, site: str = SITE, now: datetime = NOW) -> None:
        self.device: Device = device_facts(site=site)
        trust = TrustStore(self.data, self.fleet.factory_root)
        self.manifest = Manifest(
            trust=trust, store=ReleaseStore(self.data), fleet=FLEET, hardware_class=CLASS
        )
        self.manifest.open([])
        rng = random.Random(1)
        self.journal = Journal(self.data / "journal.db", rng)
        self.ledger = Ledger(StateFile(self.data), self.journal, now=NOW, rng=rng)
        self.ledger.begin_session()
        self.orders = SiteOrders(self.data, self.device, self.manifest, self.ledger)
        self.orders.open(now)

    def restart(self, **changes: Any) -> None:
        self.journal.close()
        self.start(**changes)

    def hears_policy(self, document: PolicyDocument, **signed: Any) -> None:
        sign_policy(self.fleet, document, **signed)
        self.hears_manifest()

    def hears_manifest(self) -> None:
        self.manifest.take(self.fleet.bundle(), [], self.manifest.counter() or Counter(0, ""))

    @property
    def notes(self) -> list[str]:
        return self.device.order_notes(NOW)

    def told(self, kind: EventKind = EventKind.SITE_ORDERED) -> list[tuple[str, str]]:
        events = self.journal.events_after(0, 1000, 1 << 20)
        return [(e.code, e.because) for e in events if e.kind is kind]
