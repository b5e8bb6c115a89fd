"""The broker that docker-compose.yml runs: mosquitto under `controller/docker/start-broker`.

The same promises hold for the process on this machine and for a container of the public image.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_site import REFUSED, Peer
from mailboat_schemas.enrolment import Kind
from served_broker import WAIT_SECONDS_MAX, ServedBroker, as_process, in_container, until

pytestmark = pytest.mark.slow

OWN = "mb/1/demo/site/-/dev/dev-1/up/report"
ANOTHERS = "mb/1/demo/site/-/dev/dev-2/up/report"


@pytest.fixture(params=["process", "container"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServedBroker]:
    served = ServedBroker(tmp_path)
    if request.param == "process":
        served.put_files()
        with as_process(served):
            until("it answers", lambda: _answers(served))
            yield served
    else:
        with in_container(served):
            until("it answers", lambda: _answers(served))
            yield served


def _answers(served: ServedBroker) -> bool:
    try:
        Peer(served.site, Kind.DEVICE, "dev-9").close()
    except OSError:
        return False
    return True


def test_a_device_speaks_for_itself_alone(broker: ServedBroker) -> None:
    peer = Peer(broker.site, Kind.DEVICE, "dev-1")
    try:
        assert peer.publish(OWN) in (0, 0x10)  # 0x10: nobody has subscribed
        assert peer.publish(ANOTHERS) == REFUSED
    finally:
        peer.close()


def test_new_rules_hold_without_a_restart_and_it_says_that_it_has_read_them(
    broker: ServedBroker,
) -> None:
    peer = Peer(broker.site, Kind.DEVICE, "dev-1")
    try:
        assert peer.publish(OWN) in (0, 0x10)
        read = broker.has_read()
        broker.site.write_access(cut_off=("dev-1",))
        broker.put_rules()
        until("it has read them", lambda: broker.has_read() not in ("", read))

        until("they hold", lambda: peer.publish(OWN) == REFUSED)
        assert peer.disconnections == 0
    finally:
        peer.close()


def test_it_waits_for_its_files(tmp_path: Path) -> None:
    served = ServedBroker(tmp_path)
    with as_process(served) as process:
        until("it waits", lambda: "waits for its files" in served.log.read_text())
        served.put_rules()  # without the others it must not begin
        assert served.has_read() == ""
        served.put_files()
        until("it answers", lambda: _answers(served))

        assert process.poll() is None


@pytest.mark.parametrize("changed", ["server.pem", "mosquitto.conf"])
def test_a_new_certificate_or_configuration_makes_it_start_again(
    tmp_path: Path, changed: str
) -> None:
    served = ServedBroker(tmp_path)
    served.put_files()
    with as_process(served) as process:
        until("it answers", lambda: _answers(served))
        with (served.files / changed).open("a") as file:
            file.write("# renewed\n")

        assert process.wait(WAIT_SECONDS_MAX) == 0  # its engine starts it again
