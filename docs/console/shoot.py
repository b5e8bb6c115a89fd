"""Takes the pictures of docs/console.md: every page of a console that was told a night's story.

    PYTHONPATH=tests/support python docs/console/shoot.py [DIRECTORY]

It needs the test group and Debian's chromium. Devices, times and keys are made anew each time, so
pictures differ from run to run where they show these.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, Page, sync_playwright

from console_story import FAILED, SITE, ConsoleStory
from running_api import RunningApi, running_api

CHROMIUM = "/usr/bin/chromium"
WIDE, NARROW = (1360, 850), (390, 844)
HEIGHT_MAX = 1300  # of a picture; the rest of a page is more of the same


@dataclass(frozen=True)
class Picture:
    """``opens``: the id of a form that is open on it."""

    name: str
    path: str
    who: str = "alice"
    theme: str = "light"
    size: tuple[int, int] = WIDE
    opens: str = ""


PICTURES = (
    Picture("overview", "/"),
    Picture("overview-dark", "/", theme="dark"),
    Picture("fleet", "/fleet"),
    Picture("rollout", "/rollouts/second"),
    Picture("rollout-dark", "/rollouts/second", theme="dark"),
    Picture("rollout-order", "/rollouts/third", opens="start"),
    Picture("rollout-narrow", "/rollouts/second", size=NARROW),
    Picture("device", f"/devices/{FAILED}?model=vad&release=1.1.0"),
    Picture("device-narrow", f"/devices/{FAILED}", size=NARROW, theme="dark"),
    Picture("release-diff", "/releases/vad/1.1.0/diff?from=1.0.0"),
    Picture("sites", f"/sites/{SITE}"),
    Picture("trust", "/trust"),
    Picture("audit", "/audit"),
    Picture("kpis-dark", "/kpis", theme="dark"),
)


@contextmanager
def told_console() -> Iterator[RunningApi]:
    with TemporaryDirectory() as directory, running_api(Path(directory)) as api:
        ConsoleStory(api, hostile="").tell()
        yield api


def logged_in(browser: Browser, api: RunningApi, picture: Picture) -> Page:
    width, height = picture.size
    context = browser.new_context(
        ignore_https_errors=True,
        viewport={"width": width, "height": height},
        color_scheme="dark" if picture.theme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(f"{api.url}/console/login")
    page.fill('input[name="token"]', api.tokens[picture.who])
    page.press('input[name="token"]', "Enter")
    page.wait_for_url(f"{api.url}/console/")
    return page


def shoot(browser: Browser, api: RunningApi, picture: Picture, directory: Path) -> None:
    page = logged_in(browser, api, picture)
    page.goto(f"{api.url}/console{picture.path}")
    page.wait_for_load_state("load")
    if page.locator("figure.plot").count():
        page.wait_for_selector("figure.plot canvas")
    if picture.opens:
        page.click(f"#{picture.opens} > summary")
    height = page.evaluate("document.documentElement.scrollHeight")
    width, least = picture.size
    page.set_viewport_size({"width": width, "height": max(least, min(height, HEIGHT_MAX))})
    page.wait_for_timeout(400)  # plots are drawn anew for the new size
    page.screenshot(path=directory / f"{picture.name}.png")
    page.context.close()


def main(directory: Path, *names: str) -> None:
    with told_console() as api, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for picture in PICTURES:
            if not names or picture.name in names:
                shoot(browser, api, picture, directory)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent, *sys.argv[2:])
