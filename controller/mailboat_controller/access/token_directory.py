"""People's tokens for whoever has the controller's disk: issuing, listing, revoking.

Issuing is done here and nowhere else, so that no token can make another one.
"""

from datetime import datetime
from pathlib import Path

from mailboat_controller.access.people import DAYS_MAX, Role, Token, new_token
from mailboat_controller.config import ControllerSettings
from mailboat_controller.connection_file import FILE_NAME, TOKEN_FILE, save_connection
from mailboat_controller.data_directory import addresses_of
from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.store import access_tokens, audit
from mailboat_controller.store.access_tokens import AccessTokenRow
from mailboat_controller.store.engine import Store
from mailboat_schemas.enrolment import Connection
from mailboat_schemas.errors import ConfigurationInvalid, NotFound
from mailboat_schemas.names import is_label


def issue_token(
    settings: ControllerSettings,
    name: str,
    role: Role,
    out: Path,
    *,
    days: int,
    actor: str,
    now: datetime,
    reason: str = "",
) -> Path:
    """Token, CA and connection file for a person, in a directory that others cannot read.

    Returns:
        The path of ``connection.toml`` in ``out``.

    Raises:
        ConfigurationInvalid: not a name, too many days, or the controller's port is not known.
        Conflict: the person has too many tokens in force.
    """
    if not is_label(name) or not 1 <= days <= DAYS_MAX:
        raise ConfigurationInvalid(
            f"No token can be made for {name!r} and {days} days.",
            next_step="use lower-case letters, digits and inner hyphens for the name, and at most "
            f"{DAYS_MAX} days: its holder renews it with `mailboat token renew`.",
        )
    addresses = addresses_of(settings)
    authority = Authority.load(settings.pki_dir)
    token = new_token()
    _record(settings, token, name, role, days=days, actor=actor, now=now, reason=reason)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_durably(out / TOKEN_FILE, f"{token.text()}\n".encode())
    replace_durably(out / "ca.pem", authority.ca_pem, mode=PUBLIC_MODE)
    connection = Connection(
        fleet=settings.fleet,
        name=name,
        api_url=addresses.api_url,
        mqtt_host=addresses.mqtt_host,
        mqtt_port=addresses.mqtt_port,
        ca="ca.pem",
        token=TOKEN_FILE,
    )
    save_connection(out / FILE_NAME, connection)
    return out / FILE_NAME


def list_tokens(settings: ControllerSettings) -> tuple[AccessTokenRow, ...]:
    """Every token of the last year, oldest first."""
    store = Store(settings.store_url)
    try:
        with store.read() as tx:
            return access_tokens.every(tx)
    finally:
        store.close()


def revoke_tokens(
    settings: ControllerSettings,
    name: str,
    *,
    token_id: str | None,
    reason: str,
    actor: str,
    now: datetime,
) -> int:
    """End every token of a person, or one with its renewals; returns how many were in force.

    Raises:
        NotFound: there is none in force.
    """
    store = Store(settings.store_url)
    try:
        with store.transaction() as tx:
            count = access_tokens.revoke(tx, name, now, token_id=token_id)
            if count == 0:
                raise NotFound(
                    f"{name} has no such access token in force.",
                    next_step="`mailboat token list` shows all of them.",
                )
            audit.append(
                tx,
                at=now,
                actor=actor,
                action="access_token.revoke",
                subject=f"person:{name}",
                reason=reason,
                details={"id": token_id, "count": count},
            )
            return count
    finally:
        store.close()


def _record(
    settings: ControllerSettings,
    token: Token,
    name: str,
    role: Role,
    *,
    days: int,
    actor: str,
    now: datetime,
    reason: str,
) -> None:
    store = Store(settings.store_url)
    try:
        with store.transaction() as tx:
            access_tokens.add(tx, token, name=name, role=role, days=days, at=now, created_by=actor)
            audit.append(
                tx,
                at=now,
                actor=actor,
                action="access_token.issue",
                subject=f"token:{token.id}",
                reason=reason,
                details={"name": name, "role": str(role), "days": days},
            )
    finally:
        store.close()
