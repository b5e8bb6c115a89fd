"""What the device connects and signs with: one identity, one TLS context, and who uses them.

A renewal changes both in place, so nobody has to be told which certificate counts; connections that
were made with the old one are made anew.
"""

import contextlib
import logging
import random
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from mailboat_agent.artifacts.content_keys import ContentKeys
from mailboat_agent.artifacts.mirrored_source import MirroredSource
from mailboat_agent.artifacts.pace import Pace
from mailboat_agent.artifacts.wrapped_keys import WrappedKeys
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.ballast import give_up_ballast
from mailboat_agent.config import AgentConfig
from mailboat_agent.facts import Device
from mailboat_agent.identity.device_key import (
    Identity,
    check_dates,
    load_identity,
    read_key,
    successor_of,
    tls_context,
)
from mailboat_agent.identity.key_exchange import IdentityFiles, exchange
from mailboat_agent.identity.renewal import Renewal
from mailboat_schemas.codec import encode
from mailboat_schemas.deltas import Source
from mailboat_schemas.envelope import sign_as_device
from mailboat_schemas.errors import ConfigurationInvalid, DiskFull

if TYPE_CHECKING:
    from mailboat_agent.artifacts.download import HttpsSource
    from mailboat_agent.identity.registration import Registration

_log = logging.getLogger(__name__)


class Credentials:
    def __init__(self, config: AgentConfig, wrapped: WrappedKeys, *, now: datetime) -> None:
        """
        Raises:
            ConfigurationInvalid: not enrolled, or as another device.
            DiskFull, DiskFailing: a renewal was cut between its two files, and cannot be finished.
        """
        self._config = config
        self._files = IdentityFiles(ca=config.ca, key=config.key, certificate=config.certificate)
        self._sources: list[HttpsSource] = []
        self._caches: tuple[HttpsSource, ...] | None = None
        self._old_caches: list[HttpsSource] = []
        self._object_store_tls: ssl.SSLContext | None = None
        self._pace = Pace(config.bandwidth_bytes_per_second)
        device = Device.of(config, enrolment_number=0)
        self.content_keys = ContentKeys(wrapped, device, self._keys, self.https)
        self._finish_renewal()
        self.identity = _identity_of(config)
        self.tls = tls_context(config.ca, config.certificate, config.key)
        check_dates(self.tls, check=self.identity.spans(now))

    def https(self) -> "HttpsSource":
        """The connection to the controller; the same until the next renewal."""
        if not self._sources:
            self._sources.append(self._connect(self.tls))
        return self._sources[-1]

    def caches(self) -> "tuple[HttpsSource, ...]":
        """The connections to the site's caches, in order; the same until the next renewal. None
        if they cannot be made: a device can do without."""
        if self._caches is None:
            try:
                self._caches = self._connect_caches()
            except ConfigurationInvalid as error:
                _log.error("The mirrors cannot be used: %s", error)
                self._caches = ()
        return self._caches

    def artifacts(self, rng: random.Random) -> MirroredSource:
        """Whoever may have an artifact."""
        return MirroredSource(
            controller=self.https,
            caches=self.caches,
            cache_names=self._config.mirrors,
            object_store=self._trust_in_object_store,
            rng=rng,
        )

    def seal(self, payload_type: str, payload: bytes) -> bytes:
        """The bytes of an envelope, signed with the key this device has now."""
        identity = self.identity
        return encode(sign_as_device(payload_type, payload, identity.key, identity.keyid))

    def renewal(
        self,
        *,
        connected: Callable[[], bool],
        reconnect: Callable[[], None],
        now: Callable[[], datetime],
        rng: random.Random,
    ) -> Renewal:
        """The task that keeps all this in force.

        Args:
            connected, reconnect: of the link to the broker.
        """

        def renewed() -> None:
            self._begin_new_connection()
            reconnect()

        return Renewal(
            identity=self.identity,
            files=self._files,
            fleet=self._config.fleet,
            new_key=self._config.renewal_key == "new",
            tls=self.tls,
            registration=self._register,
            rewrap=self.content_keys.rewrap,
            make_room=self._make_room,
            renewed=renewed,
            connected=connected,
            now=now,
            monotonic=time.monotonic,
            rng=rng,
        )

    async def close(self) -> None:
        for source in (*self._sources, *self._old_caches, *(self._caches or ())):
            await source.close()

    def _begin_new_connection(self) -> None:
        # A download under way goes on over the old connection; it is closed with the agent. One a
        # renewal, of which there are few in the life of a process.
        self._sources.append(self._connect(self.tls))
        self._old_caches += self._caches or ()
        self._caches = None

    def _connect_caches(self) -> "tuple[HttpsSource, ...]":
        from mailboat_agent.artifacts.download import HttpsSource

        config = self._config
        if not config.mirrors:
            return ()
        tls = tls_context(config.mirror_ca or config.ca, config.certificate, config.key)
        return tuple(
            HttpsSource(url, tls, source=Source.SITE_CACHE, pace=self._pace)
            for url in config.mirrors
        )

    def _trust_in_object_store(self) -> ssl.SSLContext:
        if self._object_store_tls is None:
            ca = self._config.object_store_ca
            self._object_store_tls = ssl.create_default_context() if ca is None else tls_context(ca)
        return self._object_store_tls

    def _connect(self, tls: ssl.SSLContext) -> "HttpsSource":
        from mailboat_agent.artifacts.download import HttpsSource

        return HttpsSource(self._config.api_url, tls, pace=self._pace)

    def _register(self, tls: ssl.SSLContext) -> "Registration":
        from mailboat_agent.identity.registration import Registration

        return Registration(self._connect(tls))

    def _keys(self) -> Iterator[ec.EllipticCurvePrivateKey]:
        """The device's own, and one that is about to take its place: what was wrapped for it may
        be on the disk already."""
        yield self.identity.key
        waiting = successor_of(self._files.key)
        if waiting.exists():
            with contextlib.suppress(ConfigurationInvalid):
                yield read_key(waiting)

    def _finish_renewal(self) -> None:
        """One that was cut. What serves needs no certificate, so nothing of this keeps the agent
        from starting; the renewal's own task tries again."""
        try:
            self._exchange()
        except (DiskFull, DiskFailing, ConfigurationInvalid) as error:
            _log.error("A renewal of the device's certificate is not finished: %s", error)

    def _exchange(self) -> None:
        try:
            exchange(self._files, self.content_keys.rewrap)
        except DiskFull:
            self._make_room()
            exchange(self._files, self.content_keys.rewrap)

    def _make_room(self) -> None:
        give_up_ballast(self._config.data_dir)


def _identity_of(config: AgentConfig) -> Identity:
    identity = load_identity(config.key, config.certificate)
    if identity.device != config.device:
        raise ConfigurationInvalid(
            f"The certificate is of device {identity.device}, the configuration says "
            f"{config.device}.",
            next_step="correct 'device' in agent.toml, or enrol again.",
        )
    return identity
