"""What commands answer, in every form and with every exit code, from a real controller."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from command_line import forget_settings, mailboat
from mailboat_controller.cli import live_names, top
from mailboat_controller.cli.top_picture import Item, items, picture
from mailboat_controller.client import ApiClient
from mailboat_controller.contexts import CONTEXTS_MAX, Contexts, with_context
from mailboat_controller.doctor.examine import examine, worst
from mailboat_controller.glance import Glance, Looking, count
from mailboat_schemas.errors import ConfigurationInvalid
from mailboat_schemas.finding import Level
from running_api import RunningApi, running_api
from trust_fleet import CLASS, FLEET

COMMAND_SECONDS_MAX = 60
UNKNOWN = [
    ("rollout", "status", "none"),
    ("rollout", "pause", "none", "--reason", "r"),
    ("release", "show", "vad", "9.9.9"),
    ("site", "show", "none"),
    ("class", "show", "none"),
    ("webhook", "deliveries", "none"),
    ("drill", "status", "nobody"),
    ("explain", "nobody"),
    ("timeline", "none"),
    ("token", "revoke", "nobody", "--reason", "r"),
]
QUICK = [("device", "list"), ("get", "classes")]
LISTS = [
    ("rollout", "list"),
    ("release", "list"),
    ("site", "list"),
    ("class", "list"),
    ("webhook", "list"),
    ("token", "list"),
    ("drill", "list"),
    ("content-key", "list"),
    ("get", "devices"),
    ("audit", "show"),
    ("gitops", "status"),
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        kit = api.kit(labels={"ring": "early"}, uses=2)
        for name in ("dev-1", "dev-2"):
            assert api.enrol(name, token=kit["token"]).status == 201
        order = {"name": "harbour", "broker_host": "broker.harbour.example"}
        assert api.ask("POST", "/v1/sites", by="alice", body=order).status == 201
        yield api


@pytest.fixture(autouse=True)
def _as_alice(api: RunningApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_settings(monkeypatch, tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MAILBOAT_CONNECTION", str(api.connection_file("alice")))


@pytest.mark.parametrize(
    "words",
    [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in LISTS)],
    ids=" ".join,
)
def test_every_list_says_the_same_in_json_and_yaml(words: tuple[str, ...]) -> None:
    as_json = mailboat(*words, "-o", "json")
    as_yaml = mailboat(*words, "-o", "yaml")

    assert (as_json.code, as_yaml.code) == (0, 0)
    assert yaml.safe_load(as_yaml.out) == as_json.json
    assert mailboat(*words, "--json").json == as_json.json


def test_names_are_one_a_line_and_nothing_else() -> None:
    assert mailboat("device", "list", "-o", "name").out.split() == ["dev-1", "dev-2"]
    assert mailboat("site", "list", "-o", "name").out == "harbour\n"
    assert mailboat("class", "list", "-o", "name").out == f"{CLASS}\n"
    assert mailboat("site", "show", "harbour", "-o", "name").out == "harbour\n"
    assert mailboat("rollout", "list", "-o", "name").out == ""


def test_a_wide_table_has_what_the_narrow_one_leaves_out() -> None:
    narrow = mailboat("device", "list").out.splitlines()
    wide = mailboat("device", "list", "-o", "wide").out.splitlines()

    assert "LABELS" not in narrow[0]
    assert wide[0].startswith(narrow[0])
    assert "LABELS" in wide[0]
    assert "ring=early" in wide[1]


def test_get_and_list_are_one_command() -> None:
    assert mailboat("get", "devices").out == mailboat("device", "list").out
    assert mailboat("get", "devices", "-l", "device=dev-2", "-o", "name").out == "dev-2\n"
    assert mailboat("device", "list", "--stale", "-o", "name").out == ""


def test_what_a_command_did_is_told_in_json_and_yaml_and_has_no_names() -> None:
    words = ("device", "label", "dev-1", "--set", "room=late", "--reason", "r")
    done = mailboat(*words, "-o", "yaml")

    assert done.code == 0, done.err
    assert yaml.safe_load(done.out)[0]["device"] == "dev-1"
    assert mailboat(*words, "-o", "name").code == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("device", "show", "nobody"), 4),
        *(pytest.param(words, 4, marks=pytest.mark.slow) for words in UNKNOWN),
        (("context", "use", "nowhere"), 4),
        (("help", "E-NO-SUCH-CODE"), 4),
        (("device", "list", "--context", "nowhere"), 4),
        (("device", "list", "-l", "=="), 1),
        (("device", "hold", "--reason", "r"), 2),
        (("rollout", "pause", "none"), 2),
        (("device", "list", "-o", "xml"), 2),
        (("site", "add", "harbour", "--broker-host", "b", "--reason", "r"), 6),
        (("rollout", "list", "--connection", "nowhere.toml"), 1),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else str(each),
)
def test_each_family_of_commands_ends_with_the_code_of_its_error(
    words: tuple[str, ...], code: int
) -> None:
    assert mailboat(*words).code == code


@pytest.mark.parametrize(
    "words",
    [
        ("device", "revoke", "dev-1", "--reason", "r"),
        ("site", "remove", "harbour", "--reason", "r"),
        ("device", "enroll-token", "--class", CLASS, "--out", "/dev/null"),
        ("webhook", "remove", "w", "--reason", "r"),
    ],
    ids=" ".join,
)
def test_whoever_may_only_look_is_turned_away_with_five(
    words: tuple[str, ...], api: RunningApi
) -> None:
    assert mailboat(*words, "--connection", api.connection_file("vera")).code == 5


class TestContexts:
    def test_name_connections_and_the_first_is_used(
        self, api: RunningApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("MAILBOAT_CONNECTION")
        assert mailboat("device", "list").code == 1

        assert mailboat("context", "add", "here", api.connection_file("alice")).code == 0
        assert mailboat("context", "add", "look", api.connection_file("vera")).code == 0

        assert mailboat("device", "list", "-o", "name").out.split() == ["dev-1", "dev-2"]
        listed = mailboat("context", "list", "-o", "json").json
        assert [(row["name"], row["current"], row["as"]) for row in listed] == [
            ("here", True, "alice"),
            ("look", False, "vera"),
        ]

    def test_what_is_said_comes_before_the_environment_and_that_before_the_file(
        self, api: RunningApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def whose(*words: str) -> str:
            return str(mailboat("context", "show", *words, "-o", "json").json["as"])

        for name in ("alice", "vera", "paul"):
            mailboat("context", "add", name, api.connection_file(name))
        vera = str(api.connection_file("vera"))

        assert whose() == "alice"  # MAILBOAT_CONNECTION
        monkeypatch.setenv("MAILBOAT_CONTEXT", "paul")
        assert whose() == "alice"  # of the two in the environment, the file itself
        assert whose("--context", "vera") == "vera"
        assert whose("--connection", vera) == "vera"
        monkeypatch.delenv("MAILBOAT_CONNECTION")
        assert whose() == "paul"
        monkeypatch.delenv("MAILBOAT_CONTEXT")
        assert mailboat("context", "use", "vera").code == 0
        assert whose() == "vera"
        assert mailboat("context", "show", "--context", "vera", "--connection", vera).code == 2

    def test_hold_no_secret_and_are_closed_to_others(self, api: RunningApi, tmp_path: Path) -> None:
        mailboat("context", "add", "here", api.connection_file("alice"))
        path = tmp_path / "config" / "mailboat" / "config.toml"

        assert path.stat().st_mode & 0o777 == 0o600
        assert api.tokens["alice"] not in path.read_text()

    def test_removed_ones_are_forgotten_and_their_files_stay(self, api: RunningApi) -> None:
        mailboat("context", "add", "here", api.connection_file("alice"))
        assert mailboat("context", "remove", "here").code == 0

        assert mailboat("context", "list", "-o", "name").out == ""
        assert mailboat("context", "remove", "here").code == 4
        assert api.connection_file("alice").exists()

    def test_are_not_more_than_a_person_has_controllers(self, api: RunningApi) -> None:
        path = api.connection_file("alice")
        held = Contexts(contexts={f"c{number}": "x" for number in range(CONTEXTS_MAX)})

        assert with_context(held, "c0", path).contexts["c0"] == str(path)
        with pytest.raises(ConfigurationInvalid, match="the most there can be"):
            with_context(held, "one-more", path)

    def test_a_file_that_is_none_is_refused_with_its_place(self, tmp_path: Path) -> None:
        path = tmp_path / "config" / "mailboat" / "config.toml"
        path.parent.mkdir(parents=True)
        path.write_text("contexts = 3\n")

        said = mailboat("context", "list")

        assert (said.code, str(path) in said.err) == (1, True)
        assert mailboat("context", "add", "Bad Name", path).code == 2


class _Completing:
    """A context of the shell's completion, with what was typed so far."""

    def __init__(self, **params: object) -> None:
        self.params = params


