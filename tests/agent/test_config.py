"""agent.toml is read strictly, and what is wrong with it is named."""

from pathlib import Path
from typing import Any

import pytest

from mailboat_agent.config import CONFIG_BYTES_MAX, AgentConfig, to_toml
from mailboat_schemas.errors import ConfigurationInvalid

SETTINGS: dict[str, Any] = {
    "fleet": "demo",
    "device": "kiosk-1",
    "hardware_class": "kiosk-x86",
    "data_dir": "data",
    "api_url": "https://controller.example:8443",
    "mqtt_host": "controller.example",
    "mqtt_port": 8883,
    "ca": "identity/ca.pem",
    "certificate": "identity/device.pem",
    "key": "/etc/mailboat/device.key",
    "trust_root": "identity/root.json",
    "labels": {"ring": "pilot"},
}


def written(directory: Path, **changes: Any) -> Path:
    path = directory / "agent.toml"
    path.write_text(to_toml(SETTINGS | changes), encoding="utf-8")
    return path


def test_paths_are_relative_to_the_file_and_sizes_are_words(tmp_path: Path) -> None:
    config = AgentConfig.read(written(tmp_path, memory_budget="256MiB"))

    assert config.data_dir == tmp_path / "data"
    assert config.key == Path("/etc/mailboat/device.key")
    assert config.memory_budget == 256 << 20
    assert config.labels == {"ring": "pilot"}
    assert config.serve_host == "127.0.0.1"


def test_how_a_device_fetches_is_its_own_business(tmp_path: Path) -> None:
    config = AgentConfig.read(
        written(
            tmp_path,
            mirrors=["https://cache.example/a/"],
            mirror_ca="site-ca.pem",
            bandwidth_bytes_per_second="64KiB",
        )
    )

    assert config.mirrors == ("https://cache.example/a/",)
    assert config.mirror_ca == tmp_path / "site-ca.pem"
    assert config.object_store_ca is None
    assert config.bandwidth_bytes_per_second == 65_536
    assert (config.metered, config.metered_bytes_per_day) == ("class", None)


def test_a_misspelled_key_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid) as raised:
        AgentConfig.read(written(tmp_path, memory_buget="256MiB"))

    assert "there is no setting 'memory_buget'" in raised.value.what
    assert "did you mean 'memory_budget'?" in raised.value.next_step


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mqtt_port": 0}, "mqtt_port"),
        ({"api_url": "http://controller.example"}, "api_url"),
        ({"device": "Kiosk 1"}, "device"),
        ({"memory_budget": "much"}, "memory_budget"),
        # Below the rate at which a server is taken for one that drips.
        ({"bandwidth_bytes_per_second": 4095}, "bandwidth_bytes_per_second"),
        ({"metered": "maybe"}, "metered"),
        ({"metered_bytes_per_day": "1KiB"}, "metered_bytes_per_day"),
        ({"mirrors": ["http://cache.example"]}, "mirrors"),
        ({"mirrors": ["https://user:secret@cache.example"]}, "mirrors"),
        ({"mirrors": ["https://cache.example/?token=secret"]}, "mirrors"),
        ({"mirrors": ["https://cache.example"] * 9}, "mirrors"),
    ],
)
def test_a_bad_value_is_refused_by_its_key(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationInvalid, match=problem):
        AgentConfig.read(written(tmp_path, **changes))


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid) as raised:
        AgentConfig.read(tmp_path / "agent.toml")

    assert "mailboat-agent enroll" in raised.value.next_step


@pytest.mark.parametrize("content", [b"fleet = ", b"\xff\xfe", b"#" * (CONFIG_BYTES_MAX + 1)])
def test_what_is_not_toml_or_too_large_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigurationInvalid):
        AgentConfig.read(path)


def test_what_is_written_is_read_back_whatever_stands_in_it(tmp_path: Path) -> None:
    odd = {"ring": 'quoted "\\" \n tab\t ü'}

    assert AgentConfig.read(written(tmp_path, labels=odd)).labels == odd
