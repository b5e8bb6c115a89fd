"""An endpoint over TLS: it shows whose it is, and may want to see whose the device is."""

import random
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from degraded_front import Make, Other, absent
from mailboat_agent.assembly import make_degraded
from mailboat_agent.config import AgentConfig
from mailboat_agent.degraded.settings import PressureSetting, RemoteEndpoint
from mailboat_agent.serving.runtime import Runtime
from mailboat_schemas.errors import ConfigurationInvalid
from model_fleet import Certificates

pytestmark = pytest.mark.slow


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "pki")


@pytest.fixture
def secured(other: Other, certificates: Certificates) -> Callable[..., dict[str, Any]]:
    """Has the endpoint speak TLS and want a certificate of this CA; returns what names it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server())
    context.load_verify_locations(certificates.ca_path)
    context.verify_mode = ssl.CERT_REQUIRED
    other.server.socket = context.wrap_socket(other.server.socket, server_side=True)
    url = f"https://127.0.0.1:{other.server.server_port}"

    def named(**changes: Any) -> dict[str, Any]:
        certificate, key = certificates.device()
        found = {"ca": certificates.ca_path, "certificate": certificate, "key": key}
        return {"name": "far", "url": url, "models": ["m"], **found, **changes}

    return named


def test_it_answers_a_device_that_shows_its_certificate(
    make: Make, secured: Callable[..., dict[str, Any]]
) -> None:
    front = make(remote=(secured(),))
    front.runtime.explain_absence("m", absent())

    assert front.infer()[2]["mailboat-degraded"] == "remote"


def test_it_refuses_a_device_that_shows_none(
    make: Make, other: Other, secured: Callable[..., dict[str, Any]]
) -> None:
    front = make(remote=(secured(certificate=None, key=None),))
    front.runtime.explain_absence("m", absent())

    assert front.infer()[0] == 503
    assert other.seen == []


def test_nothing_is_sent_to_an_endpoint_of_another_ca(
    make: Make, other: Other, secured: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    stranger = Certificates(tmp_path / "stranger")
    front = make(remote=(secured(ca=stranger.ca_path),))
    front.runtime.explain_absence("m", absent())

    assert front.infer()[0] == 503
    assert other.seen == []
    (status,) = front.degraded.answers.elsewhere.status()
    assert "certificate verify failed" in str(status["problem"]).lower()


def test_certificates_that_cannot_be_read_are_found_at_the_start(tmp_path: Path) -> None:
    endpoint = RemoteEndpoint(
        name="far", url="https://far.example", models=("m",), ca=tmp_path / "none.pem"
    )
    config = AgentConfig.model_construct(
        remote=(endpoint,), fallback=(), pressure=PressureSetting()
    )

    with pytest.raises(ConfigurationInvalid, match="endpoint far"):
        make_degraded(config, Runtime(clock=lambda: None), random.Random(1))  # type: ignore[arg-type,return-value]
