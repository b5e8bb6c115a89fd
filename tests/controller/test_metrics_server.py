"""How a process without an API shows its figures."""

import socket
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from mailboat_controller.ingest.batch import Ingested
from mailboat_controller.metrics import metrics_server
from mailboat_controller.metrics.metrics_server import CLIENTS_MAX, shown
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_schemas.errors import ConfigurationInvalid

LOOPBACK = "127.0.0.1"
PATIENCE_SECONDS = 60


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(None, dict)


@pytest.fixture
def port(metrics: Metrics) -> Iterator[int]:
    with shown(LOOPBACK, 0, metrics.render) as port:
        yield port


def asked(port: int, path: str = "/metrics") -> str:
    with urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=PATIENCE_SECONDS) as answer:
        content: bytes = answer.read()
    return content.decode()


def test_it_shows_what_this_process_counted_and_nothing_of_the_database(
    metrics: Metrics, port: int
) -> None:
    """Shown by several processes, a sum over all of them would count the fleet several times."""
    taken = Ingested(
        acks=(), changed=False, submissions=(), events={"committed": 3}, windows=2, quarantined={}
    )
    metrics.count_batch(taken, 0.01)

    text = asked(port)

    assert 'mailboat_events_ingested_total{kind="committed"} 3.0' in text
    assert "mailboat_telemetry_windows_ingested_total 2.0" in text
    shown_names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert shown_names.isdisjoint(
        {"mailboat_devices", "mailboat_outbox_messages", "mailboat_requests_total"}
    )


def test_there_is_no_other_page(port: int) -> None:
    with pytest.raises(HTTPError, match="404") as raised:
        asked(port, "/")
    raised.value.close()


def test_who_connects_and_says_nothing_keeps_nobody_out_for_long(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "CLIENT_SECONDS_MAX", 0.2)
    with shown(LOOPBACK, 0, metrics.render) as port:
        silent = [socket.create_connection((LOOPBACK, port)) for _ in range(CLIENTS_MAX)]
        for each in silent:
            each.settimeout(PATIENCE_SECONDS)
            assert each.recv(1) == b"", "we hang up"
            each.close()

        assert "mailboat_broker_connected" in asked(port)


def test_more_than_a_few_at_once_are_turned_away(port: int) -> None:
    silent = [socket.create_connection((LOOPBACK, port)) for _ in range(CLIENTS_MAX + 1)]
    last = silent[-1]
    last.settimeout(PATIENCE_SECONDS)

    assert last.recv(1) == b""

    for each in silent:
        each.close()


def test_a_port_that_is_taken_is_told_with_what_to_do(port: int) -> None:
    with (
        pytest.raises(ConfigurationInvalid, match=f"{LOOPBACK}:{port}") as raised,
        shown(LOOPBACK, port, bytes),
    ):
        pass
    assert "metrics_port" in raised.value.next_step
