from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mailboat_agent.config import AgentConfig, to_toml
from mailboat_agent.degraded.settings import (
    ENDPOINTS_MAX,
    Kind,
    LocalFallback,
    PressureSetting,
    RemoteEndpoint,
    Why,
)
from mailboat_schemas.errors import ConfigurationInvalid

ENDPOINT: dict[str, Any] = {"name": "far", "url": "https://far.example:8443", "models": ["m"]}
ROW = {"name": "y", "dtype": "float32", "shape": [-1, 2], "values": [0, 0.5]}
SETTINGS: dict[str, Any] = {
    "fleet": "demo",
    "device": "kiosk-1",
    "hardware_class": "kiosk-x86",
    "data_dir": "data",
    "api_url": "https://controller.example:8443",
    "mqtt_host": "controller.example",
    "mqtt_port": 8883,
    "ca": "ca.pem",
    "certificate": "device.pem",
    "key": "device.key",
    "trust_root": "root.json",
}


def read(directory: Path, **settings: Any) -> AgentConfig:
    path = directory / "agent.toml"
    path.write_text(to_toml(SETTINGS | settings))
    return AgentConfig.read(path)


def test_nothing_is_on_unless_it_is_written(tmp_path: Path) -> None:
    config = read(tmp_path)

    assert (config.remote, config.fallback) == ((), ())
    assert not config.pressure.watches


def test_everything_that_can_be_written_is_read_back(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        remote=[ENDPOINT | {"kind": "neighbour", "when": ["busy"], "ca": "far.pem"}],
        fallback=[
            {"model": "m", "outputs": [ROW], "on_failure": True},
            {"model": "n", "use_model": "m"},
        ],
        pressure={"celsius_max": 80, "smaller_models": {"m": "m-small"}},
    )

    (endpoint,) = config.remote
    assert (endpoint.kind, endpoint.when) == (Kind.NEIGHBOUR, (Why.BUSY,))
    assert endpoint.ca == tmp_path / "far.pem"
    assert endpoint.certificate is None
    assert config.fallback[0].outputs[0].values == (0, 0.5)
    assert config.fallback[1] == LocalFallback(model="n", use_model="m")
    assert config.pressure == PressureSetting(celsius_max=80, smaller_models={"m": "m-small"})


@pytest.mark.parametrize(
    "url",
    [
        "http://far.example",
        "http://10.0.0.7:8000",
        "http://localhost.far.example",
        "http://127.0.0.1@far.example",
        "https://user:secret@far.example",
        "https://far.example?key=secret",
        "ftp://far.example",
    ],
)
def test_what_leaves_the_host_is_encrypted_and_no_secret_stands_in_an_address(url: str) -> None:
    with pytest.raises(ValidationError):
        RemoteEndpoint.model_validate(ENDPOINT | {"url": url})


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/up", "http://[::1]:80", "https://a.b/c"])
def test_this_host_may_be_asked_in_the_clear(url: str) -> None:
    assert RemoteEndpoint.model_validate(ENDPOINT | {"url": url}).url == url


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": []},
        {"certificate": "a.pem"},
        {"when": ["always"]},
        {"payload_bytes_max": "1GiB"},
        {"timeout": 2},
    ],
)
def test_an_endpoint_that_is_not_said_plainly_is_refused(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationInvalid, match="remote"):
        read(tmp_path, remote=[ENDPOINT | wrong])


def test_no_more_endpoints_than_somebody_can_oversee(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="remote"):
        read(tmp_path, remote=[ENDPOINT] * (ENDPOINTS_MAX + 1))


@pytest.mark.parametrize("wrong", [{}, {"use_model": "m"}, {"use_model": "n", "outputs": [ROW]}])
def test_a_fallback_is_one_thing_and_not_the_model_itself(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LocalFallback.model_validate({"model": "m"} | wrong)
