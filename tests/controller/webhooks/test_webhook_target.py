"""The controller stands inside, so nobody may send it wherever he likes."""

import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from mailboat_controller.webhooks import target
from mailboat_controller.webhooks.target import WebhookTargetRefused, addresses, parse, post
from webhook_receiver import webhook_receiver

CONTEXT = ssl.create_default_context()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/hook",
        "http://10.0.0.7/hook",
        "ftp://example.org/hook",
        "file:///etc/passwd",
        "https://alice:secret@example.org/hook",
        "https://example.org/hook#part",
        "https:///hook",
        "https://example.org:99999/",
        "https://exämple.org/",
        "https://example.org/a b",
        "https://example.org/\r\nHost:evil",
        "https://example.org/" + "x" * 1000,
        "http://127.0.0.1.example.org/",
        "http://localhost.example.org/",
    ],
)
def test_an_address_that_is_not_https_or_hides_something_is_refused(url: str) -> None:
    with pytest.raises(WebhookTargetRefused):
        parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/services/1?team=2",
        "http://127.0.0.1:8080/hook",
        "http://localhost/hook",
        "http://[::1]:8080/",
    ],
)
def test_https_and_loopback_are_taken(url: str) -> None:
    assert parse(url).host


def test_a_host_in_the_settings_may_be_called_without_tls() -> None:
    assert not parse("http://chat.lan/hook", {"chat.lan"}).tls


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",  # metadata of clouds
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "[2002:a9fe:a9fe::]",
        "0.0.0.0",  # noqa: S104  an address to call, not one to listen on
        "224.0.0.1",
        "255.255.255.255",
        "[::]",
    ],
)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_addresses_that_are_nobodys_server_are_never_called(scheme: str, host: str) -> None:
    name = host.strip("[]")
    try:
        found = parse(f"{scheme}://{host}/latest/meta-data", {name})
    except WebhookTargetRefused:
        return
    with pytest.raises(WebhookTargetRefused):
        addresses(found, {name})


def test_a_name_that_leads_to_the_metadata_service_is_not_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the name said when the webhook was added: the address that is called is judged."""

    def looked_up(*_arguments: object, **_more: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)

    answer = post(parse("https://innocent.example.org/"), b"{}", {}, context=CONTEXT)

    assert not answer.delivered
    assert "169.254.169.254" in answer.problem


def test_of_a_name_with_many_addresses_a_few_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_up(*_arguments: object, **_more: object) -> list[object]:
        return [(0, 0, 0, "", (f"203.0.113.{number}", 443)) for number in range(50)]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)

    assert len(addresses(parse("https://many.example.org/"))) == target.ADDRESSES_MAX


def test_without_tls_a_name_must_lead_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_up(*_arguments: object, **_more: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)

    with pytest.raises(WebhookTargetRefused):
        addresses(parse("http://localhost/hook"))


def test_a_redirect_is_not_followed() -> None:
    with webhook_receiver() as honest, webhook_receiver() as elsewhere:
        honest.status, honest.headers = 307, {"Location": elsewhere.url}

        answer = post(parse(honest.url), b"{}", {}, context=CONTEXT)

    assert (answer.status, answer.delivered) == (307, False)
    assert elsewhere.heard == []


def test_of_an_answer_little_is_read_and_nothing_that_moves_a_terminal() -> None:
    with webhook_receiver() as receiver:
        receiver.status, receiver.answer = 500, b"\x1b[2Jno" + b"x" * 100_000

        answer = post(parse(receiver.url), b"{}", {}, context=CONTEXT)

    assert answer.problem.startswith("answered 500  [2Jno")
    assert len(answer.problem) < 400


@contextmanager
def dripping(text: bytes) -> Iterator[int]:
    """A server on a port of its own that says a byte now and then, to whoever comes."""
    done = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                for place in range(len(text)):
                    if done.wait(0.05):
                        break
                    self.request.sendall(text[place : place + 1])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            done.set()
            server.shutdown()
            thread.join()


def test_a_receiver_that_drips_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "POST_SECONDS_MAX", 0.2)
    with dripping(b"H" * 1000) as port:
        started = time.monotonic()
        answer = post(parse(f"http://127.0.0.1:{port}/"), b"{}", {}, context=CONTEXT)

    assert not answer.delivered
    assert time.monotonic() - started < target.ANSWER_SECONDS


def test_nobody_there_is_a_problem_and_no_exception() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    answer = post(parse(f"http://127.0.0.1:{port}/"), b"{}", {}, context=CONTEXT)

    assert (answer.status, answer.delivered) == (None, False)


def test_a_certificate_of_another_name_is_refused() -> None:
    """The receiver is plain: TLS fails, and nothing of the body went out."""
    with webhook_receiver() as receiver:
        url = receiver.url.replace("http://127.0.0.1", "https://localhost")

        answer = post(parse(url), b"{}", {}, context=CONTEXT)

    assert not answer.delivered
    assert receiver.heard == []


@pytest.mark.parametrize(
    "address", ["100.100.100.200", "192.0.0.192", "fd00:ec2::254", "64:ff9b::a9fe:a9fe"]
)
def test_metadata_services_that_are_not_link_local_are_never_called(address: str) -> None:
    with pytest.raises(WebhookTargetRefused):
        addresses(target.Target(address, 443, "/", tls=True))


def test_behind_nat64_an_address_is_judged_as_what_it_is() -> None:
    public = "64:ff9b::808:808"

    assert addresses(target.Target(public, 443, "/", tls=True)) == [public]


def test_of_several_addresses_the_one_that_answers_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of localhost, which is ::1 first: a receiver that listens on 127.0.0.1 alone."""
    real = socket.getaddrinfo

    def looked_up(host: str, port: int, *more: Any, **named: Any) -> list[Any]:
        if host != "localhost":
            return list(real(host, port, *more, **named))
        kind = socket.SOCK_STREAM
        return [(socket.AF_INET, kind, 6, "", (each, port)) for each in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    with webhook_receiver() as receiver:
        url = receiver.url.replace("127.0.0.1", "localhost")

        answer = post(parse(url), b"{}", {}, context=CONTEXT)

    assert answer.delivered


def test_a_receiver_that_drips_its_handshake_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte of it is in time; all of them would take days."""
    monkeypatch.setattr(target, "POST_SECONDS_MAX", 0.2)
    with dripping(b"\x16\x03\x03\x40\x00" + bytes(1000)) as port:
        started = time.monotonic()
        answer = post(parse(f"https://127.0.0.1:{port}/"), b"{}", {}, context=CONTEXT)

    assert not answer.delivered
    assert time.monotonic() - started < 40


def test_whoever_stops_ends_what_is_under_way_and_lets_nothing_follow() -> None:
    running = target.OpenPosts()
    with dripping(b"HTTP/1.1 200 OK\r\n" + b"x" * 1000) as port:
        place = parse(f"http://127.0.0.1:{port}/")
        stopper = threading.Timer(0.1, running.stop)
        stopper.start()
        started = time.monotonic()
        first = post(place, b"{}", {}, context=CONTEXT, running=running)
        assert time.monotonic() - started < 40
        second = post(place, b"{}", {}, context=CONTEXT, running=running)
        stopper.join()

    assert (first.delivered, second.delivered) == (False, False)
    assert "we stop" in second.problem
