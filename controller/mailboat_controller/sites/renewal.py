"""Renewing a site's own two certificates, by whoever has the one that still holds.

The key is made at the site and stays there; what the certificate says comes from the registry, not
from the request. The older one stays good until it ends, so that a run of `refresh` that is cut off
has lost nothing. `site remove` and `credential revoke` revoke all of them.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlsplit

from mailboat_controller.access.rate_limits import RateLimited
from mailboat_controller.pki.issuing import CREDENTIAL_DAYS, Authority, Issued
from mailboat_controller.store import audit, credentials, sites
from mailboat_controller.store.sites import SiteRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.enrolment import Kind

# What is left of the bridge's certificate when `refresh` asks for new ones: a site that is cut off
# for all of it needs a new kit.
RENEW_WITHIN = timedelta(days=CREDENTIAL_DAYS // 3)
# Of one site: room for a bad day of lost answers, none for filling the database.
RENEWALS_PER_DAY_MAX = 12
_DAY = timedelta(days=1)


class Part(StrEnum):
    """Whose certificate it is; also the names of the files in a kit."""

    BRIDGE = "bridge"  # towards the centre
    SERVER = "server"  # of the site's broker and cache, towards its devices


def renew(
    tx: Transaction, authority: Authority, site: str, part: Part, request_pem: str, now: datetime
) -> Issued:
    """
    Raises:
        NotFound: no such site. RateLimited: too many today. MalformedPayload: the request.
    """
    row = sites.get(tx, site)
    actor = subject = f"site:{site}"
    if audit.count_since(tx, subject, actor=actor, since=now - _DAY) >= RENEWALS_PER_DAY_MAX:
        raise RateLimited(
            f"Site {site} has been given {RENEWALS_PER_DAY_MAX} certificates within a day.",
            next_step="look at what `refresh` prints at the site: it does not get to keep them. "
            "If nobody there asks, its key was copied: `mailboat credential revoke` it.",
        )
    if part is Part.SERVER:
        issued = authority.issue_site_server(request_pem, server_names(row), now=now)
    else:
        issued = authority.issue_bridge(request_pem, site, now=now)
        credentials.add(
            tx,
            serial=issued.serial,
            name=site,
            kind=Kind.SITE,
            expires_at=issued.expires_at,
            at=now,
        )
    audit.append(
        tx,
        at=now,
        actor=actor,
        action="site.renew",
        subject=subject,
        reason="renewed by its holder before its end",
        details={
            "part": part,
            "certificate_serial": issued.serial,
            "expires_at": issued.expires_at.isoformat(),
        },
    )
    return issued


def server_names(row: SiteRow) -> list[str]:
    """By which devices reach the site's broker and its cache."""
    names = [row.broker_host]
    cache = urlsplit(row.cache_url).hostname
    if cache and cache not in names:
        names.append(cache)
    return names
