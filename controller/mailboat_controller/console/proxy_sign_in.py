"""People whom a proxy has signed in, by OpenID Connect or however it does: the hook for single
sign-on.

We speak no OpenID Connect. A proxy that does (oauth2-proxy, Pomerium, an ingress) stands in front,
comes over TLS with a dashboard credential of this fleet that ``console.proxy`` names, and says in
two headers who it is and in which groups. Headers of anybody else say nothing: the certificate is
what is trusted, it is in the registry, and revoking it ends every sign-in at the next request.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence

from mailboat_controller.access.artifact_tokens import Grant
from mailboat_controller.access.people import Role
from mailboat_controller.api.identity import Caller, Person
from mailboat_controller.console.settings import ConsoleSettings
from mailboat_controller.pki.certificates import Holder
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import NotPermitted

NAME_CHARS_MAX = 55  # with the role and the longest name of a proxy, what the audit log holds
DIGEST_CHARS = 16
GROUPS_MAX = 200
TOKEN_ID = "proxy"  # noqa: S105  in place of the id of a token: nothing here came with one
# The most that somebody may do, where groups give several roles: a person has one.
_ORDER = (Role.OPERATOR, Role.APPROVER, Role.VIEWER)
_OTHER = re.compile(r"[^A-Za-z0-9._@+-]")
_BLANKS = b" \t"  # bytes of UTF-8 are blanks too, if one reads them as letters


class ProxySignInRefused(NotPermitted):
    code = "E-PROXY-SIGN-IN"


def person_of(
    found: Caller | Grant | None,
    headers: Iterable[tuple[bytes, bytes]],
    settings: ConsoleSettings,
) -> Person | None:
    """The person that a proxy speaks for; None where it is not that proxy that asks.

    Raises:
        ProxySignInRefused: the proxy names nobody, or somebody without a role here.
    """
    if not isinstance(found, Holder) or (found.kind, found.name) != (
        Kind.DASHBOARD,
        settings.proxy,
    ):
        return None
    sent = list(headers)
    users = _values(sent, settings.proxy_user_header)
    if len(users) != 1 or not users[0].strip(b"-"):
        raise ProxySignInRefused(
            f"The proxy {found.name} came without one header {settings.proxy_user_header}.",
            next_step="let it sign people in before it passes their requests on.",
        )
    groups = b",".join(_values(sent, settings.proxy_groups_header)).split(b",", GROUPS_MAX)
    names = [each.strip(_BLANKS).decode(errors="replace") for each in groups[:GROUPS_MAX]]
    given = {settings.proxy_roles.get(each) for each in names}
    role = next((each for each in _ORDER if each in given), None)
    # No access token has a name with a slash, so nobody is taken for its holder in the audit log.
    name = f"{found.name}/{_name_of(users[0])}"
    if role is None:
        raise ProxySignInRefused(
            f"{name} was signed in by {found.name}, and has no role here.",
            next_step="add one of their groups to console.proxy_roles in controller.toml.",
        )
    return Person(role=role, name=name, token_id=TOKEN_ID)


def _name_of(user: bytes) -> str:
    """As it stands in the audit log, in plain letters: two people never have one name.

    What is no plain letter is written as in an address (``J%C3%B6rg``); of one that is too long the
    end is its sha256.
    """
    plain = _OTHER.sub(lambda found: f"%{ord(found[0]):02X}", user.decode("latin-1"))
    if len(plain) <= NAME_CHARS_MAX:
        return plain
    digest = hashlib.sha256(user).hexdigest()[:DIGEST_CHARS]
    return f"{plain[: NAME_CHARS_MAX - DIGEST_CHARS - 1]}~{digest}"


def _values(headers: Sequence[tuple[bytes, bytes]], name: str) -> list[bytes]:
    wanted = name.lower().encode()
    return [value.strip(_BLANKS) for each, value in headers if each.lower() == wanted]
