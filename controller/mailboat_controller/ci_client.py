"""Submitting by MQTT 5 request/response: what a pipeline without our command would also do.

The only place that knows aiomqtt. It acknowledges before we handle, which would lose device events,
but a lost reply here costs nothing: a submission is idempotent and may be sent again.
"""

import asyncio
import secrets
import ssl
from pathlib import Path

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pydantic import ValidationError

from mailboat_schemas import topics
from mailboat_schemas.enrolment import Connection
from mailboat_schemas.errors import ConfigurationInvalid, MalformedPayload, ServerUnavailable
from mailboat_schemas.submission import SubmissionReply

RETRY_MS_MAX = 1000


class _ConnectionLost(Exception):
    """After it had been made: a broker that restarts, or another job of the same pipeline."""


def submit(
    payload: bytes, connection: Connection, directory: Path, *, timeout_seconds: float
) -> SubmissionReply:
    """Publish an encoded Submission and wait for the controller's answer.

    Args:
        directory: where the connection file stands; its paths are relative to that.

    Raises:
        ServerUnavailable: no broker, certificate refused, no right to publish, or no answer in
            time.
        ConfigurationInvalid: certificate, key or CA cannot be read.
    """
    if connection.certificate is None or connection.key is None:
        raise ConfigurationInvalid(
            f"The connection {connection.name} has no certificate, and the broker asks for one.",
            next_step="submit with --http, or use a pipeline's connection "
            "(`mailboat credential issue --kind ci`).",
        )
    try:
        context = ssl.create_default_context(cafile=str(directory / connection.ca))
        context.load_cert_chain(directory / connection.certificate, directory / connection.key)
    except OSError as error:
        raise ConfigurationInvalid(
            f"The certificate of connection {connection.name} cannot be used: {error}.",
            next_step="keep ca, certificate and key beside the connection file, "
            "or issue the credential again.",
        ) from error
    try:
        return asyncio.run(_submit(payload, connection, context, timeout_seconds))
    except TimeoutError as error:
        raise ServerUnavailable(
            f"The controller did not answer within {timeout_seconds:.0f} s.",
            next_step="check that `mailboat serve` runs and is connected, and that fleet and name "
            "in the connection file are those of the certificate; submit again.",
        ) from error
    except (aiomqtt.MqttError, OSError) as error:
        raise ServerUnavailable(
            f"The broker {connection.mqtt_host}:{connection.mqtt_port} refused or closed: {error}.",
            next_step="check address and certificate; `--http` submits without the broker.",
        ) from error


async def _submit(
    payload: bytes, connection: Connection, context: ssl.SSLContext, timeout_seconds: float
) -> SubmissionReply:
    async with asyncio.timeout(timeout_seconds):
        while True:
            try:
                return await _ask(payload, connection, context)
            except _ConnectionLost:
                # The broker knows a pipeline by its name alone, so jobs at the same time end each
                # other's connection. A random wait lets one after the other through.
                await asyncio.sleep(secrets.randbelow(RETRY_MS_MAX) / 1000)


async def _ask(payload: bytes, connection: Connection, context: ssl.SSLContext) -> SubmissionReply:
    client = aiomqtt.Client(
        connection.mqtt_host,
        connection.mqtt_port,
        identifier=connection.name,
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=context,
    )
    connected, answer = False, b""
    try:
        async with client:
            connected = True
            # Beside each other: who waits for an acknowledgement hears of a lost connection only
            # after ten seconds; who waits for a message at once, but not of the very first moment.
            tasks = (
                asyncio.create_task(_first_message(client)),
                asyncio.create_task(_send(client, payload, connection)),
            )
            try:
                answer, _ = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
    except aiomqtt.MqttError as error:
        if connected and not answer:
            raise _ConnectionLost from error
        if not answer:
            raise
    return _read(answer)


async def _first_message(client: aiomqtt.Client) -> bytes:
    async for message in client.messages:
        return bytes(message.payload)
    raise _ConnectionLost


async def _send(client: aiomqtt.Client, payload: bytes, connection: Connection) -> None:
    job = secrets.token_hex(8)
    names = {"fleet": connection.fleet, "pipeline": connection.name}
    reply_topic = topics.build(topics.Channel.REPLY, **names, job=job)
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ResponseTopic = reply_topic
    properties.CorrelationData = job.encode()
    await client.subscribe(reply_topic, qos=1)
    await client.publish(
        topics.build(topics.Channel.SUBMIT, **names), payload, qos=1, properties=properties
    )


def _read(content: bytes) -> SubmissionReply:
    try:
        return SubmissionReply.model_validate_json(content)
    except ValidationError as error:
        raise MalformedPayload(
            "The answer on the reply topic is not a submission reply.",
            next_step="check the versions of controller and command line.",
        ) from error
