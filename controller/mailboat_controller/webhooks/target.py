"""Where webhooks may go, and one bounded POST to there.

An operator names the address, and the controller stands inside: so it may not be made to call the
cloud's metadata service, a plain port of a neighbour, or, by a name that changes, something else
than was checked. The name is looked up once, the address is judged, and that address is connected
to. Redirects are not followed; of the answer a status and a few bytes are read.
"""

import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from mailboat_schemas.errors import ConfigurationInvalid

URL_CHARS_MAX = 1000
ORIGIN_CHARS_MAX = 300
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0  # for each wait of the connection
POST_SECONDS_MAX = 20.0  # in all
ANSWER_BYTES_MAX = 1024
RETRY_AFTER_CHARS_MAX = 40  # an HTTP date has 29
ADDRESSES_MAX = 4  # of one name that are tried, until one takes the connection
REDIRECTS = range(300, 400)
# Metadata services of clouds that are not link-local, and the way to all IPv4 ones by NAT64.
METADATA = frozenset(
    ipaddress.ip_address(each) for each in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")
)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class WebhookTargetRefused(ConfigurationInvalid):
    """An address that is not called, whoever asks for it."""

    code = "E-WEBHOOK-TARGET"


@dataclass(frozen=True, slots=True)
class Target:
    host: str
    port: int
    path: str
    tls: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` is None if there was none; ``problem`` is empty for 2xx."""

    status: int | None
    problem: str
    retry_after: str = ""  # the header as it came; `retry.asked` reads it

    @property
    def delivered(self) -> bool:
        return not self.problem


def parse(url: str, http_hosts: Collection[str] = ()) -> Target:
    """What an address means, if it may be called at all; names are not looked up yet.

    Args:
        http_hosts: that may be called without TLS, besides loopback.

    Raises:
        WebhookTargetRefused
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _refused(url, "it is no address") from error
    if len(url) > URL_CHARS_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise _refused(url, "it is too long, or has characters that do not belong there")
    if parts.scheme not in ("http", "https") or not host:
        raise _refused(url, "it does not begin with https://")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise _refused(url, "it holds credentials or a fragment; the signature proves who calls")
    tls = parts.scheme == "https"
    if not tls and host not in http_hosts and not _is_loopback_name(host):
        raise _refused(url, "it is not https, and the host is not loopback")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(host=host, port=port or (443 if tls else 80), path=path, tls=tls)


def host_of(url: str) -> str:
    """The host in an address; empty if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def origin_of(url: str) -> str:
    """Scheme, host and port: what may be told to others. With many chats the path is the key."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "(no address)"
    host = f"[{host}]" if ":" in host else host
    return ascii(f"{parts.scheme}://{host}{f':{port}' if port else ''}")[1:-1][:ORIGIN_CHARS_MAX]


def addresses(target: Target, http_hosts: Collection[str] = ()) -> list[str]:
    """The addresses behind the name that may be called.

    Raises:
        WebhookTargetRefused: none of them may. OSError: the name is not known.
    """
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    named = list(dict.fromkeys(str(each[4][0]) for each in found))
    allowed = [each for each in named if _may_call(each, target, http_hosts)]
    if not allowed:
        raise _refused(f"//{target.host}", f"its address {named[0]} is not one that may be called")
    return allowed[:ADDRESSES_MAX]


class OpenPosts:
    """Those under way, so that whoever stops need not wait for their receivers."""

    def __init__(self) -> None:
        self._connections: set[_Pinned] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def add(self, connection: "_Pinned") -> None:
        with self._lock:
            self._connections.add(connection)
            if self.stopped:
                connection.cut()

    def discard(self, connection: "_Pinned") -> None:
        with self._lock:
            self._connections.discard(connection)

    def stop(self) -> None:
        """End those that run, and every later one before it says anything."""
        with self._lock:
            self.stopped = True
            for connection in self._connections:
                connection.cut()


def post(
    target: Target,
    body: bytes,
    headers: Mapping[str, str],
    *,
    context: ssl.SSLContext,
    http_hosts: Collection[str] = (),
    running: OpenPosts | None = None,
) -> Answer:
    """One attempt. Never raises for what the other side does."""
    running = running or OpenPosts()
    try:
        connection = _Pinned(target, addresses(target, http_hosts), context)
        # A receiver that drips a byte now and then would keep us for hours.
        deadline = threading.Timer(POST_SECONDS_MAX, connection.cut)
        deadline.daemon = True
        deadline.start()
        running.add(connection)
        try:
            connection.request("POST", target.path, body, dict(headers))
            answer = connection.getresponse()
            said = answer.read(ANSWER_BYTES_MAX)
        finally:
            deadline.cancel()
            running.discard(connection)
            connection.close()
    except WebhookTargetRefused as error:
        return Answer(None, error.what)
    except (OSError, HTTPException, ValueError) as error:
        return Answer(None, f"{type(error).__name__}: {str(error)[:300]}")
    if answer.status in REDIRECTS:
        return Answer(answer.status, "it redirects, which is not followed: correct the address")
    if not 200 <= answer.status < 300:
        text = "".join(c if c.isprintable() else " " for c in said.decode(errors="replace"))
        later = answer.headers.get("Retry-After", "")[:RETRY_AFTER_CHARS_MAX]
        return Answer(answer.status, f"answered {answer.status} {text[:300]}".strip(), later)
    return Answer(answer.status, "")


class _Pinned(HTTPConnection):
    """A connection to an address that was judged; the certificate must be the name's."""

    def __init__(self, target: Target, judged: Sequence[str], context: ssl.SSLContext) -> None:
        super().__init__(target.host, target.port, timeout=CONNECT_SECONDS)
        self._judged = judged
        self._tls = context if target.tls else None
        self._cut = False

    def connect(self) -> None:
        self.sock = self._first_that_answers()
        self.sock.settimeout(ANSWER_SECONDS)
        if self._tls is not None:
            # The handshake comes after the socket stands here: else `cut` could not end it.
            self.sock = self._tls.wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self._refuse_if_cut()
            self.sock.do_handshake()
        self._refuse_if_cut()

    def _first_that_answers(self) -> socket.socket:
        for address in self._judged[:-1]:
            self._refuse_if_cut()
            with contextlib.suppress(OSError):
                return socket.create_connection((address, self.port), CONNECT_SECONDS)
        return socket.create_connection((self._judged[-1], self.port), CONNECT_SECONDS)

    def _refuse_if_cut(self) -> None:
        if self._cut:
            raise TimeoutError(f"not answered within {POST_SECONDS_MAX:.0f} s, or we stop")

    def cut(self) -> None:
        """From another thread: whoever reads or writes here gets an error."""
        self._cut = True
        # Not the method of an SSL socket: that takes away what the other thread is working with.
        with contextlib.suppress(OSError, TypeError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


def _may_call(text: str, target: Target, http_hosts: Collection[str]) -> bool:
    address = _unwrapped(ipaddress.ip_address(text.partition("%")[0]))
    if address.is_loopback:
        return True
    if (
        address in METADATA
        or address.is_link_local  # most metadata services of clouds
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
    ):
        return False
    return target.tls or target.host in http_hosts


def _unwrapped(address: Address) -> Address:
    """An IPv4 address inside an IPv6 one is judged as what it is."""
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address


def _is_loopback_name(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refused(url: str, why: str) -> WebhookTargetRefused:
    return WebhookTargetRefused(
        f"A webhook may not go to {origin_of(url).removeprefix('://')}: {why}.",
        next_step="use an https address without credentials; webhooks.http_hosts in "
        "controller.toml names hosts that may be called without TLS.",
    )
