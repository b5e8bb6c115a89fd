"""Every command of the documents is run by a test, or stands here with the reason why not."""

import re
from functools import cache
from pathlib import Path

from documented_commands import PAGES, REPOSITORY, documented_calls, mailboat_command

# Their blocks are run as they stand: tests/e2e/test_newcomers_path.py.
WALKED = ("README.md", "quickstart.md", "quickstart-2.md")

_CONFIG = "called by its last words in tests/controller/test_config_commands.py"
_POLICY = "the same code as that of `config`, for another role"
_SITE = "its order is made, published and obeyed in tests/e2e/test_site_orders.py"
_API = "one request; the route behind it is asked in tests/controller/"
# Commands that no test calls by their full name, and why that is enough.
OTHERWISE = {
    "mailboat config diff": _CONFIG,
    "mailboat config list": _CONFIG,
    "mailboat config rollback": _CONFIG,
    "mailboat config show": _CONFIG,
    "mailboat config withdraw": _CONFIG,
    "mailboat policy diff": _POLICY,
    "mailboat policy list": _POLICY,
    "mailboat policy rollback": _POLICY,
    "mailboat policy withdraw": _POLICY,
    "mailboat site hold": _SITE,
    "mailboat site lift": _SITE,
    "mailboat site rollback": _SITE,
    "mailboat device reject": _API + "api/test_enrolment.py",
    "mailboat device unpin": _API + "api/test_overrides.py",
    "mailboat drill cancel": _API + "api/test_drills.py",
    "mailboat rollout promote": _API + "api/test_overrides.py",
    "mailboat rollout start": _API + "test_rollout_orders.py",
    "mailboat rebuild": "its work is called in tests/controller/backup/test_backup.py",
    "mailboat webhook disable": _API + "webhooks/test_webhook_api.py",
    "mailboat webhook enable": _API + "webhooks/test_webhook_api.py",
    "mailboat webhook secret": _API + "webhooks/test_webhook_api.py",
    "mailboat webhook test": _API + "webhooks/test_webhook_api.py",
}


def command_of(words: list[str]) -> str:
    """`mailboat release build` of a whole line."""
    if words[0] == "mailboat-agent":
        return " ".join(words[:2])
    command, names, rest = mailboat_command(), ["mailboat"], words[1:]
    while hasattr(command, "commands") and rest and rest[0] in command.commands:
        names.append(rest.pop(0))
        command = command.commands[names[-1]]
    return " ".join(names)


@cache
def documented(*names: str) -> set[str]:
    return {
        command_of(words)
        for page in PAGES
        if not names or page.name in names
        for words, whole in documented_calls(page)
        if whole and len(words) > 1
    }


@cache
def sources_of_tests() -> str:
    here = {Path(__file__).name, "test_docs.py"}  # which name them and run none
    return "\n".join(
        path.read_text() for path in (REPOSITORY / "tests").rglob("*.py") if path.name not in here
    )


@cache
def is_called(command: str) -> bool:
    """By name: as words of a call, or in one string."""
    names = [re.escape(name) for name in command.split()[1:]]
    as_words = r",\s*".join(f'"{name}"' for name in names)
    return bool(names) and bool(
        re.search(as_words, sources_of_tests())
        or re.search(rf"""["' ]{" ".join(names)}["' ]""", sources_of_tests())
    )


def test_every_documented_command_is_run_or_listed_with_a_reason() -> None:
    run = documented(*WALKED)
    rest = {each for each in documented() - run if not is_called(each)}

    assert rest - OTHERWISE.keys() == set(), "name a test, or the reason"


def test_the_list_of_what_is_not_run_is_no_longer_than_it_must_be() -> None:
    run = documented(*WALKED)

    assert {each for each in OTHERWISE if each in run or is_called(each)} == set()
    assert OTHERWISE.keys() <= documented()


def test_the_reasons_name_tests_that_are_there() -> None:
    for reason in OTHERWISE.values():
        for name in re.findall(r"tests/[\w/.]+\.py", reason):
            assert (REPOSITORY / name).is_file(), name
