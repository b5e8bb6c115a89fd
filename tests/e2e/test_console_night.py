"""At two in the morning: a rollout has halted. By keyboard alone somebody sees it, finds out why,
looks at the device, takes the next rollout back, and reads afterwards what happened."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from console_keys import (
    CHROMIUM,
    PATIENCE_MS,
    follow,
    open_console,
    running_chromium,
    tab_to,
    text_of,
)
from console_story import FAILED, SITE, ConsoleStory
from mailboat_controller.connection_file import load_connection
from mailboat_controller.demo.fleet import until
from mailboat_controller.demo.models import VERSIONS, made_series, write_release_sources
from real_fleet import RealFleet, running_fleet
from running_api import RunningApi, running_api

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
]

SOON_SECONDS_MAX = 300  # a busy machine
CANARY_THAT_WAITS = """\
- {pilots: [kiosk-1], gate: {clean_restarts: 1}}
    - {percent: 100}"""
SEEN_PATHS = (
    "/",
    "/fleet",
    "/rollouts",
    "/rollouts/second",
    "/rollouts/third",
    "/releases",
    "/releases/vad/1.1.0",
    "/releases/vad/1.1.0/diff?from=1.0.0",
    f"/devices/{FAILED}?release=1.1.0&model=vad",
    "/devices/kiosk-4",
    "/devices/kiosk-7",
    "/sites",
    f"/sites/{SITE}",
    "/trust",
    "/audit",
    "/audit/chain",
    "/kpis",
    "/rollouts/nothing",
)


@pytest.fixture
def chromium() -> Iterator[Browser]:
    """For one test: while it runs, no other event loop can begin in this thread."""
    with running_chromium() as browser:
        yield browser


# --- the night, with real agents ------------------------------------------------------------------


def _prepare(fleet: RealFleet) -> None:
    """A is everywhere, B waits on its canary, C takes its place and halts on whoever tries it."""
    demo = fleet.fleet
    sources = write_release_sources(made_series(), demo.directory / "night", soak_seconds=0.5)
    for path in sources.values():
        path.write_text(path.read_text().replace("requests_min: 5", "requests_min: 0"))
    fleet.publisher.publish("a", sources["A"], waves="- percent: 100")
    until("A is completed", lambda: _phase(fleet, "vad-a") == "completed", SOON_SECONDS_MAX)
    fleet.publisher.publish("b", sources["B"], waves=CANARY_THAT_WAITS)
    until("the canary runs B", lambda: _serves(fleet, "kiosk-1", "B"), SOON_SECONDS_MAX)
    until(
        "B waits for its canary's restart",
        lambda: "restart" in demo.get("/v1/rollouts/vad-b")["because"],
        SOON_SECONDS_MAX,
    )
    fleet.publisher.publish("c", sources["C"], waves="- percent: 100")
    until("C is halted", lambda: _phase(fleet, "vad-c") == "halted", SOON_SECONDS_MAX)
    until("the canary is back at B", lambda: _serves(fleet, "kiosk-1", "B"), SOON_SECONDS_MAX)


def _phase(fleet: RealFleet, name: str) -> str:
    return str(fleet.fleet.get(f"/v1/rollouts/{name}")["phase"])


def _serves(fleet: RealFleet, device: str, letter: str) -> bool:
    model = fleet.devices[device].model()
    return (model.get("serving_version"), model.get("phase")) == (VERSIONS[letter], "committed")


def _console(chromium: Browser, fleet: RealFleet) -> Page:
    path = fleet.fleet.operator
    link = load_connection(path)
    assert link.token is not None
    token = (path.parent / link.token).read_text().strip()
    return open_console(chromium, link.api_url.rstrip("/"), token)


@pytest.mark.timeout(1500)
def test_the_whole_night_by_keyboard(tmp_path: Path) -> None:
    with running_fleet(tmp_path, devices_per_class=1) as fleet:
        _prepare(fleet)
        with running_chromium() as chromium:
            page = _console(chromium, fleet)
            _find_out_why(page, fleet)
            _abort_by_keyboard(page)
            until("B is aborted", lambda: _phase(fleet, "vad-b") == "aborted", SOON_SECONDS_MAX)
            until("the canary runs A", lambda: _serves(fleet, "kiosk-1", "A"), SOON_SECONDS_MAX)
            _the_page_tells_it_by_itself(page)
        entries = fleet.fleet.get("/v1/audit", subject="vad-b", limit=500)
        (entry,) = [each for each in entries if each["action"] == "rollout.abort"]
        assert (entry["actor"], entry["reason"]) == ("operator:operator", "built like C")


def _find_out_why(page: Page, fleet: RealFleet) -> None:
    assert "vad-c" in text_of(page)  # what is wrong
    follow(page, "/console/rollouts/vad-c")
    seen = text_of(page)
    assert "Threshold that tripped: one failure halts" in seen
    failed = next(name for name in fleet.devices if f"failed on {name}" in seen)
    follow(page, f"/console/devices/{failed}")
    seen = text_of(page)
    assert "trial failed" in seen
    assert "What it runs, and why" in seen


def _abort_by_keyboard(page: Page) -> None:
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/console/rollouts")
    follow(page, "/console/rollouts/vad-b")
    tab_to(page, "#abort > summary")
    page.keyboard.press("Enter")
    effects = page.inner_text("#abort .effects")
    assert "run it for good: go back" in effects
    assert f"kiosk-x86 goes back to {VERSIONS['A']}" in effects

    tab_to(page, "#abort-reason")
    page.keyboard.type("built like C")
    tab_to(page, "#abort-confirm")
    page.keyboard.type("vad-b")
    tab_to(page, '#abort button[type="submit"]')
    page.keyboard.press("Enter")
    page.wait_for_selector(".flash.ok")
    assert "abort was ordered: vad-b is aborted" in page.inner_text(".flash")


def _the_page_tells_it_by_itself(page: Page) -> None:
    """Nobody reloads it: it hears that the device went back."""
    page.wait_for_function(
        "() => document.querySelector('#rollout').innerText.includes('device: returned')"
    )
    page.wait_for_function(
        "(words) => words.every((each) => document.querySelector('main').innerText.includes(each))",
        arg=["rollout: abort", "built like C", f"resumed: {VERSIONS['A']}"],
    )
    page.wait_for_function("() => document.querySelectorAll('#orders form').length === 0")


# --- every page, in both themes -------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("told")) as api:
        ConsoleStory(api).tell()
        yield api


@pytest.mark.timeout(900)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page_and_no_name_runs(
    chromium: Browser, told: RunningApi, theme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_console(chromium, told.url, told.tokens["alice"], theme=theme)
    problems: list[str] = []
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    for path in SEEN_PATHS:
        page.goto(f"{told.url}/console{path}")
        page.wait_for_load_state("load")
        for form in page.query_selector_all("details"):
            form.evaluate("(each) => { each.open = true; }")
        found = Axe().run(page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
        assert page.evaluate("() => window.pwned") is None
        for width in (390, 1280):  # a telephone's, and the one that axe has looked at
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), path
    # Of the one page that is not there its own answer, and nothing of the policy for scripts.
    assert all("404" in each for each in problems), problems


def test_plots_are_drawn_from_their_table(chromium: Browser, told: RunningApi) -> None:
    page = open_console(chromium, told.url, told.tokens["vera"])
    page.goto(f"{told.url}/console/devices/{FAILED}")

    page.wait_for_function("() => document.querySelectorAll('figure.plot canvas').length === 3")


def test_a_part_that_is_asked_for_again_keeps_the_place_of_the_focus(
    chromium: Browser, told: RunningApi
) -> None:
    page = open_console(chromium, told.url, told.tokens["alice"])
    page.goto(f"{told.url}/console/rollouts/second")
    link = '#story ~ ol a[href="/console/devices/kiosk-2"]'
    page.locator(link).last.focus()
    before = page.evaluate("() => scrollY")
    page.evaluate(
        "() => { const part = document.getElementById('rollout'); part.dataset.old = '1';"
        " htmx.trigger(part, 'mb-refresh'); }"
    )
    page.wait_for_selector("#rollout:not([data-old])")

    # It is the last of those links still, and nothing has jumped.
    page.wait_for_function(
        "(wanted) => [...document.querySelectorAll(wanted)].at(-1) === document.activeElement",
        arg=link,
    )
    assert page.evaluate("() => scrollY") == before


def test_a_page_without_javascript_says_the_same(chromium: Browser, told: RunningApi) -> None:
    context = chromium.new_context(ignore_https_errors=True, java_script_enabled=False)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(f"{told.url}/console/login")
    page.fill('input[name="token"]', told.tokens["vera"])
    page.press('input[name="token"]', "Enter")
    page.wait_for_url(f"{told.url}/console/")
    page.goto(f"{told.url}/console/devices/{FAILED}")

    assert page.locator("figure.plot").first.is_hidden()
    page.click("text=The same as a table")
    assert page.locator("#windows tbody tr").count() == 47
    page.goto(f"{told.url}/console/rollouts/second")
    assert "Threshold that tripped" in text_of(page)
    context.close()


def test_the_pictures_of_the_documents_can_be_taken_anew(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "docs" / "console" / "shoot.py"
    spec = importlib.util.spec_from_file_location("shoot", path)
    assert spec is not None
    assert spec.loader is not None
    shoot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shoot)
    shoot.main(tmp_path, "rollout-order", "device-narrow")

    assert {each.name for each in tmp_path.iterdir()} == {"rollout-order.png", "device-narrow.png"}
    held = {each.stem for each in path.parent.glob("*.png")}
    assert held == {picture.name for picture in shoot.PICTURES}
