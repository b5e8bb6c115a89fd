"""Who is asking, and who may: the roles of people, the kinds of certificates.

`gate.py` has found out who asks before anything here runs; each route names whom it is for by one
of the dependencies below. A person comes with a bearer token, everybody else with a certificate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, Request

from mailboat_controller.access.artifact_tokens import ArtifactTokenElsewhere, Grant
from mailboat_controller.access.people import PEOPLE, Role
from mailboat_controller.api.context import ApiContext
from mailboat_controller.pki.certificates import Holder, public_key_of
from mailboat_controller.store import audit, credentials, devices
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import MailboatError, NotPermitted

IDENTITY = "mailboat_identity"  # its place in the request's state
OLD_KEY_ACTOR = "device:old-key"  # whoever has a key that its device replaced
OLD_KEY_EVERY = timedelta(hours=1)  # so often it is written down, for each device


class IdentityRequired(NotPermitted):
    code = "E-IDENTITY-REQUIRED"


class CertificateRequired(IdentityRequired):
    """Of a route that no token opens."""

    code = "E-CERTIFICATE-REQUIRED"


class Revoked(NotPermitted):
    code = "E-REVOKED"


class KeySuperseded(NotPermitted):
    """A device's certificate for a key that the device has replaced: an old copy of its disk, or
    somebody who stole the key."""

    code = "E-KEY-SUPERSEDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """The holder of an access token. Prints as the actor in the audit log: ``operator:alice``."""

    role: Role
    name: str
    token_id: str
    ends_soon: datetime | None = None  # when the token ends, in its last days

    @property
    def kind(self) -> Role:
        """So that a person and the holder of a certificate can be told apart alike."""
        return self.role

    def __str__(self) -> str:
        return f"{self.role}:{self.name}"


Caller = Person | Holder
# What the gate found: somebody, a token for one artifact, nobody, or why it is nobody.
Identity = Caller | Grant | MailboatError | None


def identity_of(request: Request) -> Identity:
    found: Identity = request.scope.get("state", {}).get(IDENTITY)
    return found


_ALLOWED: dict[Callable[..., Any], tuple[Kind | Role, ...]] = {}


def allowed_by(dependency: Callable[..., Any]) -> tuple[Kind | Role, ...]:
    """Whom a dependency that was made here lets in; empty for any other."""
    return _ALLOWED.get(dependency, ())


def require(*allowed: Kind | Role) -> Callable[[Request], Any]:
    """A dependency: the caller, who must be one of these.

    Raises:
        IdentityRequired, CertificateRequired: nobody asks.
        NotPermitted: somebody else, or one whom `authentication.py` refused.
    """
    # Not by `in`: a kind and a role of the same name would be equal, as strings.
    kinds = [each for each in allowed if isinstance(each, Kind)]
    people = [each for each in allowed if isinstance(each, Role)]

    def caller(request: Request) -> Caller:
        match identity_of(request):
            case None:
                raise _nobody(people=bool(people))
            case MailboatError() as refusal:
                raise refusal
            case Grant() as grant:
                raise ArtifactTokenElsewhere(
                    f"This token of {grant} opens one artifact and nothing else.",
                    next_step="come as yourself, with a connection file.",
                )
            case Person() as person if person.role in people:
                return person
            case Holder() as holder if holder.kind in kinds:
                return holder
            case somebody:
                raise NotPermitted(
                    f"{somebody} may not do this; it takes one of: {', '.join(allowed)}.",
                    next_step="use a connection of that kind (`mailboat token issue` for people, "
                    "`mailboat credential issue` for pipelines and dashboards).",
                )

    _ALLOWED[caller] = allowed
    return caller


# People alone.
Viewer = Annotated[Person, Depends(require(*PEOPLE))]
Operator = Annotated[Person, Depends(require(Role.OPERATOR))]
Approver = Annotated[Person, Depends(require(Role.APPROVER))]
# Certificates alone.
Device = Annotated[Holder, Depends(require(Kind.DEVICE))]
Pipeline = Annotated[Holder, Depends(require(Kind.CI))]
Site = Annotated[Holder, Depends(require(Kind.SITE))]
# Whoever may look at the fleet: people and dashboards.
Reader = Annotated[Caller, Depends(require(*PEOPLE, Kind.DASHBOARD))]
# Whoever may bring a release; and whoever may bring that or an approval (`submissions.py`).
PUBLISHERS = (Kind.CI, Role.OPERATOR)
Publisher = Annotated[Caller, Depends(require(*PUBLISHERS))]
Submitter = Annotated[Caller, Depends(require(Kind.CI, Role.OPERATOR, Role.APPROVER))]
AnyHolder = Annotated[Caller, Depends(require(Kind.DEVICE, Kind.CI, *PEOPLE))]
DeviceOrOperator = Annotated[Caller, Depends(require(Kind.DEVICE, Role.OPERATOR))]

# The model's bytes are worth more than what a viewer is there for.
# A site fetches for its cache.
_FETCHERS = (Kind.DEVICE, Kind.SITE, Kind.CI, Role.OPERATOR, Role.APPROVER)
Fetcher = Annotated[Caller, Depends(require(*_FETCHERS))]
_fetcher = require(*_FETCHERS)


def _fetcher_or_granted(request: Request) -> Caller | Grant:
    found = identity_of(request)
    if not isinstance(found, Grant):
        caller: Caller = _fetcher(request)
        return caller
    if request.path_params["digest"] != found.digest:
        raise ArtifactTokenElsewhere(
            f"This token of {found} opens another artifact, sha256 {found.digest}.",
            next_step="ask for a token for this artifact.",
        )
    return found


_ALLOWED[_fetcher_or_granted] = _FETCHERS
Downloader = Annotated[Caller | Grant, Depends(_fetcher_or_granted)]


def _nobody(*, people: bool) -> NotPermitted:
    next_step = "name a connection file with --connection or MAILBOAT_CONNECTION."
    if people:
        return IdentityRequired(
            "This request came without a token and without a client certificate.",
            next_step=next_step,
        )
    return CertificateRequired(
        "This request came without a client certificate.", next_step=next_step
    )


def check_registry(holder: Holder, certificate: bytes, context: ApiContext) -> None:
    """
    Raises:
        Revoked: known, and cut off. NotPermitted: not known.
    """
    superseded = False
    with context.store.read() as tx:
        if holder.kind is Kind.DEVICE:
            device = devices.by_name(tx, holder.name)
            # The key, not the serial: a device may use its old certificate until it has stored the
            # new one.
            known = device is not None and device.has_key(public_key_of(certificate))
            revoked = device is not None and device.revoked
            superseded = device is not None and not known
        else:
            credential = credentials.by_serial(tx, holder.serial)
            known = credential is not None
            revoked = credential is not None and credential.revoked
    if revoked:
        raise Revoked(
            f"{holder} is revoked.",
            next_step="if that was a mistake, enrol it anew under another name, "
            "or issue a new credential.",
        )
    if superseded:
        _note_old_key(holder, context)
        raise KeySuperseded(
            f"{holder} has replaced the key of this certificate.",
            next_step="stop the copy that uses it; if there is none that you know of, the key was "
            "stolen: revoke the device and enrol it under another name.",
        )
    if not known:
        raise NotPermitted(
            f"{holder} has a certificate of this fleet, but is not in its registry.",
            next_step="enrol it again; the registry may have been restored from an old backup.",
        )


def _note_old_key(holder: Holder, context: ApiContext) -> None:
    """In the audit log, once an hour for each device."""
    now, subject = context.now(), holder.name
    with context.store.transaction() as tx:
        if audit.count_since(tx, subject, actor=OLD_KEY_ACTOR, since=now - OLD_KEY_EVERY):
            return
        audit.append(
            tx,
            at=now,
            actor=OLD_KEY_ACTOR,
            action="device.old_key",
            subject=subject,
            reason="a key that the device had replaced was used",
            details={"certificate_serial": holder.serial},
        )
