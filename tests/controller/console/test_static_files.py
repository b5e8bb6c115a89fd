"""Scripts and styles: ours, and those of others as they were published."""

import hashlib
import re
from importlib import resources

from console_visitor import Browser
from mailboat_controller.console import static_files
from running_api import RunningApi

VENDOR = resources.files("mailboat_controller.console") / "static" / "vendor"
ROW = re.compile(r"^([0-9a-f]{64})  (\S+)  (\S+)@(\d+\.\d+\.\d+)  (0BSD|MIT)$", re.MULTILINE)


def test_every_file_of_others_is_listed_and_unchanged() -> None:
    listed = {name: sha256 for sha256, name, *_ in ROW.findall((VENDOR / "VENDORED").read_text())}
    there = {each.name for each in VENDOR.iterdir()} - {"VENDORED"}

    assert set(listed) == there
    for name, sha256 in listed.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == sha256, name


def test_nothing_is_loaded_from_anybody_elses_server() -> None:
    root = resources.files("mailboat_controller.console")
    for folder in (root / "templates", root / "static"):
        for each in folder.iterdir():
            if each.is_file():
                text = each.read_text()
                assert not re.search(r"(src|href|url|import)\W{1,3}(https?:)?//", text), each.name


def test_a_file_is_kept_by_browsers_for_as_long_as_it_is_the_same(api: RunningApi) -> None:
    browser = Browser(api)
    address = static_files.address("console.css")
    answer = browser.get(address.removeprefix("/console"))

    assert "immutable" in answer.headers["cache-control"]
    again = browser.get("/static/console.css", **{"If-None-Match": answer.headers["etag"]})
    assert again.status == 304


def test_what_is_no_file_of_ours_is_not_found(api: RunningApi) -> None:
    for name in ("none.css", "../app.py", "..%2fapp.py", "vendor/VENDORED", "vendor/../x"):
        assert Browser(api).get(f"/static/{name}").status in (303, 404), name
