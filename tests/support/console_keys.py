"""A person at the console with a keyboard and nothing else, in Debian's chromium."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
TABS_MAX = 400  # of one page: a trap, or a link that no key reaches
PATIENCE_MS = 180_000  # a page on a busy machine


@contextmanager
def running_chromium() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)  # its own is five seconds
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def open_console(browser: Browser, url: str, token: str, *, theme: str = "light") -> Page:
    """Logged in, on the overview."""
    context = browser.new_context(
        ignore_https_errors=True,
        color_scheme="dark" if theme == "dark" else "light",
        reduced_motion="reduce",
        viewport={"width": 1280, "height": 900},
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(f"{url}/console/login")
    tab_to(page, 'input[name="token"]')
    page.keyboard.type(token)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{url}/console/")
    return page


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until that has the focus, and see that the focus shows."""
    for _ in range(TABS_MAX):
        page.keyboard.press("Tab")
        if page.evaluate("(wanted) => document.activeElement.matches(wanted)", selector):
            assert page.evaluate("() => document.activeElement.matches(':focus-visible')")
            return
    raise AssertionError(f"no key leads to {selector} on {page.url}")


def follow(page: Page, href: str) -> None:
    """Go to a link by Tab, and follow it by Enter."""
    tab_to(page, f'main a[href="{href}"], nav a[href="{href}"]')
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{href}")
    page.wait_for_load_state("load")


def text_of(page: Page) -> str:
    return " ".join(page.inner_text("main").split())
