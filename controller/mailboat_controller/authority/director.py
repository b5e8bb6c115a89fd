"""The director's key alone, for a process that acknowledges what devices say, no more."""

from collections.abc import Collection
from pathlib import Path

from securesystemslib.signer import Signer

from mailboat_controller.authority.keys import load_key, open_signer
from mailboat_controller.authority.online import NEXT, OnlineKeyNotNamed, seal
from mailboat_schemas.codec import encode
from mailboat_schemas.envelope import PayloadType
from mailboat_schemas.reports import Ack

_FILE = "director.pem"


class DirectorKey:
    """Signs with the key that the newest metadata names; keys are rotated while we run."""

    def __init__(self, directory: Path, sources: str, keyids: Collection[str]) -> None:
        """
        Args:
            sources: as in the setting ``director_key``; empty: ``director.pem`` in ``directory``.
            keyids: which the metadata names.

        Raises:
            OnlineKeyNotNamed: none of the keys here is among them.
            ConfigurationInvalid: a key cannot be opened.
        """
        self._directory = directory
        self._sources = sources
        self._signer = self._open(keyids)

    def follow(self, keyids: Collection[str]) -> None:
        """Take the key that the metadata names now."""
        if self._signer.public_key.keyid not in keyids:
            self._signer = self._open(keyids)

    def sign_ack(self, ack: Ack) -> bytes:
        return seal(self._signer, PayloadType.ACK, encode(ack))

    def _open(self, keyids: Collection[str]) -> Signer:
        named = self._sources.split()
        places = (self._directory / _FILE, self._directory / NEXT / _FILE)
        signers = [open_signer(source) for source in named]
        if not named:
            signers = [load_key(path) for path in places if path.is_file()]
        for signer in signers:
            if signer.public_key.keyid in keyids:
                return signer
        raise OnlineKeyNotNamed(
            f"None of the director's keys in {self._directory} is the one that the trust metadata "
            "names.",
            next_step="bring the leader's keys/director.pem here, or set director_key.",
        )
