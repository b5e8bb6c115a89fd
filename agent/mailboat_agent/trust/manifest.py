"""What this device has been told, as far as it holds against its own trust root.

A bundle is taken whole or not at all: trust metadata first, then the director's signature over the
desired state, then its counter, then the documents it names. What was accepted is durable before
anything is decided on it, and is read back at the next start without a network.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import UTC, datetime

from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.delta.choice import Offered
from mailboat_agent.trust.counter import Counter, director_keyid, models_claimed, named_digests
from mailboat_agent.trust.reading_back import TIMESTAMP, gone, newer_in_bundle, older
from mailboat_agent.trust.release_documents import ReleaseDocuments
from mailboat_agent.trust.role_versions import refuse_fast_forward
from mailboat_agent.trust.trust_store import TrustStore, Verified
from mailboat_agent.update.situation import Known
from mailboat_agent.update.time_floor import ISSUED_FIELD
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import (
    Assignment,
    DesiredState,
    FreshTimestamp,
    ManifestBundle,
    ReleaseRef,
)
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.errors import (
    DiskFull,
    MailboatError,
    RollbackRefused,
    TrustRefused,
    WrongTopic,
)
from mailboat_schemas.fleet_documents import brings_more
from mailboat_schemas.trust import Standing, TrustView, expires_at, newer_timestamp, open_desired

__all__ = ["Counter", "Manifest", "named_digests"]

BUNDLES_REMEMBERED = 32
_log = logging.getLogger(__name__)


class Manifest:
    """The verified view, the newest desired state, and what they say of a release."""

    def __init__(
        self, *, trust: TrustStore, store: ReleaseStore, fleet: str, hardware_class: str
    ) -> None:
        self._trust = trust
        self._fleet = fleet
        self._hardware_class = hardware_class
        # Of bundles taken since the start, newest last: a broker or bridge that comes back repeats
        # what it retained, which is neither news nor an attack.
        self._taken: deque[str] = deque(maxlen=BUNDLES_REMEMBERED)
        self._offered: dict[str, bytes] = {}  # metadata of the newest bundle, for `take_fresh`
        self._fresh: bytes | None = None
        self.payload = b""  # the bundle of `desired`, as signed
        self._files: Mapping[str, bytes] = {}  # the metadata of `view`
        self._standings: dict[tuple[str, str], Standing] = {}
        self._documents = ReleaseDocuments(store)
        self.view: TrustView | None = None
        self.desired: DesiredState | None = None
        self.expires: datetime | None = None

    # --- at the start ----------------------------------------------------------------------------

    def open(self, models: Iterable[str], counter: Counter | None = None) -> MailboatError | None:
        """Read back what was accepted; returns what is wrong with it, if anything.

        Metadata that does not verify any more vouches for nothing: it is accepted once more from
        the kept bundle, and if that fails nothing is served until a new one arrives. A bundle that
        is behind ``counter``, the newest that was recorded, is of no other use: the newer one that
        the disk lost may have halted or withdrawn what this one offers.
        """
        kept = self._trust.manifests.newest()
        bundle = None
        if kept is not None:
            with suppress(MailboatError):
                bundle = decode(ManifestBundle, kept)
        try:
            held = self._trust.held()
            if not held and tuple(models):
                raise gone()
            self._hold(self._trust.view(), held)
        except TrustRefused as error:
            problem: MailboatError | None = error
            self._heal(bundle, models)
        else:
            problem = self._catch_up(held, bundle, models)
        if bundle is not None and self.view is not None:
            try:
                desired = self._open_desired(bundle, self.view)
                self._offered = dict(bundle.trust)
                self._keep_documents(bundle, desired)  # again: a file may be damaged
                if not Counter(desired.counter, director_keyid(self.view)).is_behind(counter):
                    self.desired, self.payload = desired, kept or b""
            except MailboatError as error:
                # Rotated away since: what is installed stays, the next manifest says more.
                _log.warning("The kept manifest is not of full use any more: %s", error)
        return problem

    def _heal(self, bundle: ManifestBundle | None, models: Iterable[str]) -> None:
        if bundle is None:
            return
        with suppress(MailboatError):
            self._keep(self._trust.verify(bundle.trust, models))

    def _catch_up(
        self, held: Mapping[str, bytes], bundle: ManifestBundle | None, models: Iterable[str]
    ) -> MailboatError | None:
        newer = None if bundle is None else newer_in_bundle(self._trust, held, bundle, models)
        if newer is None:
            return None
        with suppress(MailboatError):  # it counts in this life, whatever the disk says
            self._keep(newer)
        return older()

    # --- what arrives ----------------------------------------------------------------------------

    def take(self, payload: bytes, models_held: Iterable[str], counter: Counter) -> Counter | None:
        """Take a bundle; None when it says nothing that was not known.

        What nobody signed does not make it news: whoever repeats a bundle with something added
        would otherwise wear out the disk, and have downloads begin again before their time.

        Raises:
            MailboatError: nothing of the desired state was taken. Trust metadata may have been:
                it stands on its own signatures.
        """
        digest = hashlib.sha256(payload).hexdigest()
        if digest in self._taken:
            return None
        bundle = decode(ManifestBundle, payload)
        self._for_us(bundle)
        verified = self._verify(bundle.trust, {*models_held, *models_claimed(bundle)})
        self._keep(verified)
        desired = self._open_desired(bundle, verified.view)
        keyid = director_keyid(verified.view)
        if Counter(desired.counter, keyid).is_behind(counter):
            raise RollbackRefused(
                f"Desired state {desired.counter} is older than {counter.value}, "
                "which this device has accepted.",
                next_step="look for a restored backup of the controller or an old message.",
            )
        if keyid == counter.director_keyid:
            refuse_fast_forward("The desired state", desired.counter, counter.value)
        brought = self._keep_documents(bundle, desired)
        if self.payload and not brought:
            held = decode(ManifestBundle, self.payload).documents
            brought = brings_more(verified.view, bundle.documents, held)
        if not (verified.is_news or brought) and desired == self.desired:
            self._taken.append(digest)
            return None
        self._trust.manifests.keep(desired.counter, payload)
        self.desired, self._offered = desired, dict(bundle.trust)
        self.payload = payload
        self._taken.append(digest)
        return Counter(desired.counter, keyid)

    def take_fresh(self, payload: bytes, models: Iterable[str]) -> bool:
        """Take a timestamp that was signed again; False when there is nothing to go with it yet.

        Raises:
            MailboatError: it does not hold.
        """
        fresh = decode(FreshTimestamp, payload)
        self._for_us(fresh)
        self._fresh = fresh.timestamp
        if TIMESTAMP not in self._offered:
            return False
        newest = self._with_newest_timestamp(self._offered)
        if newest == self._offered and self.view is not None:
            return False
        self._keep(self._trust.verify(newest, models))
        self._offered = newest
        return True

    def _verify(self, offered: dict[str, bytes], models: Iterable[str]) -> Verified:
        """With the newest timestamp heard of; with the bundle's own if that one does not hold.

        A fresh timestamp may be forged, or belong to a bundle that is still on its way.
        """
        newest = self._with_newest_timestamp(offered)
        try:
            return self._trust.verify(newest, models)
        except TrustRefused:
            if newest == offered:
                raise
        return self._trust.verify(offered, models)

    def _for_us(self, message: ManifestBundle | FreshTimestamp) -> None:
        if (message.fleet, message.hardware_class) != (self._fleet, self._hardware_class):
            raise WrongTopic(
                f"A message for {message.fleet}/{message.hardware_class} came on this class's "
                "topic.",
                next_step="look at who publishes there.",
            )

    def _with_newest_timestamp(self, offered: dict[str, bytes]) -> dict[str, bytes]:
        if self._fresh is None or TIMESTAMP not in offered:
            return dict(offered)
        return offered | {TIMESTAMP: newer_timestamp(offered[TIMESTAMP], self._fresh)}

    def _open_desired(self, bundle: ManifestBundle, view: TrustView) -> DesiredState:
        return open_desired(bundle, view, fleet=self._fleet, hardware_class=self._hardware_class)

    def _keep_documents(self, bundle: ManifestBundle, desired: DesiredState) -> bool:
        """Whether any was lacking."""
        brought = False
        for assignment in desired.assignments:
            for digest in named_digests([assignment]):
                brought |= self._documents.keep(bundle, digest)
                fallback = self.fallback_of(assignment.model, digest)
                if fallback is not None:
                    brought |= self._documents.keep(bundle, fallback.digest)
        return brought

    def _keep(self, verified: Verified) -> None:
        """Hold it from now on. A disk that refuses to keep it changes nothing about what it
        withdraws, as long as this process lives; nothing new is installed on it.

        Raises:
            DiskFull, DiskFailing
        """
        try:
            self._trust.keep(verified)
        except (DiskFull, DiskFailing):
            self._hold(verified.view, verified.files)
            self.expires = None
            raise
        self._hold(verified.view, verified.files)

    def _hold(self, view: TrustView, files: Mapping[str, bytes]) -> None:
        self.view = view
        self._files = files
        self._standings.clear()
        self.expires = expires_at(files)

    def repair(self) -> dict[str, str]:
        """Write again what the disk has lost of that which is held here; what was wrong with what.

        Raises:
            DiskFull, DiskFailing: it is still so.
        """
        found = {}
        if self.view is not None and self._files:
            found["trust"] = self._trust.repair(self.view, self._files)
        if self.desired is not None:
            counter = self.desired.counter
            found["manifest"] = self._trust.manifests.repair(counter, self.payload)
        return {what: problem for what, problem in found.items() if problem}

    # --- what it says ----------------------------------------------------------------------------

    def counter(self) -> Counter | None:
        """Of the newest desired state that is held."""
        if self.desired is None or self.view is None:
            return None
        return Counter(self.desired.counter, director_keyid(self.view))

    def offered_deltas(self) -> Offered:
        """What the newest desired state offers to spare downloads."""
        counter = self.counter()
        if counter is None or self.desired is None:
            return Offered()
        return Offered(f"{counter.director_keyid[:16]}:{counter.value}", self.desired.deltas)

    def assignment(self, model: str) -> Assignment | None:
        if self.desired is None:
            return None
        return next((a for a in self.desired.assignments if a.model == model), None)

    def is_fresh(self, now: datetime) -> bool:
        """Whether something new may be installed on it."""
        return self.expires is not None and now.astimezone(UTC) < self.expires

    @property
    def failure_mode(self) -> FailureMode:
        """What the class does when nothing approved is left, by the newest desired state."""
        return FailureMode.FAIL_SAFE if self.desired is None else self.desired.failure_mode

    def known(self, model: str, version: str, digest: str) -> Known:
        return Known(standing=self.standing(model, version), document=self.document(digest))

    def may_serve(self, model: str, version: str, digest: str) -> bool:
        return self.view is not None and self.standing(model, version).may_serve(digest)

    def fallback_of(self, model: str, digest: str) -> ReleaseRef | None:
        """The approved release that a release's document declares as its fallback."""
        document = self.document(digest)
        if document is None or document.fallback is None:
            return None
        approved = self.standing(model, document.fallback).approved_digest
        if approved is None:
            return None
        return ReleaseRef(version=document.fallback, digest=approved)

    def standing(self, model: str, version: str) -> Standing:
        found = self._standings.get((model, version))
        if found is None:
            found = self._read_standing(model, version)
            self._standings[model, version] = found
        return found

    def _read_standing(self, model: str, version: str) -> Standing:
        if self.view is not None:
            try:
                return self.view.standing(model, version)
            except TrustRefused as error:
                _log.warning("What the trust metadata says of %s %s: %s", model, version, error)
        return Standing(
            model=model, version=version, released_digest=None, approved_digest=None, plan=None
        )

    def document(self, digest: str) -> ReleaseDocument | None:
        return self._documents.get(digest)

    def bring_document(self, digest: str) -> None:
        """One that no assignment names, if the newest bundle has it."""
        self._documents.bring(self.payload, digest)

    def put_back_document(self, digest: str) -> None:
        """If the disk has lost one that was read before. Raises DiskFull, DiskFailing."""
        self._documents.put_back(digest)

    def forget_documents_but(self, keep: AbstractSet[str]) -> None:
        self._documents.forget_but(keep)

    def issued(self) -> list[object]:
        """When the offline-signed roles say they were signed."""
        if self.view is None:
            return []
        roles = [self.view.root.signed, self.view.targets]
        roles += [
            self.view.delegated(name)
            for name in self.view.roles()
            if name.startswith(("release-", "approval-"))
        ]
        return [role.unrecognized_fields.get(ISSUED_FIELD) for role in roles if role is not None]
