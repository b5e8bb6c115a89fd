"""Who is asking: the client certificate of the connection, checked against the registry.

The TLS handshake has verified that our CA signed it. Here the fleet must be ours and the registry
must know the holder and not have revoked it; what nobody registered may not ask.
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from mailboat_controller.api.context import ApiContext, context_of
from mailboat_controller.https_server import CLIENT_CERTIFICATE, EXTENSION
from mailboat_controller.pki.certificates import Holder, holder_of, public_key_of
from mailboat_controller.store import credentials, devices
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import NotPermitted


class CertificateRequired(NotPermitted):
    code = "E-CERTIFICATE-REQUIRED"


class Revoked(NotPermitted):
    code = "E-REVOKED"


def require(*kinds: Kind) -> Callable[[Request], Holder]:
    """A dependency: the caller, who must be one of these kinds.

    Raises:
        CertificateRequired: no certificate. NotPermitted: another kind, fleet, or unknown.
        Revoked: known, and cut off.
    """

    def holder(request: Request) -> Holder:
        certificate = _certificate(request)
        found = holder_of(certificate)
        context = context_of(request)
        if found.fleet != context.settings.fleet or found.kind not in kinds:
            raise NotPermitted(
                f"{found} may not do this; it takes a certificate of: {', '.join(kinds)}.",
                next_step="use a connection file of that kind "
                "(`mailboat credential issue --kind …`).",
            )
        _check_registry(found, certificate, context)
        return found

    return holder


Operator = Annotated[Holder, Depends(require(Kind.OPERATOR))]
# Whoever may look at the fleet: people and dashboards.
Reader = Annotated[Holder, Depends(require(Kind.OPERATOR, Kind.DASHBOARD))]
Publisher = Annotated[Holder, Depends(require(Kind.CI, Kind.OPERATOR))]
AnyHolder = Annotated[Holder, Depends(require(Kind.DEVICE, Kind.CI, Kind.OPERATOR))]
DeviceOrOperator = Annotated[Holder, Depends(require(Kind.DEVICE, Kind.OPERATOR))]


def _certificate(request: Request) -> bytes:
    tls = (request.scope.get("extensions") or {}).get(EXTENSION) or {}
    certificate: bytes | None = tls.get(CLIENT_CERTIFICATE)
    if certificate is None:
        raise CertificateRequired(
            "This request came without a client certificate.",
            next_step="name a connection file with --connection or MAILBOAT_CONNECTION.",
        )
    return certificate


def _check_registry(holder: Holder, certificate: bytes, context: ApiContext) -> None:
    with context.store.read() as tx:
        if holder.kind is Kind.DEVICE:
            device = devices.by_name(tx, holder.name)
            # The key, not the serial: a device may use its old certificate until it has stored the
            # new one.
            known = device is not None and device.public_key == public_key_of(certificate)
            revoked = device is not None and device.revoked
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
    if not known:
        raise NotPermitted(
            f"{holder} has a certificate of this fleet, but is not in its registry.",
            next_step="enrol it again; the registry may have been restored from an old backup.",
        )
