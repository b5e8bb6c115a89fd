"""`mailboat doctor` against real servers: what is well, and each thing that can be wrong."""

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker_site import NOW, Site
from mailboat_controller.doctor import access, broker
from mailboat_controller.doctor.examine import examine
from mailboat_controller.doctor.reaching import Server, check_server
from mailboat_controller.mqtt.acl_probe import publication_is_refused
from mailboat_schemas.enrolment import Connection, Kind
from mailboat_schemas.finding import Finding, Level
from running_controller import RunningController, running_controller


def now() -> datetime:
    return datetime.now(UTC)


def found(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {each.check: each for each in findings}


def at(port: int, host: str = "127.0.0.1") -> Server:
    return Server("api", host, port, "api_url of the connection file")


class TestReaching:
    def test_a_name_that_does_not_exist_skips_the_rest(self) -> None:
        seen = found(check_server(at(1, "no-such-host.invalid"), None))

        assert [each.level for each in seen.values()] == [Level.FAIL, Level.SKIP, Level.SKIP]
        assert "DNS" in seen["api-dns"].fix

    def test_a_port_where_nobody_listens(self) -> None:
        with socket.socket() as bound:  # and not listening: nobody else can take the port
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
            seen = found(check_server(at(port), ssl.create_default_context()))

        assert (seen["api-dns"].level, seen["api-tcp"].level) == (Level.OK, Level.FAIL)
        assert "mailboat serve" in seen["api-tcp"].fix

    def test_a_server_of_somebody_else(self, tmp_path: Path) -> None:
        ours, theirs = Site(tmp_path / "ours"), Site(tmp_path / "theirs")
        files = theirs.authority.server_files(["127.0.0.1"], now=NOW)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(files.certificate, files.key)
        trusting = ssl.create_default_context(cafile=str(ours.authority.ca_path))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            handshakes = _answering(listener, server)
            seen = found(check_server(at(listener.getsockname()[1]), trusting))
            next(handshakes, None)

        assert seen["api-tls"].level is Level.FAIL
        assert "is not to be trusted" in seen["api-tls"].what


def _answering(listener: socket.socket, tls: ssl.SSLContext) -> Iterator[None]:
    """One handshake in a thread; taken further, it waits for that."""
    import threading

    def answer() -> None:
        connected, _ = listener.accept()
        try:
            tls.wrap_socket(connected, server_side=True).close()
        except OSError:
            connected.close()  # what the other side refuses is no matter here

    thread = threading.Thread(target=answer)
    thread.start()

    def ended() -> Iterator[None]:
        thread.join()
        yield

    return ended()


def test_an_answer_that_is_no_controllers_is_told(tmp_path: Path) -> None:
    connection = Connection(
        fleet="demo",
        name="alice",
        api_url="http://127.0.0.1:1",
        mqtt_host="127.0.0.1",
        mqtt_port=1,
        ca="ca.pem",
        token="token",
    )

    seen = found(access.check_answer(connection, None, now()))

    assert (seen["api"].level, seen["clock"].level) == (Level.FAIL, Level.SKIP)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningController]:
    with running_controller(tmp_path_factory.mktemp("controller")) as controller:
        yield controller


@pytest.mark.slow
class TestBroker:
    def test_of_a_controller_lets_a_pipeline_in_and_keeps_it_to_its_own(
        self, controller: RunningController
    ) -> None:
        seen = found(examine(controller.connection(), "", None, now))

        assert seen["broker-tls"].level is Level.OK
        assert seen["broker-acl"].level is Level.OK, seen["broker-acl"]
        assert seen["certificate"].level is Level.OK

    def test_is_tried_on_its_machine_with_a_certificate_made_for_it(
        self, controller: RunningController
    ) -> None:
        config = controller.settings.data_dir / "controller.toml"

        seen = found(examine(controller.person(), "", config, now))

        assert seen["broker-acl"].level is Level.OK, seen["broker-acl"]
        assert seen["disk"].level is not Level.SKIP

    def test_of_a_controller_is_left_to_a_pipeline_where_a_person_asks(
        self, controller: RunningController
    ) -> None:
        seen = found(examine(controller.person(), "", None, now))

        assert seen["broker-acl"].level is Level.SKIP
        assert "--config" in seen["broker-acl"].what


@pytest.mark.slow
def test_a_broker_without_its_rules_is_found(tmp_path: Path) -> None:
    site = Site(tmp_path)
    (tmp_path / "broker" / "acl").write_text("pattern readwrite #\n")
    files = site.files(Kind.CI, "build")
    tls = ssl.create_default_context(cafile=str(files.ca))
    tls.load_cert_chain(files.certificate, files.key)
    site.broker.start()
    try:
        open_to_all = publication_is_refused(
            site.broker.host,
            site.broker.port,
            tls,
            name="build",
            topic="mb/1/demo/ci/build/reply/x",
        )
        connection = Connection(
            fleet="demo",
            name="build",
            api_url="https://127.0.0.1:1",
            mqtt_host=site.broker.host,
            mqtt_port=site.broker.port,
            ca=str(files.ca),
            certificate=str(files.certificate),
            key=str(files.key),
        )
        seen = found(broker.check_rules(connection, tls))
    finally:
        site.broker.stop()

    assert open_to_all is False
    assert seen["broker-acl"].level is Level.FAIL
    assert "acl_file" in seen["broker-acl"].fix
