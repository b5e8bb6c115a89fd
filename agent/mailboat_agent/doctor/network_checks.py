"""Whether controller and broker can be reached, and are who they say they are.

Only as far as the TLS handshake: a second MQTT session under this device's name would throw out the
agent's. Every wait has an end; names are looked up in a thread that may be left behind.
"""

import contextlib
import ipaddress
import queue
import socket
import ssl
import threading
from urllib.parse import urlsplit

from mailboat_agent.config import AgentConfig
from mailboat_agent.identity.device_key import tls_context
from mailboat_schemas.errors import ConfigurationInvalid
from mailboat_schemas.finding import Finding, Findings, fail, ok, skip

LOOKUP_SECONDS_MAX = 5.0
CONNECT_SECONDS_MAX = 5.0
HANDSHAKE_SECONDS_MAX = 5.0
# With TLS 1.3 a server refuses a client's certificate after the handshake, in its first word.
REFUSAL_SECONDS_MAX = 0.5
HTTPS_PORT = 443


def check_network(config: AgentConfig) -> Findings:
    """Name, address, TLS: of the API and then of the broker."""
    try:
        context = tls_context(config.ca, config.certificate, config.key)
    except ConfigurationInvalid as error:
        yield fail("tls", error.what, error.next_step)
        yield skip("api", "The files for TLS cannot be used.")
        yield skip("broker", "The files for TLS cannot be used.")
        return
    url = urlsplit(config.api_url)
    for check, host, port in (
        ("api", url.hostname or "", url.port or HTTPS_PORT),
        ("broker", config.mqtt_host, config.mqtt_port),
    ):
        yield _check_server(check, host, port, context)


def _check_server(check: str, host: str, port: int, context: ssl.SSLContext) -> Finding:
    address = _look_up(host, port)
    if isinstance(address, str):
        return fail(
            check,
            f"The name {host} cannot be looked up: {address}.",
            "look at the device's network and DNS, and at the address in agent.toml.",
        )
    try:
        sock = socket.create_connection(address, CONNECT_SECONDS_MAX)
    except OSError as error:
        reason = "nobody answers" if isinstance(error, TimeoutError) else error.strerror
        return fail(
            check,
            f"{host}:{port} cannot be connected to: {reason}.",
            "look whether it runs and listens beyond loopback, and at firewalls in between.",
        )
    with sock:
        return _shake_hands(check, host, port, sock, context)


def _shake_hands(
    check: str, host: str, port: int, sock: socket.socket, context: ssl.SSLContext
) -> Finding:
    place = f"{host}:{port}"
    sock.settimeout(HANDSHAKE_SECONDS_MAX)
    try:
        with context.wrap_socket(sock, server_hostname=host) as tls:
            refusal = _refusal(tls)
            version = tls.version()
    except ssl.SSLCertVerificationError as error:
        return fail(check, f"{place} is not to be trusted: {error.verify_message}.", _advice(error))
    except TimeoutError:
        return fail(
            check,
            f"{place} does not speak TLS: no answer within {HANDSHAKE_SECONDS_MAX:.0f} s.",
            "look at the port in agent.toml; the broker's TLS port is usually 8883.",
        )
    except OSError as error:  # ssl.SSLError is one
        return fail(
            check,
            f"{place} ended the TLS handshake: {_said(error)}.",
            "look at the port in agent.toml, and at the log of the server.",
        )
    if refusal:
        return fail(
            check,
            f"{place} does not accept this device's certificate: {refusal}.",
            "is it revoked or expired? See `mailboat device show` on the controller.",
        )
    return ok(check, f"{place} answers with {version} and a certificate of the fleet's CA.")


def _refusal(tls: ssl.SSLSocket) -> str:
    """What the server has against our certificate; empty while it waits for us to speak."""
    tls.settimeout(REFUSAL_SECONDS_MAX)
    try:
        return "" if tls.recv(1) else "it closed the connection"
    except TimeoutError:
        return ""
    except OSError as error:
        return _said(error)


def _advice(error: ssl.SSLCertVerificationError) -> str:
    words = error.verify_message.lower()
    if "hostname" in words or "ip address" in words:
        return "use a name or address that is in the server's certificate (`server_names`)."
    if "expired" in words or "not yet valid" in words:
        return "look at this device's clock first, then at the server's certificate."
    return (
        "is it the fleet's server? The CA came with the enrolment kit; enrol again if it changed."
    )


def _said(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error.strerror or error).lower().replace("_", " ")


def _look_up(host: str, port: int) -> tuple[str, int] | str:
    """The first address, or why there is none."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host)), port
    found: queue.Queue[tuple[str, int] | str] = queue.Queue()

    def ask() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.put((str(entries[0][4][0]), port))
        except OSError as error:
            found.put(str(error.strerror or error))

    threading.Thread(target=ask, name="doctor-lookup", daemon=True).start()
    try:
        return found.get(timeout=LOOKUP_SECONDS_MAX)
    except queue.Empty:
        return f"no answer within {LOOKUP_SECONDS_MAX:.0f} s"
