"""What the documents say exists, and what exists is in the documents."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import mailboat_agent
import mailboat_controller
import mailboat_schemas
from documented_commands import (
    PAGES,
    REPOSITORY,
    calls,
    documented_calls,
    mailboat_command,
    prose_of,
)
from mailboat_agent.cli import _parser as agent_parser
from mailboat_agent.config import AgentConfig
from mailboat_controller.artifacts.settings import ArtifactSettings
from mailboat_controller.cli import output
from mailboat_controller.config import ENVIRONMENT_PREFIX, ControllerSettings
from mailboat_controller.console.settings import ConsoleSettings
from mailboat_controller.ingest.settings import IngestSettings, RetentionSettings
from mailboat_controller.mlflow.settings import MlflowSettings
from mailboat_controller.releases.build import build_release, plan_of
from mailboat_controller.webhooks.settings import WebhookSettings
from mailboat_schemas.documents import HardwareClass, Rollout
from mailboat_schemas.documents.yaml_source import load_document
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.events import EventKind
from syntax import module, nodes, read_once

EXAMPLES = REPOSITORY / "examples"
PACKAGES = (mailboat_schemas, mailboat_controller, mailboat_agent)
PAGE_IDS = [str(path.relative_to(REPOSITORY)) for path in PAGES]
ERROR_CODE = re.compile(r"E-[A-Z]+(?:-[A-Z]+)*")


def page(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text()


def first_cells(text: str) -> list[str]:
    """What stands in backticks at the beginning of a table's row."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


# --- links ---------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose_of(path.read_text()), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", PAGES, ids=PAGE_IDS)
def test_every_link_inside_the_repository_leads_somewhere(path: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", prose_of(path.read_text()))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        aim = (path.parent / name).resolve() if name else path
        assert aim.exists(), f"{target} does not exist"
        if anchor and aim.suffix == ".md":
            assert anchor in anchors(aim), f"{target}: {aim.name} has no such heading"


def test_every_page_of_the_documentation_is_in_its_index() -> None:
    index = page("README.md")
    missing = [
        path.name
        for path in (REPOSITORY / "docs").glob("*.md")
        if path.name != "README.md" and f"]({path.name})" not in index
    ]
    assert missing == []


# --- commands ------------------------------------------------------------------------------------


def check_mailboat(words: list[str], *, whole: bool) -> None:
    command = mailboat_command()
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[name]
    if "--help" in rest or words == ["--version"]:
        return
    # Parses options and their values, as running it would; runs nothing.
    command.make_context(words[-1] if words else "mailboat", rest, resilient_parsing=not whole)


def check_agent(words: list[str], *, whole: bool) -> None:
    parser = agent_parser()
    if words == ["--version"]:
        return
    if whole:
        parser.parse_args(words)
        return
    actions = next(action for action in parser._actions if action.choices)
    commands: dict[str, Any] = dict(actions.choices or {})
    assert words[0] in commands, f"there is no command {words[0]!r}"
    known = commands[words[0]]._option_string_actions
    assert {word for word in words[1:] if word.startswith("--")} <= known.keys()


def test_every_command_that_the_console_names_is_one_that_exists() -> None:
    """What follows from a page is typed elsewhere; there a name stands in it, or is added to it."""
    package = Path(mailboat_controller.__file__).parent / "console"
    named = {
        (path.name, words)
        for path in sorted([*package.glob("templates/*.html"), *package.glob("*.py")])
        for words in re.findall(r"""["'](mailboat [a-z][^"'{~]*)""", path.read_text())
    }

    assert len(named) > 10
    wrong = {each: refuses(each[1].split(), whole=False) for each in named}
    assert {each: said for each, said in wrong.items() if said} == {}


def refuses(words: list[str], *, whole: bool = True) -> str | None:
    try:
        check = check_mailboat if words[0] == "mailboat" else check_agent
        check(words[1:], whole=whole)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a parser has to say
        return getattr(error, "message", "") or str(error)
    return None


COMMAND_SOURCES = [
    *PAGES,
    *sorted(EXAMPLES.rglob("*.yml")),
    *sorted(EXAMPLES.rglob("*.yaml")),
    *sorted(EXAMPLES.rglob("*.sh")),
]


@pytest.mark.parametrize(
    "path", COMMAND_SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY))
)
def test_every_command_line_in_it_is_one_that_exists(path: Path) -> None:
    wrong = {
        shlex.join(words): problem
        for words, whole in documented_calls(path)
        if (problem := refuses(words, whole=whole)) is not None
    }
    assert wrong == {}


