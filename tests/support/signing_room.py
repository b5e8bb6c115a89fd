"""Drafting and signing changes of keys and roles with the keys of a `TrustFleet` on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from mailboat_controller.authority.changes import Draft
from mailboat_controller.authority.keys import create_key, load_key
from mailboat_controller.authority.pending import Pending
from mailboat_controller.store import trust_roles
from mailboat_controller.store.engine import Store


@dataclass
class SigningRoom:
    """``keys`` is the ceremony's directory."""

    keys: Path
    now: datetime

    def key(self, name: str) -> CryptoSigner:
        """An existing key, such as ``offline/root``."""
        return load_key(self.keys / f"{name}.pem")

    def new_key(self, name: str) -> CryptoSigner:
        """A key that nobody names yet."""
        return create_key(self.keys / "new" / f"{name}.pem", name=name)

    def pending(self, held: dict[str, bytes], change: Callable[[Draft], object]) -> Pending:
        draft = Draft(held, self.now)
        change(draft)
        return Pending.of(held, draft.finish())

    def signed(
        self, held: dict[str, bytes], change: Callable[[Draft], object], *signers: CryptoSigner
    ) -> dict[str, bytes]:
        """The finished roles, signed with these keys; complete or the test fails."""
        pending = self.pending(held, change)
        for signer in signers:
            pending.sign(signer)
        return pending.submission()


def held_by(store: Store) -> dict[str, bytes]:
    with store.read() as tx:
        return trust_roles.newest(tx)
