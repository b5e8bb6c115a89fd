"""What a site fetches for its own broker, with its bridge's certificate: access rules, the list of
revoked certificates, and new certificates of its own."""

import hashlib
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Request, Response

from mailboat_controller.api import etags
from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.identity import Site
from mailboat_controller.api.sites import SiteLabel
from mailboat_controller.broker.access_files import CRL_FILE
from mailboat_controller.pki.certificates import Holder
from mailboat_controller.sites.access_rules import access_rules
from mailboat_controller.sites.renewal import Part, renew
from mailboat_controller.store import sites
from mailboat_schemas.errors import NotPermitted, ServerUnavailable

_TEXT = "text/plain; charset=utf-8"
_PEM = "application/x-pem-file"

router = APIRouter(prefix="/v1/sites", tags=["sites"])


@router.get(
    "/{name}/access/{file}",
    response_class=Response,
    responses=etags.described("text/plain"),
)
def get_access_file(
    name: SiteLabel,
    file: Literal["acl", "crl.pem"],
    request: Request,
    holder: Site,
    context: Context,
) -> Response:
    """What the site's own broker goes by, for its bridge's certificate alone."""
    _refuse_another(holder, name)
    now = context.now()
    with context.store.read() as tx:
        row = sites.get(tx, name)
        cut_off = sites.cut_off(tx, name, now)
    # Once a minute of many sites, or as often as a taken one likes: few of them are written down.
    if row.fetched_at is None or now - row.fetched_at >= sites.FETCHES_NOTED_EVERY:
        with context.store.transaction() as tx:
            sites.note_fetched(tx, name, now)
    if file == "acl":
        content = access_rules(context.settings.fleet, name, cut_off).encode()
    else:
        content = _revocation_list(context)
    digest = hashlib.sha256(content).hexdigest()
    return etags.answer(request, content, digest, media_type=_TEXT)


@router.post(
    "/{name}/certificates/{part}",
    status_code=201,
    response_class=Response,
    responses={201: {"content": etags.content_of(_PEM)}},
)
def renew_certificate(
    name: SiteLabel,
    part: Part,
    certificate_request: Annotated[str, Body(media_type=_PEM)],
    holder: Site,
    context: Context,
) -> Response:
    """A new certificate (PEM) over the key of a request (PEM), for the bridge or for the listeners
    of the site's broker and cache. What the request says of names is ignored."""
    _refuse_another(holder, name)
    with context.store.transaction() as tx:
        issued = renew(tx, context.authority, name, part, certificate_request, context.now())
    return Response(issued.certificate, status_code=201, media_type=_PEM)


def _refuse_another(holder: Holder, name: str) -> None:
    if holder.name != name:
        raise NotPermitted(
            f"{holder} may fetch what is its own only, not what is {name}'s.",
            next_step="run `refresh` of this site's own kit.",
        )


def _revocation_list(context: ApiContext) -> bytes:
    try:
        return (context.settings.broker_dir / CRL_FILE).read_bytes()
    except OSError as error:
        raise ServerUnavailable(
            f"The revocation list is not in place: {error.strerror}.",
            next_step="nothing; the controller writes it when it starts.",
        ) from error
