from pathlib import Path

import pytest

from mailboat_controller.config import load
from mailboat_schemas.errors import ConfigurationInvalid


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "controller.toml"
    path.write_text(text)
    return path


def test_relative_directories_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = load(written(tmp_path, 'fleet = "demo"\ndata_dir = "."\n'))

    assert settings.data_dir == tmp_path
    assert settings.store_url == f"sqlite:///{tmp_path}/mailboat.db"
    assert settings.listen_host == "127.0.0.1"


def test_the_environment_stands_above_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILBOAT_LISTEN_PORT", "9443")
    monkeypatch.setenv("MAILBOAT_SERVER_NAMES", '["a.example"]')
    settings = load(
        written(tmp_path, 'fleet = "demo"\ndata_dir = "."\nlisten_port = 1\ntick_seconds = 2\n')
    )

    assert (settings.listen_port, settings.tick_seconds) == (9443, 2)
    assert settings.server_names == ("a.example",)


def test_other_variables_of_ours_are_not_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILBOAT_CONNECTION", "/x/connection.toml")

    assert load(written(tmp_path, 'fleet = "demo"\ndata_dir = "."\n')).fleet == "demo"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('data_dir = "."\n', "fleet"),
        ('fleet = "demo"\ndata_dir = "."\nlisten_prot = 1\n', "listen_prot"),
        ('fleet = "demo"\ndata_dir = "."\nlisten_port = 70000\n', "listen_port"),
        ('fleet = "Demo Fleet"\ndata_dir = "."\n', "fleet"),
        ("fleet = \n", "cannot be read"),
    ],
)
def test_a_mistake_names_its_place(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=named):
        load(written(tmp_path, text))


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="mailboat init"):
        load(tmp_path / "nowhere.toml")


def test_the_certificate_names_every_public_host_once(tmp_path: Path) -> None:
    settings = load(
        written(
            tmp_path,
            'fleet = "demo"\ndata_dir = "."\npublic_api_url = "https://c.example:8443"\n'
            'public_mqtt_host = "c.example"\n',
        )
    )

    assert settings.certificate_names() == ("localhost", "127.0.0.1", "c.example")
