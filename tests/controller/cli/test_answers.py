"""What commands answer, in every form and with every exit code, from a real controller."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
import yaml
from rich.console import Console
from sqlalchemy import update

from command_line import forget_settings, mailboat
from mailboat_controller import glance
from mailboat_controller.cli import audit_following, forms, live_names, top
from mailboat_controller.cli.top_picture import Item, items, picture
from mailboat_controller.client import ApiClient
from mailboat_controller.contexts import CONTEXTS_MAX, Contexts, with_context
from mailboat_controller.doctor.examine import examine, worst
from mailboat_controller.glance import Glance, Looking, count
from mailboat_controller.store import quarantine, tables
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.errors import ConfigurationInvalid, ServerUnavailable
from mailboat_schemas.finding import Level
from pseudo_terminal import PATIENCE_SECONDS, on_terminal
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
    # However slow this machine is: what is tested is not how long a person waits.
    monkeypatch.setattr(live_names, "ANSWER_SECONDS_MAX", PATIENCE_SECONDS)
    monkeypatch.setattr(live_names, "FRESH_SECONDS", 3600.0)
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


def test_the_version_of_both_sides_is_told_and_of_one_side_without_a_controller(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both = mailboat("version", "-o", "json").json
    assert both["controller"] == {
        "version": both["client"]["version"],
        "contract": both["client"]["contract"],
        "fleet": FLEET,
    }
    assert mailboat("version").out.splitlines()[1].startswith("controller ")

    monkeypatch.setenv("MAILBOAT_CONNECTION", str(tmp_path / "none.toml"))
    here = mailboat("version", "--client")
    assert here.out == mailboat("--version").out
    assert both["client"]["version"] in here.out
    alone = mailboat("version")
    assert (alone.code, alone.out) == (1, here.out)  # what can be told is told
    assert "error E-CONFIG" in alone.err


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

    @pytest.mark.parametrize("changeable", ["config.toml", "connection.toml"])
    def test_that_everybody_may_change_are_refused(
        self, api: RunningApi, tmp_path: Path, changeable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever changes where commands go to has the token sent there."""
        held = tmp_path / "held"
        shutil.copytree(api.connection_file("alice").parent, held)
        assert mailboat("context", "add", "here", held / "connection.toml").code == 0
        monkeypatch.delenv("MAILBOAT_CONNECTION")
        assert mailboat("site", "list").code == 0
        places = {"config.toml": tmp_path / "config" / "mailboat", "connection.toml": held}
        (places[changeable] / changeable).chmod(0o602)

        said = mailboat("site", "list")

        assert said.code == 1
        assert "may change" in said.err
        assert "chmod 600" in said.err


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

    def test_asks_for_what_was_typed_where_there_are_too_many(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(live_names, "NAMES_MAX", 1)
        ctx = _Completing()

        assert live_names.devices(ctx, "") == ["dev-1"]  # type: ignore[arg-type]
        assert live_names.devices(ctx, "dev-2") == ["dev-2"]  # type: ignore[arg-type]
        assert live_names.devices(ctx, "dev-%") == []  # type: ignore[arg-type]
        kept = list((tmp_path / "cache" / "mailboat" / "names").iterdir())
        assert len(kept) == 2
        for each in kept:
            os.utime(each, (0, 0))
        assert live_names.sites(ctx, "") == ["harbour"]  # type: ignore[arg-type]
        assert len(list(kept[0].parent.iterdir())) == 1, "what is old stays"

    def test_asks_nobody_twice_for_more_of_a_word(self, api: RunningApi) -> None:
        ctx = _Completing()
        assert live_names.devices(ctx, "d") == ["dev-1", "dev-2"]  # type: ignore[arg-type]
        token = api.connection_file("alice").parent / "token"
        text = token.read_text()
        try:
            token.write_text("not a token\n")
            assert live_names.devices(ctx, "dev-1") == ["dev-1"]  # type: ignore[arg-type]
        finally:
            token.write_text(text)

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
    def test_of_a_shell_names_devices_in_their_place(self, shell: str, tmp_path: Path) -> None:
        asked = {
            "_MAILBOAT_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": "mailboat device show dev-1",
            "COMP_CWORD": "3",
            "_TYPER_COMPLETE_ARGS": "mailboat device show dev-1",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        ends_at = time.monotonic() + PATIENCE_SECONDS
        said, attempt = "", 0
        while "dev-1" not in said:  # a machine under load may not answer within its 1.5 s
            assert time.monotonic() < ends_at
            attempt += 1
            done = subprocess.run(
                [Path(sys.executable).with_name("mailboat")],
                env=os.environ | asked | {"XDG_CACHE_HOME": str(tmp_path / str(attempt))},
                check=False,
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS_MAX,
            )
            said = done.stdout
            assert done.stderr == ""

    @pytest.mark.slow
    def test_in_a_real_shell_ends_the_word(self, tmp_path: Path) -> None:
        """bash splits words where selectors have signs of their own."""
        (tmp_path / "connection.toml").touch()
        commands = Path(sys.executable).parent
        scripts = " ".join(
            f'eval "$({commands / name} completion bash)";'
            for name in ("mailboat", "mailboat-agent")
        )
        environment = {"PATH": f"{commands}:{os.environ['PATH']}", "PS1": "$ ", "TERM": "dumb"}
        with on_terminal(
            ["--norc", "--noprofile", "-i"], environment, program=["bash"], columns=400
        ) as terminal:
            terminal.press(f"cd {tmp_path}; {scripts} echo rea''dy\n")
            terminal.until("ready\r\n")
            for typed, completed in (
                ("mailboat rollout stat", "rollout status "),
                ("mailboat device list -l presence=onl", "-l presence=online "),
                ("mailboat device list -l site=a,presence=off", "-l site=a,presence=offline "),
                ("mailboat device list -l 'presence=unk", "-l 'presence=unknown' "),
                ("mailboat help E-REB", "help E-REBASE "),
                ("mailboat-agent db qu", "db query "),
                ("mailboat-agent import --js", "import --json "),
                ("mailboat-agent status --config connec", "--config connection.toml "),
            ):
                terminal.press(f"{typed}\t")
                terminal.until(completed)
                terminal.press("\x15")

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

    def test_in_a_pipe_is_as_wide_as_columns_says_unless_that_is_a_slip(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def widest(columns: str) -> int:
            monkeypatch.setenv("COLUMNS", columns)
            return max(map(len, mailboat("top").out.splitlines()))

        assert widest("30") <= 30 < widest("60") <= 60
        for slip in (str(top.COLUMNS_MIN - 1), str(top.COLUMNS_MAX + 1), "wide", ""):
            assert 60 < widest(slip) <= top.SNAPSHOT_CHARS

    def test_looks_past_devices_that_were_cut_off(
        self, api: RunningApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(glance, "DEVICES_MAX", 1)
        monkeypatch.setattr(glance, "PAGE_ROWS", 1)
        held = tables.devices

        def say(name: str, **said: object) -> None:
            with api.store.transaction() as tx:
                tx.execute(update(held).where(held.c.device == name).values(**said))

        now = to_ms(api.now())
        say("dev-1", online=False, presence_at=now, revoked=True)
        say("dev-2", online=False, presence_at=now)
        try:
            with ApiClient.open(api.connection_file("alice")) as client:
                seen = Looking(client).look(0.0, everything=True)
        finally:
            say("dev-1", online=None, presence_at=None, revoked=False)
            say("dev-2", online=None, presence_at=None)
        drawn = io.StringIO()
        Console(file=drawn, width=100).print(picture(seen, datetime.now(UTC), keys=False))

        assert [row["device"] for row in seen.devices] == ["dev-2"]
        assert "mailboat device list -l presence=offline" not in drawn.getvalue()

    def test_says_where_the_rest_is_when_there_are_more_than_it_draws(self) -> None:
        row = {
            "reason": "offline",
            "hardware_class": "kiosk",
            "site": "-",
            "presence_because": "",
            "last_seen_at": None,
        }
        rows = tuple({**row, "device": f"dev-{number}"} for number in range(glance.DEVICES_MAX))
        drawn = io.StringIO()
        seen = Glance(fleet="demo", devices=rows, health={"status": "ok"})
        Console(file=drawn, width=100).print(picture(seen, datetime.now(UTC), keys=False))

        assert "`mailboat device list -l presence=offline` has all" in drawn.getvalue()

    def test_says_how_to_go_back_below_what_is_higher_than_the_window(
        self, api: RunningApi
    ) -> None:
        row = {"reason": "offline", "device": "dev-1", "hardware_class": CLASS, "site": "-"}
        row |= {"presence_because": "", "last_seen_at": None}
        latest = top._Latest(glance=Glance(fleet=FLEET, devices=(row,), health={"status": "ok"}))
        pressed = iter(["enter", None, "quit"])
        drawn: list[object] = []

        top._draw_on(
            drawn.append,
            Console(width=80, height=8),
            latest,
            lambda _seconds: next(pressed),
            api.connection_file("alice"),
        )

        lines = str(drawn[-1]).splitlines()
        assert len(lines) <= 8
        assert "more lines" in lines[-3]
        assert lines[-1] == "esc back   q end"

    def test_that_meets_something_unforeseen_ends_and_shows_no_old_picture(self) -> None:
        latest = top._Latest()

        top._look_on(None, 0.0, latest, threading.Event())  # type: ignore[arg-type]

        assert isinstance(latest.ended, AttributeError)

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


def test_a_name_cannot_make_another_order_of_the_one_that_was_meant(api: RunningApi) -> None:
    """Such as one of a list that somebody else has written."""
    for name in ("dev-2/revoke?", "dev-2/revoke#", "../devices/dev-2/revoke?", "", "a\nb\x1b[31m"):
        said = mailboat("device", "release-hold", name, "--reason", "r")
        assert said.code == 4, name
        assert "\x1b" not in said.err
        assert mailboat("device", "show", name).code == 4

    assert api.ask("GET", "/v1/devices/dev-2", by="alice").json["revoked"] is False


def test_a_connection_whose_address_is_none_says_so(api: RunningApi, tmp_path: Path) -> None:
    held = tmp_path / "held"
    shutil.copytree(api.connection_file("alice").parent, held)
    file = held / "connection.toml"
    file.write_text(file.read_text().replace(api.url, "https://[::"))

    said = mailboat("site", "list", "--connection", file)

    assert said.code == 1
    assert "write api_url like" in said.err


class TestFollowing:
    def follow(
        self,
        api: RunningApi,
        *turns: Exception | None,
        after: int | None = None,
        form: str = "json",
        wanted: dict[str, str] | None = None,
    ) -> int:
        """Before each look an entry is made, or the controller is away; then Ctrl-C."""
        waiting = iter(turns)

        def pause(_seconds: float) -> None:
            turn = next(waiting, KeyboardInterrupt())
            if turn is not None:
                raise turn
            api.kit()

        with (
            ApiClient.open(api.connection_file("alice")) as client,
            forms.spoken(form),
            pytest.raises(typer.Exit) as ended,
        ):
            audit_following.follow(client, after, 2, wanted or {}, ("sequence",), pause=pause)
        return int(ended.value.exit_code)

    def test_begins_with_the_newest_and_goes_on(
        self, api: RunningApi, capsys: pytest.CaptureFixture[str]
    ) -> None:
        newest = mailboat("audit", "show", "-o", "json").json[-2:]

        assert self.follow(api, None, None) == 130

        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert told[:2] == newest
        assert [row["sequence"] for row in told] == list(
            range(told[0]["sequence"], told[0]["sequence"] + 4)
        )

    def test_speaks_every_form(self, api: RunningApi, capsys: pytest.CaptureFixture[str]) -> None:
        self.follow(api, form="name")
        names = capsys.readouterr().out.split()
        self.follow(api, form="yaml")
        documents = list(yaml.safe_load_all(capsys.readouterr().out))
        self.follow(api, form="table", after=int(names[0]))
        (line,) = capsys.readouterr().out.splitlines()

        assert [str(each["sequence"]) for each in documents] == names
        assert line == names[1]

    def test_that_finds_nothing_yet_misses_nothing_later(
        self, api: RunningApi, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.follow(api, None, wanted={"action": "device.revoke"})

        assert capsys.readouterr().out == ""

    def test_outlives_a_controller_that_is_away(
        self, api: RunningApi, capsys: pytest.CaptureFixture[str]
    ) -> None:
        newest = mailboat("audit", "show", "-o", "json").json[-1]["sequence"]
        away = api.connection_file("alice").parent / "ca.pem"
        asked = 0

        class Away(ApiClient):
            """The real one, before whose second and third question the network is cut."""

            def get(self, path: str, **parameters: object) -> object:
                nonlocal asked
                asked += 1
                if asked in (2, 3):
                    raise ServerUnavailable("It is away.", next_step="wait.")
                return super().get(path, **parameters)

        waits = iter([None, None, None])

        def pause(_seconds: float) -> None:
            if next(waits, 1) is not None:
                raise KeyboardInterrupt

        with Away.open(away.parent / "connection.toml") as client, pytest.raises(typer.Exit):
            audit_following.follow(client, newest - 1, 2, {}, ("sequence",), pause=pause)

        said = capsys.readouterr()
        assert said.out == f"{newest}\n"
        assert said.err.count("It is away.") == 1

    @pytest.mark.parametrize("more", ["--watch", "--until=1h"])
    def test_has_no_end_and_needs_no_watch(self, more: str) -> None:
        assert mailboat("audit", "show", "--follow", more).code == 2


class TestQuarantine:
    @pytest.fixture(autouse=True)
    def _messages(self, api: RunningApi) -> Iterator[None]:
        with api.store.transaction() as tx:
            tx.execute(tables.quarantine.delete())
            for number, device in enumerate(("dev-1", "dev-2", "dev-1", "dev-11")):
                quarantine.put(
                    tx,
                    topic=f"mb/1/{FLEET}/site/-/dev/{device}/events",
                    code="E-TOPIC-MISMATCH" if number else "E-PAYLOAD-MALFORMED",
                    problem=f"number {number} \x1b[2J" + "x" * 200,
                    payload=b"\x00\xff" * (number + 1),
                    at=api.now(),
                )
        yield
        with api.store.transaction() as tx:
            tx.execute(tables.quarantine.delete())

    def test_lists_the_newest_with_the_reason(self) -> None:
        rows = mailboat("quarantine", "list", "-o", "json").json
        said = mailboat("get", "quarantine", "--entries", "2")

        assert [row["problem"][:8] for row in rows] == [f"number {n}" for n in range(4)]
        assert [row["kept_bytes"] for row in rows] == [2, 4, 6, 8]
        assert "payload" not in json.dumps(rows[0])
        assert "\x1b" not in said.out
        assert [line.split("\t")[0] for line in said.out.splitlines()[1:]] == [
            str(row["id"]) for row in rows[2:]
        ]
        assert "There are older ones" in said.err

    def test_is_narrowed_to_a_device_or_a_code(self) -> None:
        of_device = mailboat("quarantine", "list", "--device", "dev-1", "-o", "json").json
        of_code = mailboat("quarantine", "list", "--code", "E-PAYLOAD-MALFORMED", "-o", "json").json

        assert [row["problem"][:8] for row in of_device] == ["number 0", "number 2"]
        assert [row["problem"][:8] for row in of_code] == ["number 0"]

    def test_shows_what_is_kept_of_a_payload_to_operators(
        self, api: RunningApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        number = mailboat("quarantine", "list", "-o", "name").out.split()[0]
        out = tmp_path / "message.bin"

        assert mailboat("quarantine", "show", number, "-o", "json").json["payload_base64"] == "AP8="
        assert mailboat("quarantine", "show", number, "--out", out).code == 0
        assert out.read_bytes() == b"\x00\xff"
        assert mailboat("quarantine", "show", "999999").code == 4
        monkeypatch.setenv("MAILBOAT_CONNECTION", str(api.connection_file("vera")))
        assert mailboat("quarantine", "list").code == 0
        assert mailboat("quarantine", "show", number).code == 5

    def test_comes_in_pages_that_are_linked(self, api: RunningApi) -> None:
        page = api.ask("GET", "/v1/quarantine?limit=3", by="vera")

        assert [row["problem"][:8] for row in page.json] == ["number 1", "number 2", "number 3"]
        before = page.json[0]["id"]
        assert f"before={before}" in page.headers["link"]
        rest = api.ask("GET", f"/v1/quarantine?limit=3&before={before}", by="vera")
        assert [row["problem"][:8] for row in rest.json] == ["number 0"]
        assert "link" not in rest.headers
        assert api.ask("GET", "/v1/quarantine?limit=501", by="vera").status == 422
