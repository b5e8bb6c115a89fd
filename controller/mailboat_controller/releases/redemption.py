"""Notes which devices fetch a release that is on its way: the gate counts them as exposed.

A device that fetched a release and is never heard of again may have been taken off the air by it,
which no event will tell. A download says little for certain, so little is taken from it: the
artifact has to be a file of a release that the device's class is offered now, or a patch for one,
and of no other release that its manifest names. What comes by a site's cache or on a stick is not
seen here; those devices are exposed by their first event.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from mailboat_controller.store import devices, manifests, redemptions, releases
from mailboat_controller.store.engine import Store
from mailboat_controller.store.redemptions import Redeemed
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import DesiredState, ManifestBundle
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.errors import Transient

# A download is many ranges, of which one is looked at. What is forgotten is looked up again.
SEEN_MAX = 20_000
SEEN_LIFE = timedelta(minutes=10)  # a later try of the same release is another one

_log = structlog.get_logger(__name__)
_Tells = Mapping[str, frozenset[Redeemed]]  # by artifact, what its download is evidence of


class Redemptions:
    """Safe to use from many threads."""

    def __init__(self, store: Store, *, seen_max: int = SEEN_MAX) -> None:
        self._store = store
        self._seen_max = seen_max
        self._lock = threading.Lock()
        # (device, artifact looked up, or release written) -> when; the oldest first
        self._seen: OrderedDict[tuple[str, str | Redeemed], datetime] = OrderedDict()
        self._told: dict[str, tuple[str, _Tells]] = {}  # by class: of the manifest of this etag

    def note(self, device: str, artifact: str, now: datetime) -> None:
        """A device is given bytes of an artifact. One row a device and try of a release, at most.

        A database that does not answer keeps nobody from a download: the next one is noted.
        """
        if self._was_seen(device, artifact, now):
            return
        try:
            self._note(device, artifact, now)
        except Transient as problem:
            _log.warning("a download was not noted", device=device, problem=str(problem))
            return
        self._see(device, artifact, now)

    def _was_seen(self, device: str, what: str | Redeemed, now: datetime) -> bool:
        with self._lock:
            seen = self._seen.get((device, what))
        return seen is not None and timedelta() <= now - seen < SEEN_LIFE

    def _see(self, device: str, what: str | Redeemed, now: datetime) -> None:
        with self._lock:
            self._seen.pop((device, what), None)
            self._seen[device, what] = now
            while len(self._seen) > self._seen_max:
                self._seen.popitem(last=False)

    def _note(self, device: str, artifact: str, now: datetime) -> None:
        with self._store.read() as tx:
            row = devices.by_name(tx, device)
            told = None if row is None else self._tells(tx, row.hardware_class).get(artifact)
        # Of the second file of a release there is nothing to write.
        new = [each for each in told or () if not self._was_seen(device, each, now)]
        if new:
            with self._store.device_transaction() as tx:
                redemptions.note(tx, device, new, now)
            for each in new:
                self._see(device, each, now)

    def _tells(self, tx: Transaction, hardware_class: str) -> _Tells:
        etag = manifests.etag_of(tx, hardware_class)
        held = self._told.get(hardware_class)
        if held is not None and held[0] == etag:
            return held[1]
        row = manifests.of_class(tx, hardware_class)
        told = {} if row is None else _offered(tx, decode(ManifestBundle, row.bundle))
        self._told[hardware_class] = (etag, told)
        return told


def _offered(tx: Transaction, bundle: ManifestBundle) -> _Tells:
    """Which artifacts a device fetches for an offer of this manifest and for nothing else."""
    desired = decode(DesiredState, decode(Envelope, bundle.desired).payload)
    offers = {
        each.offer.release.digest: each.retry_epoch
        for each in desired.assignments
        if each.offer is not None
    }
    of_offers: dict[str, set[Redeemed]] = {}
    of_others: set[str] = set()
    for digest in bundle.documents:
        row = releases.by_digest(tx, digest)
        if row is None:
            continue  # of the fleet's own documents, which name no artifact
        files = {file.artifact_digest for file in row.parsed().files()}
        if digest not in offers:
            of_others |= files
            continue
        for file in files:
            of_offers.setdefault(file, set()).add(Redeemed(digest, offers[digest]))
    tells = {file: told for file, told in of_offers.items() if file not in of_others}
    patches: dict[str, set[Redeemed]] = {}
    for delta in desired.deltas:
        patches.setdefault(delta.patch, set()).update(tells.get(delta.target, ()))
    found = {**patches, **tells}
    return {artifact: frozenset(told) for artifact, told in found.items() if len(told) == 1}
