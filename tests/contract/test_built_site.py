"""The documents as a site: it builds without a warning and asks nobody else for anything."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
BUILD_SECONDS_MAX = 240
# What a page loads by itself, not what a reader may follow.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=[\"']?([^\"' >]+)"
    r"|<link\b[^>]*?\bhref=[\"']?([^\"' >]+)"
)
# Addresses in the theme's script: the first for browsers of before 2020, the second for diagrams,
# of which no page has one.
DORMANT = {"https://unpkg.com/resize-observer-polyfill", "https://unpkg.com/mermaid@11"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return place


@pytest.mark.slow
@pytest.mark.timeout(2 * BUILD_SECONDS_MAX)
def test_every_page_is_in_it(site: Path) -> None:
    pages = {path.with_suffix(".html").name for path in (REPOSITORY / "docs").glob("*.md")}

    assert pages - {"README.html"} <= {path.name for path in site.glob("*.html")}
    assert (site / "project" / "architecture.html").is_file()
    assert [*site.rglob("*.py"), *site.rglob("*.pyc")] == []


@pytest.mark.slow
@pytest.mark.timeout(2 * BUILD_SECONDS_MAX)
def test_a_link_that_is_named_like_its_file_shows_the_title_of_the_page(site: Path) -> None:
    bare = {
        (path.name, each)
        for path in site.glob("*.html")
        for each in re.findall(r"<a [^>]*>([\w./-]+\.md)</a>", path.read_text())
    }

    assert bare == set()
    assert ">Quick start</a>" in (site / "index.html").read_text()


def navigated(place: object) -> list[str]:
    """Every page that the navigation leads to."""
    if isinstance(place, str):
        return [place]
    assert isinstance(place, list | dict)
    parts = place.values() if isinstance(place, dict) else place
    return [name for part in parts for name in navigated(part)]


def test_every_page_is_in_the_navigation_once() -> None:
    named = navigated(settings()["nav"])
    pages = [path.name for path in (REPOSITORY / "docs").glob("*.md")]

    assert len(named) == len(set(named))
    assert set(pages) - set(named) == set()


@pytest.mark.slow
@pytest.mark.timeout(2 * BUILD_SECONDS_MAX)
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text()
        asked = {first or second for first, second in LOADED.findall(text)}
        assert [each for each in asked if re.match(r"(?:https?:)?//", each)] == [], path.name
        assert 'class="mermaid"' not in text, path.name
    for path in site.rglob("*.css"):
        assert re.search(r"url\([\"']?(?:https?:)?//|@import", path.read_text()) is None, path.name
    found = {
        re.split(r"(?<=\w)/dist", address)[0]
        for path in site.rglob("*.js")
        for address in re.findall(r"https://[a-z.]*unpkg\.com/[\w./@-]+", path.read_text())
    }
    assert found <= DORMANT


def test_no_page_has_a_diagram_that_would_be_drawn_by_a_script_from_elsewhere() -> None:
    assert [
        path.name
        for path in (REPOSITORY / "docs").rglob("*.md")
        if "```mermaid" in path.read_text()
    ] == []


def settings() -> dict[str, Any]:
    text = (REPOSITORY / "mkdocs.yml").read_text()
    found: dict[str, Any] = yaml.load(re.sub(r"!!python\S+", "", text), yaml.SafeLoader)
    return found


def test_fonts_are_the_readers_own_and_a_warning_ends_the_build() -> None:
    assert (settings()["strict"], settings()["theme"]["font"]) == (True, False)
    assert "analytics" not in str(settings())
