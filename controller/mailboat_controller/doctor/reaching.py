"""From a name to the end of the TLS handshake: DNS, TCP, and whether it is the fleet's server."""

import contextlib
import ipaddress
import queue
import socket
import ssl
import threading
from dataclasses import dataclass

from mailboat_schemas.finding import Findings, fail, ok, skip

LOOKUP_SECONDS_MAX = 5.0
CONNECT_SECONDS_MAX = 5.0
HANDSHAKE_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Server:
    """``check`` is the first word of its findings; ``setting`` says where its address stands."""

    check: str
    host: str
    port: int
    setting: str

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"


def check_server(server: Server, tls: ssl.SSLContext | None) -> Findings:
    """Name, connection, TLS: each is skipped where the one before it failed.

    Args:
        tls: None: it speaks none, and is only connected to.
    """
    names = [f"{server.check}-{each}" for each in ("dns", "tcp", "tls")]
    address = _look_up(server.host, server.port)
    if isinstance(address, str):
        yield fail(
            names[0],
            f"The name {server.host} cannot be looked up: {address}.",
            f"look at the network and DNS of this machine, and at {server.setting}.",
        )
        yield from (skip(name, "The name is not known.") for name in names[1:])
        return
    same = address[0] == server.host
    yield ok(names[0], f"{server.host} is {'an address' if same else address[0]}.")
    try:
        connected = socket.create_connection(address, CONNECT_SECONDS_MAX)
    except OSError as error:
        reason = "nobody answers" if isinstance(error, TimeoutError) else error.strerror
        yield fail(
            names[1],
            f"{server.place} cannot be connected to: {reason}.",
            "look whether `mailboat serve` runs there and listens beyond loopback, and at "
            "firewalls in between.",
        )
        yield skip(names[2], "Nobody is connected.")
        return
    yield ok(names[1], f"{server.place} takes connections.")
    with connected:
        if tls is not None:
            yield from _shake_hands(server, names[2], connected, tls)


def _shake_hands(
    server: Server, check: str, connected: socket.socket, tls: ssl.SSLContext
) -> Findings:
    connected.settimeout(HANDSHAKE_SECONDS_MAX)
    try:
        with tls.wrap_socket(connected, server_hostname=server.host) as secured:
            version = secured.version()
    except ssl.SSLCertVerificationError as error:
        yield fail(
            check, f"{server.place} is not to be trusted: {error.verify_message}.", _advice(error)
        )
    except TimeoutError:
        yield fail(
            check,
            f"{server.place} does not speak TLS: no answer within {HANDSHAKE_SECONDS_MAX:.0f} s.",
            f"look at the port in {server.setting}.",
        )
    except OSError as error:  # ssl.SSLError is one
        reason = str(getattr(error, "reason", None) or error.strerror or error)
        yield fail(
            check,
            f"{server.place} ended the TLS handshake: {reason.lower().replace('_', ' ')}.",
            f"look at the port in {server.setting}, and at the log of the server.",
        )
    else:
        yield ok(check, f"{server.place} answers with {version} and the fleet's certificate.")


def _advice(error: ssl.SSLCertVerificationError) -> str:
    words = error.verify_message.lower()
    if "hostname" in words or "ip address" in words:
        return "use a name or address that is in the server's certificate (`server_names`)."
    if "expired" in words or "not yet valid" in words:
        return "look at this machine's clock first, then at the server's certificate."
    return "is it the fleet's server? If its CA was made anew, ask for a new connection file."


def _look_up(host: str, port: int) -> tuple[str, int] | str:
    """The first address, or why there is none; the thread may be left behind."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host)), port
    found: queue.Queue[tuple[str, int] | str] = queue.Queue()

    def ask() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.put((str(entries[0][4][0]), port))
        except (OSError, UnicodeError) as error:
            found.put(str(getattr(error, "strerror", None) or error))

    threading.Thread(target=ask, name="doctor-lookup", daemon=True).start()
    try:
        return found.get(timeout=LOOKUP_SECONDS_MAX)
    except queue.Empty:
        return f"no answer within {LOOKUP_SECONDS_MAX:.0f} s"
