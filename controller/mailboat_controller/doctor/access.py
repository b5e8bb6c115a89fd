"""What the controller says: its version, its clock, one's own access, trust, and its health."""

import http.client
import json
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from mailboat_controller.client import ApiClient
from mailboat_schemas import CONTRACT_VERSION
from mailboat_schemas.enrolment import Connection
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.finding import Findings, fail, ok, skip, warn

ANSWER_SECONDS_MAX = 10.0
ANSWER_BYTES_MAX = 64 * 1024
# A token is checked to the second; a signed request and what people compare, to the minute.
OFFSET_WARN = timedelta(seconds=30)
OFFSET_FAIL = timedelta(minutes=5)
ENDS_SOON = timedelta(days=14)

_HEALTH_FIXES = {
    "trust": "see `mailboat trust status`: it says who has to sign what.",
    "certificates": "see `mailboat trust status`: it lists the controller's own certificates.",
    "content_keys": "look at the key that opens content keys: `mailboat help E-CONTENT-KEK`.",
    "artifacts": "see `mailboat artifact status`: what is damaged is uploaded again.",
    "leader": "look at the controller's log; another one may have taken over.",
    "ingest": "look at the `mailboat ingest` processes: one was not heard of.",
}


def check_answer(connection: Connection, tls: ssl.SSLContext | None, now: datetime) -> Findings:
    """Whether it is a controller of this fleet, and what its clock says."""
    url = urlsplit(connection.api_url)
    try:
        answer, date = _ask(url.hostname or "", url.port, tls)
        told = json.loads(answer)
        fleet, version, contract = told["fleet"], told["version"], int(told["contract"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        yield fail(
            "api",
            f"{connection.api_url} does not answer as a controller does: {error}.",
            "look at api_url in the connection file, and at proxies in between.",
        )
        yield skip("clock", "It did not say what time it has.")
        return
    if fleet != connection.fleet:
        yield fail(
            "api",
            f"It is the controller of {fleet!r}, and the connection is for {connection.fleet!r}.",
            "use the connection file of this fleet: `mailboat context list`.",
        )
    elif contract != CONTRACT_VERSION:
        yield warn(
            "api",
            f"It speaks version {contract} of the contract, this command {CONTRACT_VERSION}.",
            "install the same version on both sides.",
        )
    else:
        yield ok("api", f"Controller {version} of fleet {fleet}.")
    yield from _compare_clocks(date, now)


def _ask(host: str, port: int | None, tls: ssl.SSLContext | None) -> tuple[bytes, str | None]:
    server: http.client.HTTPConnection
    if tls is None:
        server = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS_MAX)
    else:
        server = http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS_MAX, context=tls)
    try:
        server.request("GET", "/v1/info")
        answer = server.getresponse()
        return answer.read(ANSWER_BYTES_MAX), answer.getheader("date")
    finally:
        server.close()


def _compare_clocks(date: str | None, now: datetime) -> Findings:
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        yield skip("clock", "It did not say what time it has.")
        return
    offset = now - (theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC))
    seconds = abs(offset.total_seconds())
    side = "ahead of" if offset > timedelta() else "behind"
    told = f"This machine's clock is {seconds:.0f} s {side} the controller's."
    fix = "set the clock here, or there: `timedatectl status` says whether it is synchronised."
    if abs(offset) >= OFFSET_FAIL:
        yield fail("clock", told, fix)
    elif abs(offset) >= OFFSET_WARN:
        yield warn("clock", told, fix)
    else:
        yield ok("clock", "This machine's clock agrees with the controller's.")


def check_access(
    api: ApiClient, connection: Connection, directory: Path, now: datetime
) -> Findings:
    """Whether we are let in, as whom, and until when."""
    if connection.token is None:
        yield from _own_certificate(connection, directory, now)
        return
    try:
        own: Mapping[str, Any] = api.get("/v1/access-tokens/self")
    except MailboatError as error:
        yield fail("token", error.what, error.next_step)
        return
    ends = datetime.fromisoformat(own["expires_at"])
    told = f"{own['name']} is let in as {own['role']} until {ends:%Y-%m-%d}."
    if ends - now < ENDS_SOON:
        yield warn("token", told, "renew it with `mailboat token renew`.")
    else:
        yield ok("token", told)


def _own_certificate(connection: Connection, directory: Path, now: datetime) -> Findings:
    path = directory / (connection.certificate or "")
    try:
        ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        yield fail(
            "certificate",
            f"{path} cannot be read: {error}.",
            "issue the credential again: `mailboat credential issue`.",
        )
        return
    fix = "issue the credential again on the controller's machine: `mailboat credential issue`."
    if ends <= now:
        yield fail("certificate", f"It ended on {ends:%Y-%m-%d}.", fix)
    elif ends - now < ENDS_SOON:
        yield warn("certificate", f"It ends on {ends:%Y-%m-%d}.", fix)
    else:
        yield ok("certificate", f"It is good until {ends:%Y-%m-%d}.")


def check_trust(api: ApiClient) -> Findings:
    """Whether any signed role or certificate of the controller has ended, or is about to."""
    try:
        told: Mapping[str, Any] = api.get("/v1/trust/status")
    except MailboatError as error:
        yield skip("trust", f"It cannot be asked for: {error.what}")
        return
    due = [each for each in (*told["roles"], *told["certificates"]) if each["level"] != "ok"]
    if not due:
        yield ok("trust", "No signed role and no certificate of the controller ends soon.")
    for each in due:
        name = each.get("role") or f"certificate {each['certificate']}"
        what = f"{name} ends on {each['expires'][:10]} ({each['days_left']} days)."
        finding = fail if each["days_left"] < 0 else warn
        yield finding("trust", what, each["next_step"] or "see `mailboat trust status`.")


def check_health(api: ApiClient) -> Findings:
    """What the controller itself would have somebody look at."""
    try:
        told: Mapping[str, str] = api.get("/v1/health")
    except MailboatError as error:
        yield fail("health", error.what, error.next_step)
        return
    wrong = {
        name: word for name, word in told.items() if name != "status" and word not in ("ok", "held")
    }
    if not wrong:
        yield ok("health", "The controller finds nothing wrong with itself.")
    for name, word in wrong.items():
        fix = _HEALTH_FIXES.get(name, "look at the controller's log.")
        yield warn("health", f"{name.replace('_', ' ')}: {word}.", fix)
