"""The console's frame and grid in a browser: keys, news, a controller that is away, hostile names,
no JavaScript. The whole night: `test_console_night.py`."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import update

from console_fleet import enrol_fleet, enrol_one
from console_keys import CHROMIUM, PATIENCE_MS, open_console, running_chromium, tab_to
from mailboat_controller.access.people import Role
from mailboat_controller.store import access_tokens, audit, fleet_columns, tables
from running_api import RunningApi, running_api

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
]

DEVICES = 600
HOSTILE = "<img src=x onerror=\"window.ran='image'\"><script>window.ran='script'</script>"
READY = "#grid[data-devices]"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("console")) as api:
        enrol_fleet(api.store, DEVICES, api.now(), sites=6)
        yield api


@pytest.fixture
def chromium() -> Iterator[Browser]:
    """For one test: while it runs, no other event loop can begin in this thread."""
    with running_chromium() as browser:
        yield browser


def grid_of(browser: Browser, api: RunningApi, *, who: str = "vera", theme: str = "light") -> Page:
    page = open_console(browser, api.url, api.tokens[who], theme=theme)
    page.goto(f"{api.url}/console/fleet")
    page.wait_for_selector(READY)
    return page


def said(page: Page, words: str) -> None:
    expect(page.locator("#cell-said")).to_contain_text(words)


def test_the_grid_is_walked_with_keys_and_told_in_words(chromium: Browser, api: RunningApi) -> None:
    page = grid_of(chromium, api)
    tab_to(page, "#grid")
    said(page, "class camera")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("n")
    said(page, "unknown (never heard of)")
    page.keyboard.press("PageDown")
    said(page, "class gateway")
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")
    said(page, "class kiosk")

    # No trap: Tab leaves, and comes to the device that was told.
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.closest('#cell-said') !== null")
    page.keyboard.press("Shift+Tab")
    name = page.locator("#cell-said a").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/console/devices/{name}")


def test_every_place_has_a_key_and_the_keys_are_listed(chromium: Browser, api: RunningApi) -> None:
    page = open_console(chromium, api.url, api.tokens["vera"])
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    keys = page.locator("#keys dt").all_inner_texts()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()

    for keyed, path in (("g f", "/fleet"), ("g r", "/rollouts"), ("g a", "/audit")):
        assert keyed in keys
        for key in keyed.split():
            page.keyboard.press(key)
        page.wait_for_url(f"**/console{path}")
    page.goto(f"{api.url}/console/fleet")
    page.keyboard.press("/")
    assert page.evaluate("() => document.activeElement.id") == "selector"
    page.keyboard.type("site=site-001")
    page.keyboard.press("Enter")
    page.wait_for_url("**selector=site%3Dsite-001**")
    expect(page.locator(READY)).to_have_attribute("data-devices", "100")


def test_the_first_key_leads_past_the_navigation(chromium: Browser, api: RunningApi) -> None:
    page = open_console(chromium, api.url, api.tokens["vera"])
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"


def test_a_cell_changes_while_somebody_looks(chromium: Browser, api: RunningApi) -> None:
    page = grid_of(chromium, api)
    counted = page.locator('[data-count="offline"]')
    before = int(counted.inner_text())
    c = tables.devices.c
    with api.store.transaction() as tx:
        gone = update(tables.devices).where(c.device.in_(["dev-000001", "dev-000002"]))
        tx.execute(gone.values(online=False, presence_at=int(api.now().timestamp() * 1000)))

    expect(counted).to_have_text(str(before + 2))


def test_what_somebody_does_appears_on_the_overview_by_itself(
    chromium: Browser, api: RunningApi
) -> None:
    page = open_console(chromium, api.url, api.tokens["vera"])
    with api.store.transaction() as tx:
        audit.append(tx, at=api.now(), actor="operator:zoe", action="test.act", subject="here")
    expect(page.locator("main")).to_contain_text("operator:zoe")


def test_a_controller_that_is_away_is_told_and_comes_back(
    chromium: Browser, api: RunningApi
) -> None:
    page = grid_of(chromium, api)
    page.context.set_offline(offline=True)
    page.evaluate("() => dispatchEvent(new Event('pagehide'))")  # its stream is cut off
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    sign = page.locator("#link")
    expect(sign).to_contain_text("Controller away since")
    expect(page.locator(READY)).to_be_visible()  # what was shown stays

    page.context.set_offline(offline=False)
    expect(sign).to_be_hidden(timeout=PATIENCE_MS)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_the_grid_and_the_list_of_keys(
    chromium: Browser, api: RunningApi, theme: str
) -> None:
    page = grid_of(chromium, api, theme=theme)
    page.focus("#grid")
    page.keyboard.press("n")
    said(page, "class")
    for opened in (False, True):
        if opened:
            page.focus("#main")
            page.keyboard.press("?")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    page.context.clear_cookies()
    page.goto(f"{api.url}/console/login")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_hostile_names_are_words_and_nothing_runs(chromium: Browser, api: RunningApi) -> None:
    enrol_one(api.store, HOSTILE[:63], api.now(), hardware_class=HOSTILE[:63], site=HOSTILE[:63])
    with api.store.transaction() as tx:
        audit.append(tx, at=api.now(), actor=HOSTILE, action="x.y", subject=HOSTILE, reason=HOSTILE)
    with api.store.read() as tx:
        enrolled = fleet_columns.count(tx)
    page = grid_of(chromium, api)
    # The page may begin with the fleet as it was, and be told of this one then.
    expect(page.locator(READY)).to_have_attribute("data-devices", str(enrolled))
    page.focus("#grid")
    page.keyboard.press("End")
    said(page, "<img src=x onerror")
    for path in ("/", "/audit", "/fleet?selector=" + "%3Cscript%3E", "/nowhere/%3Cscript%3E"):
        page.goto(f"{api.url}/console{path}")
        assert page.evaluate("() => window.ran ?? null") is None, path
        assert page.locator("main img, main script").count() == 0

    # And if a template forgot to escape: what stands in a page does not run.
    page.evaluate(
        """() => { const made = document.createElement('div');
                   made.innerHTML = '<img src=x onerror="window.ran = 1">';
                   document.body.append(made);
                   const script = document.createElement('script');
                   script.textContent = 'window.ran = 2'; document.body.append(script); }"""
    )
    page.wait_for_function("() => document.querySelector('body > div:last-of-type img').complete")
    assert page.evaluate("() => window.ran ?? null") is None


def test_without_javascript_everything_can_be_read(chromium: Browser, api: RunningApi) -> None:
    context = chromium.new_context(
        ignore_https_errors=True, java_script_enabled=False, color_scheme="dark"
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(f"{api.url}/console/fleet")
    page.fill("#token", api.tokens["vera"])
    page.click("text=Log in >> nth=-1")
    page.wait_for_url("**/console/fleet")
    expect(page.locator("#grid")).to_be_hidden()
    expect(page.locator("tbody tr")).to_have_count(50)
    page.click("text=Next →")
    page.wait_for_url("**after=**")
    expect(page.locator("tbody tr")).to_have_count(50)
    page.click(".theme button")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(page.locator("footer")).to_contain_text("does not update itself")


def test_a_telephone_shows_every_page_without_scrolling_sideways(
    chromium: Browser, api: RunningApi
) -> None:
    page = grid_of(chromium, api)
    page.set_viewport_size({"width": 360, "height": 740})
    for path in ("/", "/fleet", "/fleet?group=site", "/errors", "/nowhere"):
        page.goto(f"{api.url}/console{path}")
        wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0, path


def test_a_session_that_ended_is_told_where_somebody_looks(
    chromium: Browser, api: RunningApi
) -> None:
    api.admit(Role.VIEWER, "leaver")
    page = grid_of(chromium, api, who="leaver")
    with api.store.transaction() as tx:
        access_tokens.revoke(tx, "leaver", api.now())

    expect(page.locator("#link")).to_contain_text("Logged out: log in")
    page.click("#link a")
    page.wait_for_url("**/console/login**")