def test_a_command_line_with_a_mistake_would_be_noticed() -> None:
    assert refuses(["mailboat", "release", "bulid", "x.yaml", "--out", "y"])
    assert refuses(["mailboat", "release", "build", "x.yaml", "--output", "y"])
    assert refuses(["mailboat", "release", "build", "x.yaml"])
    assert refuses(["mailboat", "device", "token"], whole=False)
    assert refuses(["mailboat-agent", "enrol", "--kit", "k", "--device", "d"])
    assert refuses(["mailboat-agent", "status", "--verbose"], whole=False)
    assert refuses(["mailboat", "release", "build", "x.yaml", "--out", "y"]) is None


def test_commands_are_found_wherever_they_stand_in_a_line() -> None:
    def found(line: str) -> list[str]:
        return [shlex.join(words) for words in calls(line)]

    assert found("A=1 mailboat serve 2>serve.log &") == ["mailboat serve"]
    assert found(".venv/bin/mailboat demo --keep | tee log  # mailboat x") == [
        "mailboat demo --keep"
    ]
    assert found("docker compose exec one mailboat-agent status") == ["mailboat-agent status"]
    assert found("python3 -m venv /opt/mailboat && cd mailboat") == []


# --- settings ------------------------------------------------------------------------------------


def setting_rows(text: str, heading: str) -> dict[str, str]:
    """Key to default, of the table under a heading."""
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+?) \|", section, re.MULTILINE))


def read_default(model: type[BaseModel], key: str, literal: str) -> object:
    """A TOML value as that setting would read it."""
    needed: dict[str, Any] = {
        **dict.fromkeys(("fleet", "device", "hardware_class"), "x"),
        **dict.fromkeys(("data_dir", "ca", "certificate", "key", "trust_root", "mqtt_host"), "x"),
        "api_url": "https://x",
        "mqtt_port": 1,
    }
    content = {name: value for name, value in needed.items() if name in model.model_fields}
    content |= tomllib.loads(f"{key} = {literal.strip('`')}")
    return getattr(model.model_validate(content), key)


@pytest.mark.parametrize(
    ("model", "name", "heading"),
    [
        (AgentConfig, "agent.md", "agent.toml"),
        (ControllerSettings, "configuration.md", "controller.toml"),
        (ArtifactSettings, "artifacts.md", "Settings"),
        (IngestSettings, "scale-out.md", "Settings"),
        (RetentionSettings, "retention.md", "Settings"),
        (WebhookSettings, "webhooks.md", "Settings"),
        (MlflowSettings, "mlflow.md", "Settings"),
        (ConsoleSettings, "console.md", "Settings"),
    ],
)
def test_every_setting_is_documented_with_its_default(
    model: type[BaseModel], name: str, heading: str
) -> None:
    rows = setting_rows(page(name), heading)

    assert rows.keys() == model.model_fields.keys()
    for key, default in rows.items():
        field = model.model_fields[key]
        if default == "required":
            assert field.is_required(), f"{key} has a default"
        elif default == "none":
            assert field.get_default(call_default_factory=True) is None, key
        else:
            expected = field.get_default(call_default_factory=True)
            assert read_default(model, key, default) == expected, key


def test_every_environment_variable_in_the_documents_is_read_by_something() -> None:
    known = {f"{ENVIRONMENT_PREFIX}{key.upper()}" for key in ControllerSettings.model_fields}
    known |= {text for text in literals() if re.fullmatch(r"MAILBOAT_[A-Z_]+", text)}
    named = {
        name
        for path in (*PAGES, *EXAMPLES.rglob("*.yml"), *EXAMPLES.rglob("*.sh"))
        for name in re.findall(r"\bMAILBOAT_[A-Z_]*[A-Z]\b", path.read_text())
    }
    assert named - known == set()


# --- error codes ---------------------------------------------------------------------------------


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            if "migrations" not in path.parts:
                yield path


@pytest.fixture(scope="module", autouse=True)
def _sources_are_let_go() -> Iterator[None]:
    with read_once():
        yield


