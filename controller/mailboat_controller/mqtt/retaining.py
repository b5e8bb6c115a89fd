"""One message that a broker shall retain, handed in by a person's command; no session, no loop."""

import ssl
import threading
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from mailboat_schemas.errors import ConfigurationInvalid, NotPermitted, ServerUnavailable

WAIT_SECONDS = 20.0


def retain(
    topic: str, payload: bytes, *, host: str, port: int, ca: Path, certificate: Path, key: Path
) -> None:
    """Publish it and wait until the broker has it.

    Raises:
        ConfigurationInvalid: certificate, key or CA cannot be read.
        ServerUnavailable: no broker, its certificate is refused, or ours is.
        NotPermitted: the broker does not let this certificate say that.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise ConfigurationInvalid(
            f"The certificate {certificate} cannot be used: {error}.",
            next_step="name the directory of the site's kit, as a user who may read its keys.",
        ) from error
    answer = _Answer()
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.tls_set_context(context)
    client.on_connect = answer.connected
    client.on_publish = answer.published
    client.on_disconnect = answer.ended
    try:
        client.connect(host, port, keepalive=int(WAIT_SECONDS))
    except (OSError, ValueError) as error:
        raise _unavailable(host, port, str(error)) from error
    client.loop_start()
    try:
        if not answer.is_connected.wait(WAIT_SECONDS) or answer.problem:
            raise _unavailable(host, port, answer.problem or "no answer")
        client.publish(topic, payload, qos=1, retain=True)
        if not answer.is_published.wait(WAIT_SECONDS) or answer.problem:
            raise _unavailable(host, port, answer.problem or "no acknowledgement")
    finally:
        client.disconnect()
        client.loop_stop()
    if answer.refused:
        raise NotPermitted(
            f"The broker does not take this from {certificate}: {answer.refused}.",
            next_step="use the site's own kit, and run its `refresh` once if the kit is older than "
            "the controller; or hand the file to each device: `mailboat-agent site-order`.",
        )


class _Answer:
    """What the broker says, from paho's thread."""

    def __init__(self) -> None:
        self.is_connected, self.is_published = threading.Event(), threading.Event()
        self.problem = ""  # with the connection
        self.refused = ""  # what we said

    def connected(
        self, _client: Client, _data: Any, _flags: Any, code: ReasonCode, _more: Any
    ) -> None:
        self.problem = str(code) if code.is_failure else ""
        self.is_connected.set()

    def published(
        self, _client: Client, _data: Any, _mid: int, code: ReasonCode, _more: Any
    ) -> None:
        self.refused = str(code) if code.is_failure else ""
        self.is_published.set()

    def ended(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, code: ReasonCode, _more: Any
    ) -> None:
        """Before it had answered: so it also says, in TLS 1.3, that it does not take our
        certificate."""
        if not self.is_published.is_set():
            self.problem = self.problem or f"it ended the connection ({code})"
            self.is_connected.set()
            self.is_published.set()


def _unavailable(host: str, port: int, problem: str) -> ServerUnavailable:
    return ServerUnavailable(
        f"The broker {host}:{port} cannot be spoken to: {problem}.",
        next_step="check that it runs, that its certificate names this host "
        "(`openssl x509 -in server.pem -noout -ext subjectAltName`), and that the kit is the "
        "site's own and its bridge.pem has not ended.",
    )
