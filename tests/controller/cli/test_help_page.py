"""What a code means, told without a network."""

from pathlib import Path

from command_line import mailboat
from mailboat_controller.cli import help_page
from mailboat_schemas.error_page import entries, explained, page_path

PAGE = Path(__file__).parents[3] / "docs" / "errors.md"


def test_every_row_of_the_page_is_found_by_its_code() -> None:
    page = PAGE.read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]

    assert page_path() == PAGE
    assert len(entries(page)) == len(rows)
    for entry in entries(page):
        assert entry in explained(entry.code, page)
        assert entry.section
        assert entry.means


def test_a_code_is_explained_however_it_is_written() -> None:
    told = mailboat("help", "E-REBASE")

    assert told.code == 0
    assert "the role has moved on" in told.out
    assert "next step" in told.out
    assert mailboat("help", "rebase").out == told.out
    assert mailboat("help", "e-rebase", "-o", "json").json[0]["code"] == "E-REBASE"


def test_links_of_the_page_become_places_to_read_on() -> None:
    (entry,) = explained("E-SELECTOR", PAGE.read_text())

    assert entry.means == "a selector [docs/selectors.md] cannot be read"


def test_a_code_that_does_not_exist_is_not_found_and_near_ones_are_named() -> None:
    said = mailboat("help", "E-REBAES")

    assert said.code == 4
    assert "E-REBASE" in said.err


def test_a_command_shows_its_own_help() -> None:
    assert "Let nobody new in" in mailboat("help", "rollout", "pause").out
    assert "E-REBASE" in help_page.codes("e-reb")
