"""A new certificate before the old one ends, or after: the device does it by itself.

No step trusts this device's clock: it says when to begin, and where it disagrees with the
certificate, the device begins at once. What is in force the controller decides.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from mailboat_agent.atomic_file import disk_errors, fsync_directory, replace_durably
from mailboat_agent.identity.device_key import (
    Identity,
    certificate_request,
    check_dates,
    confirmed_of,
    identity_of,
    load_identity,
    read_key,
    successor_of,
    tls_context,
)
from mailboat_agent.identity.key_exchange import (
    IdentityFiles,
    PrivateKey,
    Rewrap,
    exchange,
    waiting_key,
)
from mailboat_agent.update.retry import retry_delay_seconds
from mailboat_schemas.enrolment import ProvenRenewalRequest, RenewalResponse, renewal_proof
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    DiskFull,
    DownloadInterrupted,
    MailboatError,
    MalformedPayload,
    NotPermitted,
    ServerUnavailable,
)

if TYPE_CHECKING:
    from mailboat_agent.identity.registration import Registration

DUE_SHARE = 2 / 3  # of a certificate's life
DUE_SHARE_JITTER = 0.1  # so that what enrolled in one hour does not renew in one
LOOK_SECONDS = 60.0
RETRY_SECONDS_MIN = 30.0
RETRY_SECONDS_MAX = 3600.0
UNANSWERED_SECONDS_MAX = 20.0  # beside RETRY_SECONDS_MIN, with jitter
# The broker has refused us, or is not there, for so long: is it our certificate?
UNCONNECTED_SECONDS = 300.0

_log = logging.getLogger(__name__)


class Renewal:
    """One task of the agent. The network is reached through what it is given."""

    def __init__(
        self,
        *,
        identity: Identity,
        files: IdentityFiles,
        fleet: str,
        new_key: bool,
        tls: ssl.SSLContext,
        registration: Callable[[ssl.SSLContext], "Registration"],
        rewrap: Rewrap,
        make_room: Callable[[], None],
        renewed: Callable[[], None],
        connected: Callable[[], bool],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """
        Args:
            tls: what the agent connects with; given the new certificate in place.
            registration: a connection of our own to the controller.
            make_room: asked after a full disk, before it is tried again.
            renewed: the identity and ``tls`` have changed: connections are to be made anew.
            connected: whether the broker has us.
        """
        self._identity = identity
        self._files = files
        self._fleet = fleet
        self._new_key = new_key
        self._tls = tls
        self._registration = registration
        self._rewrap = rewrap
        self._make_room = make_room
        self._renewed = renewed
        self._connected = connected
        self._now = now
        self._monotonic = monotonic
        self._rng = rng
        self._share = self._draw_share()
        self._attempt = 0  # that came to nothing, in a row
        self._renewed_at: float | None = None  # monotonic
        self._connected_at = monotonic()

    async def run(self) -> None:
        """For ever."""
        while True:
            wait_seconds = await self.look()
            await asyncio.sleep(wait_seconds)

    async def look(self) -> float:
        """Renew if it is time; the seconds until the next look."""
        self._follow_clock()
        try:
            await self._look()
        except MailboatError as error:
            self._attempt += 1
            level = logging.ERROR if isinstance(error, NotPermitted) else logging.WARNING
            _log.log(level, "The device's certificate was not renewed: %s", error)
            if isinstance(error, DiskFull):
                self._make_room()  # a device that loses its certificate is lost
            return RETRY_SECONDS_MIN + retry_delay_seconds(
                self._attempt,
                self._rng,
                seconds_min=RETRY_SECONDS_MIN,
                seconds_max=self._retry_seconds_max(error),
            )
        self._attempt = 0
        return LOOK_SECONDS

    def _retry_seconds_max(self, error: MailboatError) -> float:
        """Without a certificate in force nothing else works, and asking where nobody answers costs
        nobody anything: a device that was cut off for days is back within a minute."""
        unanswered = isinstance(error, ServerUnavailable) and error.retry_after is None
        if unanswered and not self._identity.spans(self._now()):
            return UNANSWERED_SECONDS_MAX
        return RETRY_SECONDS_MAX

    async def _look(self) -> None:
        if confirmed_of(self._files.certificate).exists():
            self._take()
        if successor_of(self._files.certificate).exists():
            await self._go_on()
        elif self.due() or await self._refused():
            await self.renew()

    async def _go_on(self) -> None:
        """A certificate waits to be confirmed, since the power failed or an answer was lost."""
        try:
            await self._confirm()
        except (NotPermitted, DownloadInterrupted, ConfigurationInvalid) as error:
            # It has ended while it waited, or another took its place: ask for one more.
            _log.info("The waiting certificate is not taken: %s", error)
            await self.renew()
        else:
            self._take()

    def due(self) -> bool:
        """Whether it is time, as far as this device can know."""
        identity, now = self._identity, self._now()
        life = identity.expires_at - identity.issued_at
        if self._renewed_at is not None:
            if self._monotonic() - self._renewed_at >= life.total_seconds() * self._share:
                return True
            # Whatever the wall clock says: the certificate was given moments ago.
            return identity.spans(now) and now >= identity.issued_at + life * self._share
        return not identity.spans(now) or now >= identity.issued_at + life * self._share

    async def renew(self) -> None:
        """
        Raises:
            NotPermitted: revoked, or away for too long. Conflict: the key is another's.
            MalformedPayload: the answer is none. Transient: later.
        """
        waiting = successor_of(self._files.key)
        # One that waits may be the one that counts already: it is gone on with in any case.
        new = self._new_key or waiting.exists()
        key = waiting_key(waiting) if new else self._identity.key
        request = certificate_request(key, self._identity.device, self._fleet).decode()
        response = await self._ask(request)
        self._require_own(response, key)
        given = successor_of(self._files.certificate)
        replace_durably(given, response.certificate.encode())
        if new:
            await self._confirm()
            self._take()
            return
        tls_context(self._files.ca, given, self._files.key)  # OpenSSL can read it as well
        with disk_errors("keeping a renewed certificate"):
            given.replace(self._files.certificate)
            fsync_directory(given.parent)
        self._adopt()

    async def _ask(self, request: str) -> RenewalResponse:
        """With the certificate we have; if the handshake does not take it, with proof of a key."""
        context = tls_context(self._files.ca, self._files.certificate, self._files.key)
        check_dates(context, check=self._identity.spans(self._now()))
        registration = self._registration(context)
        try:
            return await registration.renew(self._identity.device, request)
        except NotPermitted:
            if not successor_of(self._files.key).exists():
                raise
        except (ServerUnavailable, DownloadInterrupted) as error:
            _log.info("Not renewed with the certificate (%s); trying with proof of the key.", error)
        finally:
            await registration.close()
        return await self._ask_with_proof(request)

    async def _ask_with_proof(self, request: str) -> RenewalResponse:
        context = tls_context(self._files.ca)
        # It may be our clock that has ended the certificate.
        check_dates(context, check=False)
        registration = self._registration(context)
        waiting = successor_of(self._files.key)
        try:
            try:
                return await self._prove(registration, self._identity.key, request)
            except NotPermitted as refusal:
                if not waiting.exists():
                    raise
                # Confirmed, perhaps, and the answer was lost: then this is the key that counts.
                try:
                    return await self._prove(registration, read_key(waiting), request)
                except NotPermitted:
                    raise refusal from None
        finally:
            await registration.close()

    async def _prove(
        self, registration: "Registration", signer: PrivateKey, request: str
    ) -> RenewalResponse:
        device = self._identity.device
        challenge = await registration.challenge(device)
        content = renewal_proof(
            fleet=self._fleet, device=device, challenge=challenge, certificate_request=request
        )
        return await registration.renew_proven(
            ProvenRenewalRequest(
                device=device,
                challenge=challenge,
                certificate_request=request,
                signature=signer.sign(content, ec.ECDSA(hashes.SHA256())).hex(),
            )
        )

    async def _confirm(self) -> None:
        """Tell the controller that the waiting certificate is on this disk, by using it.

        Raises:
            DownloadInterrupted: perhaps because the handshake refuses it. NotPermitted: likewise.
            ConfigurationInvalid: it is damaged. ServerUnavailable, DiskFull, DiskFailing
        """
        waiting = successor_of(self._files.certificate)
        context = tls_context(self._files.ca, waiting, successor_of(self._files.key))
        check_dates(context, check=self._identity.spans(self._now()))
        registration = self._registration(context)
        try:
            await registration.confirm()
        finally:
            await registration.close()
        with disk_errors("keeping a confirmed certificate"):
            waiting.replace(confirmed_of(self._files.certificate))
            fsync_directory(self._files.certificate.parent)

    def _take(self) -> None:
        exchange(self._files, self._rewrap)
        self._adopt()

    def _adopt(self) -> None:
        """Go on with what is on the disk."""
        found = load_identity(self._files.key, self._files.certificate)
        self._identity.become(found)
        # In place: whoever holds this context connects with the new certificate from here on.
        self._tls.load_cert_chain(self._files.certificate, self._files.key)
        self._renewed_at = self._monotonic()
        self._share = self._draw_share()
        self._follow_clock()
        _log.info("The device's certificate was renewed, until %s.", found.expires_at)
        self._renewed()

    async def _refused(self) -> bool:
        """Whether our certificate is not taken, although our clock finds nothing wrong with it."""
        if self._connected():
            self._connected_at = self._monotonic()
            return False
        if self._monotonic() - self._connected_at < UNCONNECTED_SECONDS:
            return False
        self._connected_at = self._monotonic()
        registration = self._registration(self._tls)
        try:
            await registration.confirm()  # changes nothing for a key that counts already
        except DownloadInterrupted:
            return True
        except ServerUnavailable:
            return False  # nobody is there who could renew it either
        finally:
            await registration.close()
        return False

    def _follow_clock(self) -> None:
        check_dates(self._tls, check=self._identity.spans(self._now()))

    def _require_own(self, response: RenewalResponse, key: PrivateKey) -> None:
        """Whatever the next start will ask of it is asked now, while the old one is here: an agent
        without an identity does not start, and serves nothing."""
        identity, content = self._identity, response.certificate.encode()
        try:
            found = identity_of(key, content, self._files.certificate)
            own = (found.device, found.enrolment_number) == (
                identity.device,
                identity.enrolment_number,
            )
        except ConfigurationInvalid:
            own = False
        if not own:
            raise MalformedPayload(
                "The controller's answer is no certificate for this device's key.",
                next_step="check api_url and the version of the controller; it is asked again.",
            )

    def _draw_share(self) -> float:
        return DUE_SHARE + DUE_SHARE_JITTER * self._rng.random()
