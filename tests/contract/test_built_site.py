"""The documents as a site: it builds without a warning and asks nobody else for anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

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
    assert list(site.rglob("*.py")) == []


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


def test_fonts_are_the_readers_own_and_a_warning_ends_the_build() -> None:
    text = (REPOSITORY / "mkdocs.yml").read_text()
    settings = yaml.load(re.sub(r"!!python\S+", "", text), yaml.SafeLoader)

    assert (settings["strict"], settings["theme"]["font"]) == (True, False)
    assert "analytics" not in str(settings)
