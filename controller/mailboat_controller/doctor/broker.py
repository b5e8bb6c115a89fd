"""Whether the broker lets the fleet's certificates in, and keeps them to what they may say.

People have tokens and no certificate, and the broker asks for one; so this is looked at with a
pipeline's connection, or on the controller's machine with a certificate made for the purpose.
"""

import ssl
import tempfile
from datetime import datetime
from pathlib import Path

from mailboat_controller.config import ControllerSettings
from mailboat_controller.mqtt.acl_probe import BrokerSilent, publication_is_refused
from mailboat_controller.pki.issuing import Authority
from mailboat_schemas import topics
from mailboat_schemas.enrolment import Connection
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.finding import Findings, fail, ok, skip

PROBE_NAME = "doctor-probe"
_CHECK = "broker-acl"


def check_rules(connection: Connection, tls: ssl.SSLContext) -> Findings:
    """With the certificate of the connection, if it has one."""
    if connection.certificate is None:
        yield skip(
            _CHECK,
            "A person's connection has no certificate: name a pipeline's with --connection, or run "
            "this on the controller's machine with --config.",
        )
        return
    yield from _probe(
        connection.mqtt_host, connection.mqtt_port, tls, connection.fleet, connection.name
    )


def check_rules_here(settings: ControllerSettings, host: str, port: int, now: datetime) -> Findings:
    """With a certificate that the CA on this disk makes, of a name that nobody has."""
    try:
        authority = Authority.load(settings.pki_dir)
        issued = authority.issue_stand_in(PROBE_NAME, now=now)
    except (MailboatError, OSError) as error:
        yield skip(_CHECK, f"The fleet's CA cannot be used: {error}")
        return
    tls = ssl.create_default_context(cadata=authority.ca_pem.decode())
    with tempfile.TemporaryDirectory(prefix="mailboat-doctor-") as place:
        # The library takes a certificate from files alone; the key is good for an hour or so.
        certificate, key = Path(place) / "certificate", Path(place) / "key"
        certificate.write_bytes(issued.certificate)
        key.touch(mode=0o600)
        key.write_bytes(issued.key or b"")
        tls.load_cert_chain(certificate, key)
    yield from _probe(host, port, tls, settings.fleet, PROBE_NAME)


def _probe(host: str, port: int, tls: ssl.SSLContext, fleet: str, name: str) -> Findings:
    # An answer to a submission: the controller alone may say that, and only this name would hear.
    topic = topics.build(topics.Channel.REPLY, fleet=fleet, pipeline=name, job="doctor")
    try:
        refused = publication_is_refused(host, port, tls, name=name, topic=topic)
    except BrokerSilent as error:
        yield fail(
            _CHECK,
            f"{host}:{port} does not let {name} in: {error}.",
            "is the certificate revoked or expired? See `mailboat credential list`, and the "
            "broker's log.",
        )
        return
    if refused:
        yield ok(_CHECK, "The broker lets us in, and refuses what only the controller may say.")
    else:
        yield fail(
            _CHECK,
            f"The broker takes from {name} what only the controller may say.",
            "have it load `acl` and `crl.pem` from the folder broker/ of the data directory, and "
            "set acl_file and use_identity_as_username: broker-config/mosquitto/README.md.",
        )
