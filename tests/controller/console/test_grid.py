"""The fleet as a grid: what is drawn, who is chosen, and what is told of a cell."""

import json
import struct
from datetime import timedelta

import pytest

from console_fleet import enrol_fleet, enrol_one
from console_visitor import Browser, Page
from mailboat_controller.console import fleet_picture
from mailboat_controller.console.fleet_picture import State
from mailboat_controller.console.grid import Columns, asks_policy
from mailboat_controller.console.grid_columns import Grouping
from mailboat_controller.store import device_signs
from mailboat_schemas import selectors
from running_api import RunningApi

COUNT = 400


@pytest.fixture(scope="module", autouse=True)
def fleet(api: RunningApi) -> None:
    enrol_fleet(api.store, COUNT, api.now(), prefix="grid", sites=4)


@pytest.fixture(autouse=True)
def _always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person is shown what was so a while ago; a test has just made it otherwise."""
    monkeypatch.setattr(fleet_picture, "BEARABLE", timedelta())


def decoded(page: Page) -> tuple[dict[str, object], list[int], list[State]]:
    head, _, rest = page.answer.content.partition(b"\n")
    said = json.loads(head)
    count = sum(number for _, number in said["groups"])
    assert len(rest) == 5 * count
    return (
        said,
        list(struct.unpack(f"<{count}I", rest[: 4 * count])),
        [State(each) for each in rest[4 * count :]],
    )


def of_grid(query: str = "") -> str:
    return f"/fleet/columns?selector=site in (site-000,site-001,site-002,site-003){query}".replace(
        " ", "%20"
    )


def test_every_device_is_a_cell_and_the_counts_add_up(viewer: Browser) -> None:
    said, numbers, states = decoded(viewer.get(of_grid()))

    assert len(set(numbers)) == len(states) == COUNT
    counts = said["counts"]
    assert isinstance(counts, dict)
    assert sum(counts.values()) == COUNT
    # As `console_fleet` says: one revoked of 400, one of 400 never heard of, 8 offline.
    assert counts == {
        "failed": 0,
        "unknown": 1,
        "offline": 8,
        "in_progress": 5,
        "online": 385,
        "revoked": 1,
    }


def test_groups_are_drawn_one_after_the_other(viewer: Browser) -> None:
    said, numbers, _ = decoded(viewer.get(of_grid("&group=site")))

    assert said["groups"] == [[f"site-{n:03d}", 100] for n in range(4)]
    assert numbers[:100] == sorted(numbers[:100])


def test_what_calls_for_somebody_stands_first_when_grouped_by_state(viewer: Browser) -> None:
    _, _, states = decoded(viewer.get(of_grid("&group=state")))
    assert states[:9] == [State.UNKNOWN] + [State.OFFLINE] * 8


@pytest.mark.parametrize(
    ("selector", "count"),
    [
        ("site=site-001", 100),
        ("site=site-000,presence=offline", 0),
        ("site=site-003,presence=offline", 4),
        ("site in (site-000,site-001,site-002,site-003),running=vad@1.2.0", 100),
        ("device in (grid-000001,grid-000002)", 2),
        ("device=nobody", 0),
    ],
)
def test_the_one_selector_chooses(viewer: Browser, selector: str, count: int) -> None:
    page = viewer.get(f"/fleet/columns?selector={selector}".replace(" ", "%20"))
    _, numbers, _ = decoded(page)
    assert len(numbers) == count

    listed = viewer.get(f"/fleet?selector={selector}".replace(" ", "%20"))
    assert f"{count} of" in listed.text


def test_the_grid_chooses_whom_the_api_chooses(api: RunningApi, viewer: Browser) -> None:
    for selector in ("class=kiosk,presence!=online", "ring,running=vad@1.3.0", "!held,site!=-"):
        answer = api.ask("GET", f"/v1/devices?selector={selector}&limit=1000", by="vera")
        _, numbers, _ = decoded(viewer.get(f"/fleet/columns?selector={selector}&group=none"))
        assert numbers == [each["enrolment_number"] for each in answer.json]


def test_a_selector_that_cannot_be_read_is_answered_where_it_was_typed(viewer: Browser) -> None:
    page = viewer.get("/fleet?selector=class=")

    assert page.status == 422
    assert 'aria-invalid="true"' in page.html
    assert 'value="class="' in page.html
    assert "docs/selectors.md" in page.text


def test_a_device_that_falls_silent_changes_its_cell(api: RunningApi, viewer: Browser) -> None:
    enrol_one(api.store, "grid-watched", api.now())
    _, numbers, states = decoded(viewer.get("/fleet/columns?selector=device=grid-watched"))
    assert states == [State.ONLINE]

    with api.store.transaction() as tx:
        device_signs.set_presence(tx, "grid-watched", session=2, online=False, at=api.now())
    _, after, states = decoded(viewer.get("/fleet/columns?selector=device=grid-watched"))
    assert (after, states) == (numbers, [State.OFFLINE])


def test_who_has_the_columns_gets_them_no_second_time(viewer: Browser) -> None:
    first = viewer.get("/fleet/columns?selector=site=site-002")
    again = viewer.get(
        "/fleet/columns?selector=site=site-002", **{"If-None-Match": first.headers["etag"]}
    )
    assert (again.status, again.answer.content) == (304, b"")


def test_a_cell_is_told_in_words(viewer: Browser) -> None:
    _, numbers, _ = decoded(viewer.get("/fleet/columns?selector=device=grid-000007"))
    told = viewer.get(f"/fleet/cells/{numbers[0]}").answer.json

    assert told["device"] == "grid-000007"
    assert (told["state"], told["running"]) == ("offline", "vad@1.3.0")
    assert told["because"] == "its connection to the broker has ended"
    assert told["href"] == "/console/devices/grid-000007"
    assert viewer.get("/fleet/cells/99999999").status == 404


def test_without_javascript_there_is_a_table_with_pages(viewer: Browser) -> None:
    page = viewer.get("/fleet?selector=site=site-000")
    assert page.html.count('<tr><th scope="row"') == 50
    following = page.html.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0]

    more = viewer.get(following.removeprefix("/console").replace("&amp;", "&"))
    assert more.html.count('<tr><th scope="row"') == 50
    assert 'rel="next"' not in more.html


def test_an_empty_answer_says_what_to_do(viewer: Browser) -> None:
    assert (
        "No device has what this selector asks for"
        in viewer.get("/fleet?selector=device=nobody").text
    )


@pytest.mark.parametrize(("selector", "asks"), [("stale=vad", True), ("class=kiosk", False)])
def test_what_policy_says_is_asked_anew_each_time(
    api: RunningApi, selector: str, asks: bool
) -> None:
    """It changes with a document, while the picture of the fleet stays what it is."""
    assert asks_policy(selectors.parse(selector)) is asks
    fleet: fleet_picture.FleetPicture = api.app.state.console.state.fleet
    picture, columns = fleet.latest(api.now()), Columns()
    cells = list(picture.cells.values())

    first = columns.of(picture, selector, Grouping.NONE, cells, keep=not asks)
    after = columns.of(picture, selector, Grouping.NONE, cells[:3], keep=not asks)
    assert (first == after) is not asks
