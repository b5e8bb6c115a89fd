"""Who people are to the API: a role, and a bearer token that proves it.

A token reads ``mbt_<id>_<secret>``. The id is public: it stands in lists and in the audit log. The
secret is 256 random bits, and only its sha256 is stored. bcrypt and its like are slow on purpose,
against guessing what a person made up; nobody guesses 256 random bits, and a slow hash on every
request would let anybody who reaches the port keep our processor busy. The prefix is for programs
that search repositories and logs for secrets.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

ID_BYTES = 8
SECRET_BYTES = 32
TOKEN_PREFIX = "mbt_"  # noqa: S105  what every token begins with, no secret
TOKEN_CHARS_MAX = 128  # of a token file; a token has 85 and a line feed

DAYS_DEFAULT = 30
DAYS_MAX = 90
# A person renews by themselves for so long; then somebody with the controller's disk looks again.
RENEWABLE = timedelta(days=365)

_FORM = re.compile(rf"mbt_([0-9a-f]{{{2 * ID_BYTES}}})_([0-9a-f]{{{2 * SECRET_BYTES}}})")


class Role(StrEnum):
    """What a person may do. One token has one role; who needs two has two tokens."""

    VIEWER = "viewer"  # read
    OPERATOR = "operator"  # read, and change rollouts, classes, devices, kits and trust roles
    APPROVER = "approver"  # read, and hand in approvals; the signature is what counts


PEOPLE = tuple(Role)


@dataclass(frozen=True, slots=True)
class Token:
    """``text()`` is the only way to the secret; printing a token shows its id alone."""

    id: str
    _secret: str = field(repr=False)

    def __str__(self) -> str:
        return f"{TOKEN_PREFIX}{self.id}_…"

    def text(self) -> str:
        return f"{TOKEN_PREFIX}{self.id}_{self._secret}"

    @property
    def secret_sha256(self) -> str:
        return hashlib.sha256(bytes.fromhex(self._secret)).hexdigest()


def new_token() -> Token:
    return Token(secrets.token_hex(ID_BYTES), secrets.token_hex(SECRET_BYTES))


def parse_token(text: str) -> Token | None:
    """The token that a text is, or None."""
    found = _FORM.fullmatch(text)
    return None if found is None else Token(found[1], found[2])
