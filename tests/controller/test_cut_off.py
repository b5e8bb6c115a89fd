"""The whole controller: a device enrols, hears its class, is revoked and cut off as it runs."""

import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker_site import Peer
from mailboat_agent.identity.device_key import certificate_request as make_request
from mailboat_agent.identity.device_key import make_key
from mailboat_agent.identity.enrol import Wishes, enrol
from mailboat_controller.broker.embedded import find_mosquitto
from mailboat_controller.pki.issuing import Authority, TlsFiles
from mailboat_controller.store import audit, devices, tokens
from mailboat_schemas.enrolment import EnrolmentKit, Kind
from mailboat_schemas.errors import MailboatError
from running_api import certificate_request, write_key
from running_controller import RunningController, running_controller
from trust_fleet import CLASS, FLEET

SECONDS_MAX = 60.0
TOKEN = "t" * 40


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningController]:
    try:
        find_mosquitto()
    except MailboatError as error:
        pytest.skip(str(error))
    with running_controller(tmp_path_factory.mktemp("controller")) as running:
        yield running


class Enrolled:
    """A device with its files, and a broker that it speaks to as `Peer` expects it."""

    def __init__(self, controller: RunningController, directory: Path, name: str) -> None:
        self.authority = Authority.load(controller.settings.pki_dir)
        self._directory, self._name = directory, name
        self._serving = json.loads(controller.settings.serving_file.read_text())
        self.broker = SimpleNamespace(host="127.0.0.1", port=self._serving["mqtt_port"])
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        with controller.store.transaction() as tx:
            tokens.add_token(
                tx,
                TOKEN + name,
                hardware_class=CLASS,
                site="-",
                labels={},
                uses=1,
                expires_at=now + timedelta(hours=1),
                at=now,
                created_by="operator:test",
            )
        request = certificate_request(key, name)
        status, content = self.ask(
            "POST",
            "/v1/enrol",
            {"token": TOKEN + name, "device": name, "certificate_request": request},
        )
        assert status == 201, content
        (directory / f"{name}.pem").write_text(content["certificate"])
        write_key(key, directory / f"{name}.key")

    def files(self, _kind: Kind, name: str) -> TlsFiles:
        return TlsFiles(
            ca=self.authority.ca_path,
            certificate=self._directory / f"{name}.pem",
            key=self._directory / f"{name}.key",
        )

    def ask(self, method: str, path: str, body: Any = None, *, by: str = "") -> tuple[int, Any]:
        context = ssl.create_default_context(cafile=str(self.authority.ca_path))
        if by:
            files = self.files(Kind.DEVICE, by)
            context.load_cert_chain(files.certificate, files.key)
        host = self._serving["api_url"].removeprefix("https://")
        connection = HTTPSConnection(host, context=context, timeout=60)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


def test_a_device_is_let_in_before_it_is_answered_and_cut_off_within_seconds(
    controller: RunningController, tmp_path: Path
) -> None:
    site: Any = Enrolled(controller, tmp_path, "dev-1")
    manifest, fresh = (f"mb/1/{FLEET}/class/{CLASS}/{name}" for name in ("manifest", "fresh"))
    device = Peer(site, Kind.DEVICE, "dev-1")
    device.subscribe(manifest)
    device.subscribe(fresh)
    assert device.hears(manifest, SECONDS_MAX)
    assert site.ask("GET", "/v1/trust/root", by="dev-1")[0] == 200

    revoke(controller, "dev-1")

    assert device.is_cut_off(SECONDS_MAX)
    assert site.ask("GET", "/v1/trust/root", by="dev-1")[0] == 403
    time.sleep(1.5)  # paho tries again by itself
    assert device.connections == 1
    device.close()
    until(lambda: len(actions_on(controller, "dev-1")) > 2)  # it is written down once it is done
    assert actions_on(controller, "dev-1") == [
        "device.enrol",
        "device.revoke",
        "broker.end_session",
    ]


def actions_on(controller: RunningController, name: str) -> list[str]:
    with controller.store.read() as tx:
        return [row.action for row in audit.page(tx, subject=name)]


def revoke(controller: RunningController, name: str) -> None:
    """As `mailboat device revoke` does, but in the database: nobody wakes the controller."""
    with controller.store.transaction() as tx:
        devices.revoke(tx, name)
        audit.append(
            tx,
            at=datetime.now(UTC),
            actor="operator:test",
            action="device.revoke",
            subject=name,
            reason="stolen",
        )


@pytest.mark.slow
def test_an_agent_renews_with_a_new_key_and_goes_on_under_it(
    controller: RunningController, tmp_path: Path
) -> None:
    """The real agent, whose certificate has gone through two thirds of its life."""
    config = enrolled_agent(controller, tmp_path, "dev-2")
    old = row(controller, "dev-2").public_key
    command = [sys.executable, "-m", "mailboat_agent.cli", "run", "--config", str(config)]
    with (tmp_path / "log").open("wb") as log:
        agent = subprocess.Popen(command, stderr=log)
        try:
            until(lambda: row(controller, "dev-2").public_key != old)
            renewed_at = datetime.now(UTC)
            # Its messages are signed with the new key, and taken.
            until(lambda: (row(controller, "dev-2").last_seen_at or NEVER) > renewed_at)
            until(lambda: row(controller, "dev-2").online)
        finally:
            agent.terminate()
            agent.wait(60)
    names = {path.name for path in (tmp_path / "identity").iterdir()}
    assert names == {"ca.pem", "device.key", "device.pem", "root.json"}


NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def row(controller: RunningController, name: str) -> devices.DeviceRow:
    with controller.store.read() as tx:
        return devices.get(tx, name)


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 3 * SECONDS_MAX
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def enrolled_agent(controller: RunningController, directory: Path, name: str) -> Path:
    """Its configuration, with a certificate of 25 days ago."""
    serving = json.loads(controller.settings.serving_file.read_text())
    authority = Authority.load(controller.settings.pki_dir)
    now, before = datetime.now(UTC), datetime.now(UTC) - timedelta(days=25)
    token = TOKEN + name
    with controller.store.transaction() as tx:
        tokens.add_token(
            tx,
            token,
            hardware_class=CLASS,
            site="-",
            labels={},
            uses=1,
            expires_at=now + timedelta(hours=1),
            at=now,
            created_by="operator:test",
        )
    root = controller.settings.trust_dir / "1.root.json"
    kit = EnrolmentKit(
        fleet=FLEET,
        hardware_class=CLASS,
        site="-",
        api_url=serving["api_url"],
        mqtt_host=serving["mqtt_host"],
        mqtt_port=serving["mqtt_port"],
        ca=authority.ca_pem.decode(),
        trust_root=root.read_text(),
        token=token,
    )
    (directory / "kit.json").write_text(kit.model_dump_json())
    wishes = Wishes(kit=directory / "kit.json", device=name, config=directory / "agent.toml")
    config = asyncio.run(enrol(wishes))
    request = make_request(make_key(config.key), name, FLEET).decode()
    number = row(controller, name).enrolment_number
    issued = authority.issue_device(
        request, device=name, enrolment_number=number, now=before, days=30
    )
    config.certificate.write_bytes(issued.certificate)
    return wishes.config
