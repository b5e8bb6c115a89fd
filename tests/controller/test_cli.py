"""The command as people and scripts run it: through `main`, against a real controller."""

import json
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from command_line import Said
from mailboat_controller import cli
from mailboat_controller.access.people import Role
from running_api import RunningApi, running_api
from trust_fleet import CLASS, TrustFleet

CLASS_YAML = """\
apiVersion: mailboat/v1
kind: HardwareClass
metadata:
  name: camera
spec:
  arch: aarch64
  memory_budget: 64MiB
  disk_budget: 256MiB
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        api.enrol("dev-1", token=api.kit(labels={"ring": "early"})["token"])
        yield api


class Terminal:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def run(self, *arguments: str | Path) -> Said:
        self._monkeypatch.setattr(sys, "argv", ["mailboat", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = self._capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    monkeypatch.delenv("MAILBOAT_CONNECTION", raising=False)
    return Terminal(monkeypatch, capsys)


@pytest.fixture
def alice(terminal: Terminal, api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("MAILBOAT_CONNECTION", str(api.connection_file("alice")))
    return terminal


class TestInit:
    def test_makes_a_directory_a_controller_can_start_from(
        self, terminal: Terminal, tmp_path: Path
    ) -> None:
        ceremony = TrustFleet(tmp_path / "ceremony").directory
        said = terminal.run(
            "init",
            "--fleet",
            "demo",
            "--data-dir",
            tmp_path / "data",
            "--trust",
            ceremony,
            "--json",
        )

        assert said.code == 0
        assert tomllib.loads(Path(said.json["config"]).read_text())["fleet"] == "demo"
        connection = tomllib.loads(Path(said.json["connection"]).read_text())
        assert connection["name"] == "operator"

    def test_again_is_refused_and_with_a_ceremony_takes_it_in(
        self, terminal: Terminal, tmp_path: Path
    ) -> None:
        words = ("init", "--fleet", "demo", "--data-dir", tmp_path / "data")
        assert terminal.run(*words).code == 0
        refused = terminal.run(*words)
        assert (refused.code, "E-CONFIG" in refused.err) == (1, True)
        assert "Traceback" not in refused.err

        ceremony = TrustFleet(tmp_path / "ceremony").directory
        assert terminal.run(*words, "--trust", ceremony).code == 0
        assert terminal.run(*words, "--trust", ceremony).code == 6


class TestCredentials:
    def test_are_issued_listed_and_revoked(self, terminal: Terminal, tmp_path: Path) -> None:
        terminal.run("init", "--fleet", "demo", "--data-dir", tmp_path)
        config = ("--config", tmp_path / "controller.toml")
        issued = terminal.run(
            "credential", "issue", "--kind", "ci", "build", "--out", tmp_path / "ci", *config
        )
        assert issued.code == 0
        assert stat.S_IMODE((tmp_path / "ci" / "build.key").stat().st_mode) == 0o600

        revoke = ("credential", "revoke", "--kind", "ci", "build", "--reason", "left", *config)
        assert terminal.run(*revoke).code == 0
        assert terminal.run(*revoke).code == 4
        listed = terminal.run("credential", "list", "--json", *config).json
        assert [(row["name"], row["revoked"]) for row in listed] == [("build", True)]


class TestTokens:
    def test_of_the_first_operator_is_a_secret_file(
        self, terminal: Terminal, tmp_path: Path
    ) -> None:
        said = terminal.run("init", "--fleet", "demo", "--data-dir", tmp_path, "--json")
        directory = Path(said.json["connection"]).parent
        token = (directory / "token").read_text().strip()

        assert tomllib.loads((directory / "connection.toml").read_text())["token"] == "token"
        assert stat.S_IMODE((directory / "token").stat().st_mode) == 0o600
        assert token.rpartition("_")[2] not in said.out + said.err
        database = b"".join(path.read_bytes() for path in tmp_path.glob("mailboat.db*"))
        assert token.split("_")[1].encode() in database
        assert token.rpartition("_")[2].encode() not in database

    def test_are_issued_listed_and_revoked_on_the_controllers_disk(
        self, terminal: Terminal, tmp_path: Path
    ) -> None:
        terminal.run("init", "--fleet", "demo", "--data-dir", tmp_path)
        config = ("--config", tmp_path / "controller.toml")
        issue = ("token", "issue", "anna", "--role", "approver", "--out", tmp_path / "anna")
        assert terminal.run(*issue, "--days", "7", *config, "--json").json["days"] == 7
        assert terminal.run(*issue, "--days", "91", *config).code == 2
        assert terminal.run("token", "issue", "A b", *issue[3:], *config).code == 1

        revoke = ("token", "revoke", "anna", "--reason", "left", *config)
        assert terminal.run(*revoke, "--json").json == {"name": "anna", "revoked": 1}
        assert terminal.run(*revoke).code == 4
        listed = terminal.run("token", "list", "--json", *config).json
        assert [(row["name"], row["role"], row["revoked"]) for row in listed] == [
            ("operator", "operator", False),
            ("anna", "approver", True),
        ]

    def test_are_listed_and_revoked_through_the_api_by_operators(
        self, alice: Terminal, api: RunningApi
    ) -> None:
        api.admit(Role.VIEWER, "viktor")
        vera = ("--connection", api.connection_file("vera"))

        assert alice.run("token", "revoke", "viktor", "--reason", "x", *vera).code == 5
        assert alice.run("token", "revoke", "viktor", "--reason", "left").code == 0
        rows = {row["name"]: row for row in alice.run("token", "list", "--json").json}
        assert (rows["viktor"]["revoked"], rows["vera"]["revoked"]) == (True, False)
        said = alice.run("device", "list", "--connection", api.connection_file("viktor"))
        assert (said.code, "E-TOKEN-REVOKED" in said.err) == (5, True)

    def test_are_renewed_in_their_place(self, terminal: Terminal, api: RunningApi) -> None:
        api.admit(Role.VIEWER, "walter", days=5)
        connection = api.connection_file("walter")
        old = connection.with_name("token").read_text()
        api.clock_ahead = timedelta(days=1)
        try:
            said = terminal.run("token", "renew", "--connection", connection, "--json")
        finally:
            api.clock_ahead = timedelta()

        new = connection.with_name("token").read_text()
        assert said.json["id"] == new.split("_")[1] != old.split("_")[1]
        assert stat.S_IMODE(connection.with_name("token").stat().st_mode) == 0o600
        assert new.strip().rpartition("_")[2] not in said.out + said.err
        connection.with_name("token").write_text(old)
        assert terminal.run("device", "list", "--connection", connection).code == 5

    def test_are_none_of_a_pipelines_business(self, terminal: Terminal, api: RunningApi) -> None:
        said = terminal.run("token", "renew", "--connection", api.connection_file("build"))

        assert (said.code, "no token" in said.err) == (1, True)


class TestAReminder:
    def test_comes_in_the_last_days_of_a_token_and_not_into_what_programs_read(
        self, terminal: Terminal, api: RunningApi
    ) -> None:
        api.admit(Role.VIEWER, "xaver", days=30)
        words = ("device", "list", "--json", "--connection", api.connection_file("xaver"))
        assert terminal.run(*words).err == ""

        api.clock_ahead = timedelta(days=24)
        try:
            said = terminal.run(*words)
        finally:
            api.clock_ahead = timedelta()

        assert (said.code, said.err.count("mailboat token renew")) == (0, 1)
        assert said.json[0]["device"] == "dev-1"


class TestDevices:
    def test_a_kit_is_a_secret_file_and_never_on_the_screen(
        self, alice: Terminal, tmp_path: Path
    ) -> None:
        out = tmp_path / "kit.json"
        out.touch(mode=0o644)
        said = alice.run(
            "device", "enroll-token", "--class", CLASS, "--label", "ring=late", "--out", out
        )

        kit = json.loads(out.read_text())
        assert said.code == 0
        assert kit["labels"] == {"ring": "late"}
        assert kit["token"] not in said.out + said.err
        assert stat.S_IMODE(out.stat().st_mode) == 0o600

    def test_a_kit_is_not_written_into_a_file_that_somebody_holds_open(
        self, alice: Terminal, tmp_path: Path
    ) -> None:
        """Or that a link leads to: whoever made it in a shared directory would read the token."""
        theirs, out = tmp_path / "theirs", tmp_path / "kit.json"
        theirs.touch()
        out.symlink_to(theirs)
        with theirs.open() as file:
            arguments = ("--class", CLASS, "--out", out, "--reason", "the new hall")
            assert alice.run("device", "enroll-token", *arguments).code == 0
            assert file.read() == ""
        assert json.loads(out.read_text())["token"]

    def test_are_listed_for_pipes_and_for_programs(self, alice: Terminal) -> None:
        plain = alice.run("device", "list", "--class", CLASS)
        header, row = plain.out.splitlines()
        assert header.split("\t")[:2] == ["DEVICE", "CLASS"]
        assert row.split("\t")[:4] == ["dev-1", CLASS, "-", "unknown"]  # never heard of

        assert alice.run("device", "list", "--json").json[0]["online"] is None

    def test_show_says_what_one_is(self, alice: Terminal) -> None:
        assert "ring=early" in alice.run("device", "show", "dev-1").out
        shown = alice.run("device", "show", "dev-1", "--json").json
        assert (shown["device"], shown["events"]) == ("dev-1", [])

    def test_one_that_is_not_there_exits_with_four(self, alice: Terminal) -> None:
        said = alice.run("device", "show", "dev-9")

        assert said.code == 4
        assert said.err.splitlines() == [
            "error E-NOT-FOUND: There is no device dev-9.",
            "  next step: `mailboat device list` shows all devices.",
        ]

    def test_revoking_needs_a_reason(self, alice: Terminal, api: RunningApi) -> None:
        api.enrol("dev-2")
        assert alice.run("device", "revoke", "dev-2").code == 2
        assert alice.run("device", "revoke", "dev-2", "--reason", "stolen").code == 0

    def test_a_label_without_a_value_is_a_usage_error(
        self, alice: Terminal, tmp_path: Path
    ) -> None:
        words = ("device", "enroll-token", "--class", CLASS, "--out", tmp_path / "k")

        assert alice.run(*words, "--label", "ring").code == 2


class TestClasses:
    def test_are_applied_from_yaml(self, alice: Terminal, tmp_path: Path) -> None:
        path = tmp_path / "camera.yaml"
        path.write_text(CLASS_YAML)

        assert alice.run("class", "apply", "-f", path).out == "CLASS\tCHANGED\ncamera\tyes\n"
        assert alice.run("class", "apply", "-f", path).out == "CLASS\tCHANGED\ncamera\tno\n"
        assert "camera\taarch64\t67108864" in alice.run("class", "list").out

    def test_a_mistake_in_the_last_file_changes_nothing(
        self, alice: Terminal, tmp_path: Path
    ) -> None:
        good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
        good.write_text(CLASS_YAML.replace("camera", "radar"))
        bad.write_text(CLASS_YAML.replace("disk_budget", "disc_budget"))
        said = alice.run("class", "apply", "-f", good, "-f", bad)

        assert said.code == 1
        assert "bad.yaml:8:3" in said.err
        assert "disk_budget" in said.err
        assert "radar" not in alice.run("class", "list").out


class TestErrors:
    def test_as_json_are_json(self, alice: Terminal) -> None:
        said = alice.run("rollout", "status", "nothing", "--json")

        assert said.code == 4
        assert json.loads(said.err)["code"] == "E-NOT-FOUND"

    def test_a_missing_connection_says_how_to_get_one(
        self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        said = terminal.run("device", "list")

        assert said.code == 1
        assert str(tmp_path / "mailboat" / "connection.toml") in said.err
        assert "--connection" in said.err

    def test_without_the_right_exit_with_five(self, terminal: Terminal, api: RunningApi) -> None:
        said = terminal.run("audit", "show", "--connection", api.connection_file("build"))

        assert (said.code, "E-NOT-PERMITTED" in said.err) == (5, True)

    @pytest.mark.parametrize("verb", ["start", "pause", "resume", "abort"])
    def test_of_orders_reach_the_terminal(self, alice: Terminal, verb: str) -> None:
        assert alice.run("rollout", verb, "nothing", "--reason", "x").code == 4


def test_the_audit_log_is_shown_and_verified(alice: Terminal) -> None:
    shown = alice.run("audit", "show", "--subject", "dev-1").out.splitlines()
    assert shown[1].split("\t")[2:5] == ["device:dev-1", "device.enrol", "dev-1"]

    verified = alice.run("audit", "verify", "--json")
    assert (verified.code, verified.json["holds"]) == (0, True)


def test_a_path_that_cannot_be_written_is_told_without_a_traceback(
    terminal: Terminal, api: RunningApi, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    config = api.settings.data_dir / "controller.toml"
    said = terminal.run(
        *("token", "issue", "zoe", "--role", "viewer", "--config", config),
        *("--out", tmp_path / "file" / "zoe"),
    )

    assert (said.code, "E-CONFIG" in said.err, "Traceback" in said.err) == (1, True, False)
    assert "Not a directory" in said.err


def test_no_command_leaves_a_core_dump_with_keys_in_it() -> None:
    """And the API has files to open for its connections, whatever the shell's soft limit is."""
    program = (
        "import atexit, resource, sys; from mailboat_controller import cli;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096));"
        "sys.argv = ['mailboat', 'rollout'];"
        "atexit.register(lambda: print('limits', resource.getrlimit(resource.RLIMIT_CORE),"
        " resource.getrlimit(resource.RLIMIT_NOFILE)));"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.stdout.splitlines()[-1] == "limits (0, 0) (4096, 4096)"


@pytest.mark.parametrize("noun", ["rollout", "release"])
def test_what_there_is_none_of_is_an_empty_list(alice: Terminal, noun: str) -> None:
    assert alice.run(noun, "list", "--json").json == []
    assert len(alice.run(noun, "list").out.splitlines()) == 1


def test_what_a_device_says_cannot_repaint_the_terminal() -> None:
    from mailboat_controller.cli import output

    assert output._text("\x1b[2Jgone\nline\ttab") == " [2Jgone line tab"


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from mailboat_controller import cli;"
        "heavy = {'fastapi', 'sqlalchemy', 'httpx2', 'uvicorn', 'rich', 'tuf', 'paho', 'alembic',"
        " 'pydantic', 'securesystemslib', 'cryptography', 'boto3', 'numpy', 'asyncio', 'ssl'};"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
