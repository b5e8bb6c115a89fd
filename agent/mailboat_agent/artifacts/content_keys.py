"""Content keys as this device uses them: asked for once, unwrapped whenever a file is opened.

The clear key lives as long as the call that opens a file with it, and nowhere on the disk.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from mailboat_agent.artifacts.wrapped_keys import WrappedKeys
from mailboat_agent.facts import Device
from mailboat_schemas.content_key import (
    WrappedContentKey,
    WrongContentKey,
    device_key_id,
    unwrap,
    wrap_to_device,
)
from mailboat_schemas.errors import ArtifactMissing, MalformedPayload

if TYPE_CHECKING:
    from mailboat_agent.artifacts.download import HttpsSource

PrivateKey = ec.EllipticCurvePrivateKey
# One more than once: a renewal may change the device's key between the question and the answer.
FETCHES_MAX = 2


class ContentKeyUnusable(ArtifactMissing):
    """The device holds no content key that its own key opens; it asks for it again."""

    code = "E-CONTENT-KEY-UNUSABLE"


class ContentKeys:
    """``private_keys`` gives the key that the device has now, and one that a renewal is about to
    put in its place, if there is one."""

    def __init__(
        self,
        wrapped: WrappedKeys,
        device: Device,
        private_keys: Callable[[], Iterable[PrivateKey]],
        source: "Callable[[], HttpsSource]",
    ) -> None:
        """``source`` is asked for when a key is to be fetched, not before."""
        self._wrapped = wrapped
        self._fleet = device.fleet
        self._device = device.device
        self._private_keys = private_keys
        self._source = source

    def open(self, key_id: str) -> bytes:
        """The clear key.

        Raises:
            ContentKeyUnusable: not here, or it does not open; then it is here no more.
        """
        held = self._wrapped.read(key_id)
        if held is not None:
            try:
                return self._unwrap_with_any(held)
            except WrongContentKey:
                self._wrapped.remove(key_id)
        raise ContentKeyUnusable(
            f"This device has no content key {key_id} that its own key opens.",
            next_step="nothing; it is asked for again when the controller can be reached.",
        )

    async def ensure(self, key_id: str) -> None:
        """Have the key here, wrapped; asks the controller only if it is not, or does not open.

        Raises:
            Transient: the controller cannot be asked, or does not have it.
            NotPermitted: it does not give it to this device.
            MalformedPayload: what it gave does not open here.
        """
        try:
            self.open(key_id)
        except ContentKeyUnusable:
            self._wrapped.put(await self._fetch(key_id))

    async def _fetch(self, key_id: str) -> WrappedContentKey:
        for attempt in range(1, FETCHES_MAX + 1):
            given = await self._source().fetch_content_key(key_id)
            try:
                self._unwrap_with_any(given)
            except WrongContentKey as error:
                if attempt == FETCHES_MAX:
                    raise MalformedPayload(
                        f"The controller gave a content key {key_id} that does not open here.",
                        next_step="see that the device's certificate and key belong together; "
                        "it asks again.",
                    ) from error
            else:
                break
        return given

    def rewrap(self, old: PrivateKey, new: PrivateKey) -> None:
        """Before the device's key changes: what the old one opens is kept for the new one.

        May be repeated. Nothing is asked of the network, so a device that loses it in between
        still serves; what cannot be kept is fetched again.

        Raises:
            DiskFull, DiskFailing: keep the old key and try again.
        """
        for key_id in self._wrapped.ids():
            held = self._wrapped.read(key_id)
            if held is None:
                continue
            try:
                key = self._unwrap(held, old)
            except WrongContentKey:
                continue  # it is the new one's already
            to = new.public_key()
            wrapped = wrap_to_device(key, to, fleet=self._fleet, device=self._device)
            self._wrapped.put(WrappedContentKey.of(key_id, device_key_id(to), wrapped))

    def _unwrap_with_any(self, held: WrappedContentKey) -> bytes:
        """
        Raises:
            WrongContentKey: none of the device's keys opens it.
        """
        own, *waiting = self._private_keys()
        try:
            return self._unwrap(held, own)
        except WrongContentKey:
            for key in waiting:
                with suppress(WrongContentKey):
                    return self._unwrap(held, key)
            raise

    def _unwrap(self, held: WrappedContentKey, key: PrivateKey) -> bytes:
        names = {"key_id": held.content_key, "fleet": self._fleet, "device": self._device}
        return unwrap(held.wrapped, key, **names)
