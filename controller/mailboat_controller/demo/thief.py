"""Somebody who wants release E on the devices, without the keys that count.

First by the front door: roles signed with a key of their own. Then with everything a stolen
controller has: its broker certificate and its online keys. What they cannot sign is the release and
approval roles, and that is what every device asks for.
"""

import asyncio
import ssl
from datetime import UTC, datetime
from typing import Any

import aiomqtt
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from mailboat_controller.authority import roles
from mailboat_controller.authority.online import OnlineKeys
from mailboat_controller.client import ApiClient
from mailboat_controller.demo.fleet import FLEET, Fleet
from mailboat_controller.demo.models import CLASSES, MODEL_NAME
from mailboat_controller.releases.build import Build
from mailboat_controller.trust.bundle import compose_bundle
from mailboat_schemas import topics
from mailboat_schemas.codec import encode
from mailboat_schemas.desired import Assignment, DesiredState, ReleaseRef
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.submission import Submission
from mailboat_schemas.trust import approval_role, release_role

_EVERYBODY = Plan(rollout="theft", waves=(PlanWave(count_ppm=1_000_000, cap_ppm=1_000_000),))
_COUNTER_AHEAD = 1_000_000  # a thief would make sure to be the newest
PUBLISH_SECONDS_MAX = 20


class Thief:
    """Holds release E's build and a key of its own."""

    def __init__(self, fleet: Fleet, build: Build) -> None:
        self._fleet = fleet
        self._build = build
        self._key = CryptoSigner.generate_ed25519()
        self._connection = fleet.ci

    def submit(self) -> dict[str, Any]:
        """Submit E with both roles signed by the thief's key; the controller's answer."""
        with ApiClient.open(self._connection) as api:
            for file in self._build.document.files():
                api.put_artifact(file.artifact_digest, self._build.blob(file))
            forged = self._forged_roles({name: api.role(name) for name in _model_roles()})
            reply = api.submit(encode(self._submission(forged)))
        return reply.model_dump(mode="json")

    def publish_as_controller(self) -> None:
        """Publish E as current to every class, with the controller's own keys and certificate."""
        online = OnlineKeys.load(self._fleet.data / "keys")
        with ApiClient.open(self._fleet.operator) as api:
            names = ("targets", "snapshot", "timestamp", *_model_roles())
            held = {name: api.role(name) for name in names}
        forged = held | self._forged_roles(held)
        now = datetime.now(UTC)
        versions = {
            name: Metadata[Targets].from_bytes(forged[name]).signed.version
            for name in ("targets", *_model_roles())
        }
        forged["snapshot"] = online.sign_snapshot(held["snapshot"], versions, now=now)
        forged["timestamp"] = online.sign_timestamp(held["timestamp"], forged["snapshot"], now=now)
        messages = {
            topics.build(topics.Channel.MANIFEST, fleet=FLEET, hardware_class=name): self._bundle(
                name, forged, online, now
            )
            for name in CLASSES
        }
        asyncio.run(asyncio.wait_for(self._publish(messages), PUBLISH_SECONDS_MAX))

    def _forged_roles(self, held: dict[str, bytes]) -> dict[str, bytes]:
        document, now = self._build.document, datetime.now(UTC)
        release, approval = _model_roles()
        about = {"model": document.model, "version": document.version}
        content = self._build.content
        return {
            release: roles.add_release(
                held[release], self._key, document=content, now=now, **about
            ),
            approval: roles.add_approval(
                held[approval],
                [self._key],
                document=content,
                plan=_EVERYBODY.to_custom(),
                now=now,
                **about,
            ),
        }

    def _submission(self, forged: dict[str, bytes]) -> Submission:
        return Submission(
            fleet=FLEET, roles=forged, documents={self._build.digest: self._build.content}
        )

    def _bundle(
        self, hardware_class: str, forged: dict[str, bytes], online: OnlineKeys, now: datetime
    ) -> bytes:
        wish = Assignment(
            model=MODEL_NAME,
            current=ReleaseRef(version=self._build.document.version, digest=self._build.digest),
        )
        desired = DesiredState(
            fleet=FLEET,
            hardware_class=hardware_class,
            counter=_COUNTER_AHEAD,
            issued=int(now.timestamp()),
            assignments=(wish,),
        )
        root = (self._fleet.trust / "root.json").read_bytes()
        return compose_bundle(
            fleet=FLEET,
            hardware_class=hardware_class,
            counter=_COUNTER_AHEAD,
            roles=forged,
            roots=[root],
            documents={self._build.digest: self._build.content},
            desired=online.sign_desired(desired),
        )

    async def _publish(self, messages: dict[str, bytes]) -> None:
        pki = self._fleet.data / "pki"
        context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
        context.load_cert_chain(pki / "controller.pem", pki / "controller.key")
        # Takes over the controller's session; the controller comes back and says it all again.
        async with aiomqtt.Client(
            "127.0.0.1",
            self._fleet.mqtt_port,
            identifier="controller",
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_context=context,
        ) as client:
            for topic, payload in messages.items():
                await client.publish(topic, payload, qos=1, retain=True)


def _model_roles() -> tuple[str, str]:
    return release_role(MODEL_NAME), approval_role(MODEL_NAME)