@cache
def literals() -> frozenset[str]:
    """Every string that stands in our sources."""
    return frozenset(
        node.value
        for path in sources()
        for node in nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def leaves(kind: type[MailboatError]) -> Iterator[type[MailboatError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from leaves(each)


@cache
def error_codes() -> frozenset[str]:
    """Whatever in our sources is written like one: of classes, and of refusals without a class.

    Read, not imported: importing every module would load two runtimes and take seconds.
    """
    return frozenset(text for text in literals() if ERROR_CODE.fullmatch(text))


# Where an event's or a trial's word is made: the callable, and which of its arguments it is.
WORDS_ARE_MADE_BY: dict[str, int | str] = {
    "Breach": 0,
    "GateFailed": 0,
    "Check": 0,
    "Judgement": 2,
    "GoBack": "code",
    "Event": "code",
    "_leave": 1,
    "_fail": 1,
    "_with_outcome": 3,
    "tell_damage": 0,
}


def event_words() -> set[str]:
    """Reasons of trials and soaks, checks, damages: everything an event's ``code`` may say."""
    words: set[str] = set()
    for path in sources():
        if path.name == "examples.py":
            continue
        for node in nodes(path):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            place = WORDS_ARE_MADE_BY.get(called)
            found: list[ast.expr] = [
                each.value for each in node.keywords if isinstance(place, str) and each.arg == place
            ]
            if isinstance(place, int):
                found = node.args[place : place + 1]
            words |= {
                each.value
                for each in found
                if isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value
            }
    return words


def test_every_error_code_is_explained_and_nothing_else() -> None:
    explained = [cell for cell in first_cells(page("errors.md")) if cell.startswith("E-")]

    assert sorted(explained) == sorted(error_codes())


def test_an_error_has_its_code_from_a_literal_that_can_be_read() -> None:
    ours = tuple(package.__name__ for package in PACKAGES)
    codes = {leaf.code for leaf in leaves(MailboatError) if leaf.__module__.startswith(ours)}

    assert codes <= error_codes()


def test_every_word_of_an_event_is_explained_and_nothing_else() -> None:
    explained = {cell for cell in first_cells(page("errors.md")) if not cell.startswith("E-")}

    assert explained == event_words() | {str(kind) for kind in EventKind}


def test_the_codes_that_other_pages_name_exist() -> None:
    codes = error_codes()
    for path in PAGES:
        named = set(re.findall(r"`(E-[A-Z-]+)`", path.read_text()))
        assert named <= codes, path.name


def test_the_checks_of_eligibility_stand_in_their_order() -> None:
    tree = module(next(path for path in sources() if path.name == "eligibility.py"))
    bodies = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    order = [
        getattr(call.func, "id", "")
        for call in ast.walk(bodies["evaluate"])
        if isinstance(call, ast.Call) and getattr(call.func, "id", "").startswith("_")
    ]
    names = []
    for function in order:
        made = next(
            node
            for node in ast.walk(bodies[function])
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Check"
        )
        assert isinstance(made.args[0], ast.Constant)
        names.append(made.args[0].value)
    section = page("concepts.md").split("\n## Eligibility\n", 1)[1].split("\n## ", 1)[0]

    assert re.findall(r"^\d+\. `([a-z_]+)`", section, re.MULTILINE) == names


def test_the_exit_codes_in_ci_md_are_those_of_the_command() -> None:
    section = page("ci.md").split("\n## Exit codes\n", 1)[1].split("\n## ", 1)[0]

    listed = re.findall(r"^\| (\d+) \| ([^|]+?) \|", section, re.MULTILINE)

    assert [f"{number} {meaning}" for number, meaning in listed] == re.findall(
        r"(\d+ [^,.]+)", output.EXIT_CODES_HELP
    )


# --- examples ------------------------------------------------------------------------------------


def test_the_example_documents_are_valid_and_belong_together(tmp_path: Path) -> None:
    make_model = [sys.executable, str(EXAMPLES / "make_model.py"), str(tmp_path)]
    subprocess.run(make_model, check=True, timeout=60)
    (tmp_path / "release.yaml").write_bytes((EXAMPLES / "release.yaml").read_bytes())

    built = build_release(tmp_path / "release.yaml", tmp_path / "build")
    rollout = load_document(EXAMPLES / "rollout.yaml", Rollout)
    hardware_class = load_document(EXAMPLES / "hardware-class.yaml", HardwareClass)

    assert plan_of(rollout, None).rollout == rollout.metadata.name
    assert rollout.spec.release.model == built.document.model
    assert rollout.spec.release.version == built.document.version
    assert built.document.variant_for(hardware_class.metadata.name) is not None


@pytest.mark.parametrize(
    "path", sorted((EXAMPLES / "ci").glob("*.yml")), ids=lambda path: path.stem
)
def test_the_pipeline_examples_are_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_what_a_pipeline_comments_on_a_pull_request_is_asked_for_as_markdown() -> None:
    comments = [
        line.strip()
        for path in sorted(EXAMPLES.rglob("*.yml"))
        for line in path.read_text().splitlines()
        if re.search(r"mailboat (?:plan|diff) .*>{1,2} ?plan\.md", line)
    ]

    assert len(comments) > 1
    assert [line for line in comments if "-o markdown" not in line] == []


def test_the_shell_example_has_no_mistake_that_a_shell_would_see() -> None:
    script = EXAMPLES / "submit-with-mosquitto_rr.sh"

    subprocess.run(["sh", "-n", str(script)], check=True, timeout=120)
