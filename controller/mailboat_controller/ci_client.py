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
from mailboat_schemas.errors import MalformedPayload, ServerUnavailable
from mailboat_schemas.submission import SubmissionReply


def submit(
    payload: bytes, connection: Connection, directory: Path, *, timeout_seconds: float
) -> SubmissionReply:
    """Publish an encoded Submission and wait for the controller's answer.

    Args:
        directory: where the connection file stands; its paths are relative to that.

    Raises:
        ServerUnavailable: no broker, no right to publish, or no answer in time.
    """
    try:
        return asyncio.run(_submit(payload, connection, directory, timeout_seconds))
    except TimeoutError as error:
        raise ServerUnavailable(
            f"The controller did not answer within {timeout_seconds:.0f} s.",
            next_step="check that `mailboat serve` runs and is connected; submit again.",
        ) from error
    except (aiomqtt.MqttError, OSError, ssl.SSLError) as error:
        raise ServerUnavailable(
            f"The broker {connection.mqtt_host}:{connection.mqtt_port} refused or closed: {error}.",
            next_step="check address and certificate; `--http` submits without the broker.",
        ) from error


async def _submit(
    payload: bytes, connection: Connection, directory: Path, timeout_seconds: float
) -> SubmissionReply:
    job = secrets.token_hex(8)
    names = {"fleet": connection.fleet, "pipeline": connection.name}
    reply_topic = topics.build(topics.Channel.REPLY, **names, job=job)
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ResponseTopic = reply_topic
    properties.CorrelationData = job.encode()
    context = ssl.create_default_context(cafile=str(directory / connection.ca))
    context.load_cert_chain(directory / connection.certificate, directory / connection.key)
    async with (
        asyncio.timeout(timeout_seconds),
        aiomqtt.Client(
            connection.mqtt_host,
            connection.mqtt_port,
            identifier=connection.name,
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_context=context,
        ) as client,
    ):
        await client.subscribe(reply_topic, qos=1)
        await client.publish(
            topics.build(topics.Channel.SUBMIT, **names), payload, qos=1, properties=properties
        )
        async for message in client.messages:
            return _read(bytes(message.payload))
    raise TimeoutError


def _read(content: bytes) -> SubmissionReply:
    try:
        return SubmissionReply.model_validate_json(content)
    except ValidationError as error:
        raise MalformedPayload(
            "The answer on the reply topic is not a submission reply.",
            next_step="check the versions of controller and command line.",
        ) from error