class TestCompletion:
    def test_has_the_names_that_there_are(self) -> None:
        ctx = _Completing()

        assert live_names.devices(ctx, "dev-") == ["dev-1", "dev-2"]  # type: ignore[arg-type]
        assert live_names.devices(ctx, "x") == []  # type: ignore[arg-type]
        assert live_names.sites(ctx, "") == ["harbour"]  # type: ignore[arg-type]
        assert live_names.classes(ctx, "") == [CLASS]  # type: ignore[arg-type]
        assert live_names.rollouts(ctx, "") == []  # type: ignore[arg-type]

    def test_knows_the_keys_and_values_of_a_selector(self) -> None:
        ctx = _Completing()

        assert live_names.selectors(ctx, "cl") == ["class="]  # type: ignore[arg-type]
        found = live_names.selectors(ctx, "site=harbour,device=dev-2")  # type: ignore[arg-type]
        assert found == ["site=harbour,device=dev-2"]

    def test_asks_once_and_then_remembers_for_a_moment(self, api: RunningApi) -> None:
        ctx = _Completing(connection=str(api.connection_file("vera")))
        assert live_names.devices(ctx, "") == ["dev-1", "dev-2"]  # type: ignore[arg-type]
        api.tokens["vera"], held = "gone", api.tokens["vera"]
        token = api.connection_file("vera").parent / "token"
        text = token.read_text()
        try:
            token.write_text("not a token\n")
            assert live_names.devices(ctx, "") == ["dev-1", "dev-2"]  # type: ignore[arg-type]
            assert live_names.rollouts(ctx, "") == []  # type: ignore[arg-type]
        finally:
            token.write_text(text)
            api.tokens["vera"] = held

    def test_asks_again_where_what_it_kept_is_damaged(self, tmp_path: Path) -> None:
        ctx = _Completing()
        assert live_names.sites(ctx, "") == ["harbour"]  # type: ignore[arg-type]
        for kept in (tmp_path / "cache").rglob("*"):
            if kept.is_file():
                kept.write_bytes(b"{" * 100)

        assert live_names.sites(ctx, "") == ["harbour"]  # type: ignore[arg-type]

    def test_says_nothing_when_there_is_nobody_to_ask(
        self, capfd: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        for ctx in (
            _Completing(connection=str(tmp_path / "none.toml")),
            _Completing(context="nowhere"),
        ):
            os.environ.pop("MAILBOAT_CONNECTION", None)
            assert live_names.devices(ctx, "") == []  # type: ignore[arg-type]

        assert capfd.readouterr() == ("", "")

    @pytest.mark.slow
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_of_a_shell_names_devices_in_their_place(self, shell: str) -> None:
        asked = {
            "_MAILBOAT_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": "mailboat device show dev-1",
            "COMP_CWORD": "3",
            "_TYPER_COMPLETE_ARGS": "mailboat device show dev-1",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        done = subprocess.run(
            [Path(sys.executable).with_name("mailboat")],
            env=os.environ | asked,
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
        )

        assert "dev-1" in done.stdout
        assert done.stderr == ""

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_has_a_script_for_each_shell(self, shell: str) -> None:
        assert "_MAILBOAT_COMPLETE" in mailboat("completion", shell).out
        assert mailboat("completion", "csh").code == 2


class TestDoctor:
    def test_finds_each_step_well_up_to_the_broker_that_is_not_there(self) -> None:
        said = mailboat("doctor", "-o", "json")

        found = {each["check"]: each for each in said.json["findings"]}
        well = ("connection", "api-dns", "api-tcp", "api-tls", "api", "clock", "token")
        assert {name: found[name]["level"] for name in well} == dict.fromkeys(well, "ok")
        assert (found["broker-tcp"]["level"], found["broker-acl"]["level"]) == ("fail", "skip")
        assert found["broker-tcp"]["fix"]
        assert (said.code, said.json["verdict"]) == (1, "fail")

    def test_says_what_to_do_below_each_finding_that_is_not_well(self) -> None:
        lines = mailboat("doctor").out.splitlines()

        (at,) = (number for number, line in enumerate(lines) if line.startswith("fail  broker-tcp"))
        assert lines[at + 1].strip().startswith("fix: ")

    def test_tells_of_a_clock_that_is_wrong(self, api: RunningApi) -> None:
        path = api.connection_file("alice")
        ahead = datetime(2090, 1, 1, tzinfo=UTC)

        found = {each.check: each for each in examine(path, "", None, lambda: ahead)}

        assert found["clock"].level is Level.FAIL
        assert "ahead of the controller's" in found["clock"].what

    @pytest.mark.slow
    def test_of_a_foreign_controller_and_of_no_connection(
        self, api: RunningApi, tmp_path: Path
    ) -> None:
        now = lambda: datetime.now(UTC)  # noqa: E731
        none = list(examine(tmp_path / "none.toml", "", None, now))
        assert [each.level for each in none] == [Level.FAIL, Level.SKIP]

        here = api.connection_file("paul")
        (tmp_path / "ca.pem").write_bytes((here.parent / "ca.pem").read_bytes())
        (tmp_path / "token").write_text(f"{api.tokens['paul']}\n")
        (tmp_path / "token").chmod(0o600)
        other = tmp_path / "connection.toml"
        text = here.read_text()
        other.write_text(text.replace(f'fleet = "{api.authority.fleet}"', 'fleet = "other"'))

        found = {each.check: each for each in examine(other, "", None, now)}

        assert found["api"].level is Level.FAIL
        assert "is for 'other'" in found["api"].what

    @pytest.mark.slow
    def test_looks_at_the_disk_where_the_controller_is(self, api: RunningApi) -> None:
        config = api.settings.data_dir / "controller.toml"
        found = list(examine(api.connection_file("alice"), "", config, lambda: datetime.now(UTC)))

        by_check = {each.check: each for each in found}
        assert by_check["rights"].level is Level.OK
        assert "free" in by_check["disk"].what
        assert worst(found) is Level.FAIL  # no broker runs here

        key = api.settings.keys_dir / "snapshot.pem"
        key.chmod(0o644)
        try:
            again = {
                each.check: each
                for each in examine(
                    api.connection_file("alice"), "", config, lambda: datetime.now(UTC)
                )
            }
        finally:
            key.chmod(0o600)
        assert again["rights"].level is Level.FAIL
        assert "chmod" in again["rights"].fix


class TestTop:
    def test_in_a_pipe_is_one_look_at_everything(self) -> None:
        said = mailboat("top")

        assert said.code == 0
        assert "SITES     0 of 1 cut off" in said.out
        assert "\x1b" not in said.out
        told = mailboat("top", "-o", "json").json
        assert (told["fleet"], told["sites"], told["rollouts"]) == (FLEET, 1, [])

    @pytest.mark.slow
    def test_counts_what_came_in_since_the_look_before(self, api: RunningApi) -> None:
        with ApiClient.open(api.connection_file("alice")) as client:
            looking = Looking(client)
            assert looking.look(0.0, everything=True).rates["events"] is None
            assert looking.look(10.0, everything=True).rates["events"] == 0.0

    def test_opens_what_is_chosen_as_show_would(self, api: RunningApi) -> None:
        path = api.connection_file("alice")

        assert "broker.harbour.example" in top._detail(Item("site", "harbour"), path)
        assert "next step: " in top._detail(Item("device", "nobody"), path)

    def test_draws_no_name_that_could_move_the_terminal(self) -> None:
        hostile = "a\x1b[2J[bold]\r\n\u202e"
        rollout = {
            "name": hostile,
            "model": hostile,
            "version": "1.0.0",
            "phase": "halted",
            "because": hostile,
            "waves": 2,
            "waves_open": 1,
            "failed": 1,
        }
        glance = Glance(fleet="demo", rollouts=(rollout,), health={"status": hostile})
        drawn = io.StringIO()
        Console(file=drawn, width=100).print(picture(glance, datetime.now(UTC), keys=False))

        assert all(char.isprintable() or char == "\n" for char in drawn.getvalue())
        assert "[bold]" in drawn.getvalue()
        assert items(glance) == [Item("rollout", hostile)]

    def test_adds_the_labels_of_a_counter_up(self) -> None:
        text = (
            'mailboat_events_ingested_total{kind="a"} 3.0\n'
            'mailboat_events_ingested_total{kind="b"} 4.0\n'
            "mailboat_events_ingested_created 9.0\n"
            "mailboat_telemetry_windows_ingested_total 5.0\n"
        )

        assert count(text) == {"events": 7.0, "windows": 5.0}


def test_json_of_a_list_is_what_the_api_says(api: RunningApi) -> None:
    rows = api.ask("GET", "/v1/devices", by="alice").json
    listed = mailboat("device", "list", "-o", "json").json

    assert [{key: row[key] for key in rows[0]} for row in listed] == json.loads(json.dumps(rows))
