"""``mailboat config`` against a real controller: sign, look, go back, take away."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import Said, forget_settings, mailboat
from mailboat_controller.access.people import Role
from mailboat_controller.authority.ceremony import Quorum
from mailboat_controller.cli import fleet_document
from mailboat_controller.cli.device import answered, config_lines
from running_controller import RunningController, running_controller
from signed_config import config_document
from trust_fleet import CLASS

PLACE = ("class", CLASS)


@pytest.fixture(autouse=True)
def _no_connection_of_mine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_settings(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningController]:
    with running_controller(tmp_path_factory.mktemp("controller")) as controller:
        yield controller


def write(directory: Path, version: str, values: Any, **metadata: str) -> Path:
    about = {"name": "kiosks", "version": version, "level": "class", "target": CLASS, **metadata}
    content = {
        "apiVersion": "mailboat/v1",
        "kind": "Config",
        "metadata": about,
        "spec": {"values": values},
    }
    path = directory / f"config-{version}.yaml"
    path.write_text(json.dumps(content))
    return path


def test_a_config_is_signed_looked_at_taken_back_and_taken_away(
    tmp_path: Path, controller: RunningController
) -> None:
    connection = ("--connection", controller.person("paul", Role.APPROVER))
    key = ("--key", controller.trust.directory / "fleet" / "config.pem")
    how = (*key, *connection, "--reason", "spring", "--yes")

    def config(*words: str | Path) -> Said:
        return mailboat("config", *words)

    first = write(tmp_path, "1.0.0", {"volume": 1})
    assert config("diff", first, *connection).code == 3
    approved = config("approve", first, *how)
    assert approved.code == 0, approved.err
    assert f"config class {CLASS}" in approved.out
    assert '"volume": 1' in approved.err
    assert config("diff", first, *connection).code == 0
    assert config("approve", write(tmp_path, "1.1.0", {"volume": 2}), *how).code == 0
    listed = config("list", *PLACE, *connection, "--json").json
    assert [(each["version"], each["in_force"]) for each in listed] == [
        ("1.1.0", True),
        ("1.0.0", False),
    ]
    lower = config("approve", write(tmp_path, "1.0.5", {"volume": 3}), *how)
    assert (lower.code, "rollback" in lower.out + lower.err) == (1, True)
    back = config("rollback", *PLACE, "1.0.0", *how)
    assert back.code == 0, back.err
    assert json.loads(config("show", *PLACE, *connection).out)["spec"]["values"] == {"volume": 1}
    (in_force,) = config("list", *connection, "--json").json
    assert (in_force["version"], in_force["epoch"], in_force["reason"]) == ("1.0.0", 1, "spring")
    assert config("withdraw", *PLACE, *how).code == 0
    assert config("list", *connection, "--json").json == []
    nobody = config("approve", write(tmp_path, "2.0.0", {}, target="nobody"), *how)
    assert nobody.code == 1
    assert "There is no class nobody" in nobody.out + nobody.err


def test_an_operator_may_not_hand_in_config_whatever_key_they_hold(
    tmp_path: Path, controller: RunningController
) -> None:
    operator = ("--connection", controller.person("olga", Role.OPERATOR))
    key = ("--key", controller.trust.directory / "fleet" / "config.pem")

    said = mailboat(
        *("config", "approve", write(tmp_path, "5.0.0", {}), "--reason", "x", "--yes"),
        *(*key, *operator),
    )

    assert said.code == 5, said.err


@pytest.mark.slow
def test_two_people_sign_one_after_the_other(tmp_path: Path) -> None:
    with running_controller(
        tmp_path / "controller", approval=Quorum(threshold=2, keys=2)
    ) as controller:
        connection = ("--connection", controller.person("paul", Role.APPROVER))
        one, other = sorted((controller.trust.directory / "fleet").glob("config*.pem"))
        file, change = write(tmp_path, "1.0.0", {"a": 1}), tmp_path / "change.json"
        why = ("--reason", "two of us")

        first = mailboat(
            *("config", "approve", file, "--key", one, "--pending", change, "--yes"),
            *(*why, *connection),
        )
        assert first.code == 0, first.err
        assert mailboat("trust", "sign", change, "--key", other).code == 0
        said = mailboat("config", "submit", change, file, *why, *connection)
        assert said.code == 0, said.err


def test_values_that_are_no_json_are_refused_where_they_stand_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "apiVersion: mailboat/v1\nkind: Config\n"
        "metadata: {name: a, version: 1.0.0, target: kiosk-x86}\n"
        "spec:\n  values:\n    gain: .nan\n"
    )

    said = mailboat("config", "approve", path, "--key", "no.pem", "--reason", "x", "--yes")

    assert said.code != 0
    assert "config.yaml:" in said.err
    assert "not finite" in said.err


def test_a_device_shows_what_is_in_force_and_what_waits() -> None:
    layer = {"level": "class", "name": "kiosks", "version": "1.0.0", "digest": "ab" * 32}
    config = {
        "digest": "cd" * 32,
        "layers": [layer],
        "waiting": [layer | {"version": "2.0.0"}],
        "because": "config kiosks 2.0.0 is not <2",
    }

    assert list(config_lines(config)) == [
        "config cdcdcdcdcdcd: kiosks 1.0.0 (class)",
        "config waits: kiosks 2.0.0 (class)",
        "  config kiosks 2.0.0 is not <2",
    ]
    assert list(config_lines(None)) == []


@pytest.mark.parametrize(
    "given", [{"version": "1.0.1"}, {"target": "other"}, {"level": "site"}, {}]
)
def test_what_is_signed_to_go_back_is_what_was_asked_for_and_nothing_else(
    given: dict[str, str],
) -> None:
    document = config_document(**{"version": "1.0.0", "target": CLASS, **given})
    place = fleet_document.place_of("config", *PLACE)

    if not given:
        fleet_document._require_asked_for(document, place, "1.0.0")
        return
    with pytest.raises(fleet_document.AnotherDocument, match="Nothing was signed"):
        fleet_document._require_asked_for(document, place, "1.0.0")


def test_a_device_shows_when_each_model_answered_last_and_says_when_it_is_not_told() -> None:
    assert answered({"answered_at": 1_795_262_388}) == "2026-11-21T11:59:48Z"
    assert answered({"answered_at": 0}) == "none since its agent began"
    assert answered({"answered_at": None}) == answered({}) == "not told"
