"""The pages of devices, rollouts, releases, sites, trust, audit and KPIs, as people get them."""

import html
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

from console_story import BECAUSE, DEVICES, FAILED, HOSTILE, SITE, ConsoleStory
from console_visitor import Browser, Page
from mailboat_controller.console import audit as audit_pages
from mailboat_controller.console import device_actions as action_pages
from mailboat_controller.console import devices as device_pages
from mailboat_controller.console import kpis as kpi_pages
from mailboat_controller.console import releases as release_pages
from mailboat_controller.console import rollouts as rollout_pages
from mailboat_controller.console import trust as trust_pages
from mailboat_controller.store import (
    audit,
    enrolment_requests,
    log_requests,
    overrides,
    rollouts,
    tokens,
)
from mailboat_schemas.device_orders import OVERRIDE_REASON_CHARS_MAX, LogLine
from running_api import RunningApi, running_api
from trust_fleet import CLASS

PAGES = (
    "/rollouts",
    "/rollouts?phase=halted&model=vad",
    "/rollouts/second",
    "/rollouts/second?every=1",
    "/releases",
    "/releases?model=vad&page=2",
    "/releases/vad/1.1.0",
    "/releases/vad/1.3.0",
    "/releases/vad/1.1.0/diff?from=1.0.0",
    "/releases/vad/1.0.0/diff?every=1",
    f"/devices/{FAILED}?model=&release=",
    f"/devices/{FAILED}?model=vad&release=1.1.0&hours=24",
    "/devices/kiosk-4",
    "/devices/kiosk-7",
    "/devices/kiosk-8",
    "/sites",
    f"/sites/{SITE}",
    "/trust",
    "/audit",
    "/audit?action=rollout.&actor=&subject=second",
    "/audit/chain",
    "/kpis",
)


# What a page of a new controller names as the next thing to do.
NEXT_COMMANDS = {
    "/rollouts": "mailboat release approve MODEL VERSION",
    "/releases": "mailboat release build release.yaml",
    "/sites": "mailboat site add NAME",
    "/trust": "mailboat trust renew root",
}
EMPTY: dict[str, Page] = {}  # those pages, before anything was told


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """A controller of this module's own, because it was told a story."""
    with running_api(tmp_path_factory.mktemp("story")) as api:
        browser = Browser(api).log_in("vera")
        EMPTY.update((path, browser.get(path)) for path in NEXT_COMMANDS)
        ConsoleStory(api).tell()
        yield api


@pytest.fixture(scope="module")
def operator(api: RunningApi) -> Browser:
    return Browser(api).log_in("alice")


@pytest.fixture(scope="module")
def viewer(api: RunningApi) -> Browser:
    return Browser(api).log_in("vera")


@pytest.fixture(scope="module")
def approver(api: RunningApi) -> Browser:
    return Browser(api).log_in("paul")


def code_of(page: Page) -> str:
    return page.headers["mailboat-error-code"]


def last_entry(api: RunningApi, subject: str) -> audit.AuditRow:
    with api.store.read() as tx:
        return audit.page(tx, subject=subject, limit=500)[-1]


def phase_of(api: RunningApi, name: str) -> str:
    with api.store.read() as tx:
        return rollouts.get(tx, name).rollout.phase.value


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_for_every_role_and_shows_hostile_words_as_words(
    viewer: Browser, path: str
) -> None:
    page = viewer.get(path)

    assert page.status == 200
    for raw in ("<script>window", "<img src=x", " onerror=window.pwned=1>'"):
        assert raw not in page.html
    assert not re.search(r"<[a-z]+[^>]* (on\w+|style)=", page.html)
    assert '<details class="action' not in page.html  # a viewer orders nothing


@pytest.mark.parametrize("path", NEXT_COMMANDS)
def test_a_page_with_nothing_on_it_names_the_next_command(viewer: Browser, path: str) -> None:
    assert EMPTY[path].status == 200
    assert NEXT_COMMANDS[path] in EMPTY[path].text


@pytest.mark.parametrize(
    "path",
    ["/rollouts/nothing", "/releases/vad/9.9.9", "/devices/dev-9", "/sites/nowhere"],
)
def test_what_there_is_not_says_what_to_do_next(viewer: Browser, path: str) -> None:
    page = viewer.get(path)

    assert (page.status, code_of(page)) == (404, "E-NOT-FOUND")
    assert "Next: " in page.text
    assert "/console/errors/E-NOT-FOUND" in page.html


@pytest.mark.parametrize(
    "path",
    ["/rollouts?page=0", "/rollouts?phase=x", "/audit?before=0", f"/devices/{FAILED}?hours=0"],
)
def test_an_address_out_of_bounds_is_a_page_that_says_so(viewer: Browser, path: str) -> None:
    page = viewer.get(path)

    assert (page.status, code_of(page)) == (422, "E-REQUEST")


class TestAHaltedRollout:
    def test_says_why_and_what_tripped_and_what_serves_now(self, viewer: Browser) -> None:
        text = viewer.get("/rollouts/second").text

        assert f"failed on {FAILED}: {BECAUSE}" in text
        assert "Threshold that tripped: one failure halts: 1 failed" in text
        assert "What serves on devices that left it: 3 × 1.0.0" in text
        assert "tripped: error_rate" in text
        assert "resumed: 1.0.0, after 0.4 s by its own clock" in text

    def test_counts_add_up_with_what_is_unknown(self, viewer: Browser) -> None:
        page = viewer.get("/rollouts/second")
        row = re.search(r"<th scope=\"row\">kiosk-x86</th>(.*?)</tr>", page.html)
        assert row is not None
        numbers = [int(n) for n in re.findall(r">(\d+)</td>", row[1])]
        devices, ok, failed, unknown, in_progress, waiting, not_open, excluded = numbers

        assert devices == len(DEVICES) == ok + failed + unknown + not_open + excluded
        assert unknown == in_progress + waiting

    def test_shows_exposure_against_what_is_allowed(self, viewer: Browser) -> None:
        html = viewer.get("/rollouts/second").html

        assert 'aria-label="1 of 1 exposed in kiosk-x86"' in html
        assert 'aria-label="2 of 7 exposed in kiosk-x86"' in html

    def test_offers_no_order_but_says_what_comes_next(self, operator: Browser) -> None:
        page = operator.get("/rollouts/second")

        assert 'action="/console/rollouts/second' not in page.html
        assert "Nothing can be ordered any more: halted is final." in page.text


class TestOrdersToARollout:
    """All about the third: its plan waits for a person."""

    def test_a_viewer_gets_a_page_that_says_who_may(self, viewer: Browser, api: RunningApi) -> None:
        page = viewer.post("/rollouts/third/abort", confirm="third", reason="mine")

        assert (page.status, code_of(page)) == (403, "E-NOT-PERMITTED")
        assert "it takes one of: operator" in page.text
        assert phase_of(api, "third") != "aborted"

    @pytest.mark.parametrize(
        "fields",
        [
            {"confirm": "second", "reason": "why"},
            {"confirm": "", "reason": "why"},
            {"confirm": "third", "reason": " "},
            {"confirm": "third"},
        ],
    )
    def test_nothing_is_done_without_the_name_and_a_reason(
        self, operator: Browser, api: RunningApi, fields: dict[str, str]
    ) -> None:
        page = operator.post("/rollouts/third/abort", **fields)

        assert code_of(page) == "E-NOT-CONFIRMED"
        assert "nothing was done" in page.text
        assert phase_of(api, "third") != "aborted"

    def test_what_was_told_before_is_what_happens(self, operator: Browser, api: RunningApi) -> None:
        before = operator.get("/rollouts/third").text
        assert "8 wave 1 of 1 opens and lets in so many more" in before

        started = operator.post("/rollouts/third/start", confirm="third", reason="we watch it")
        assert (started.status, started.headers["location"]) == (303, "/console/rollouts/third")
        running = operator.get("/rollouts/third")
        assert sum(_allowed(running)) == 8
        assert "0 exposed: 0 good, 0 failed, 0 silent, 0 of them overdue" in running.text
        assert "0.00 evidence that it fails (ln E); it halts at 4.61" in running.text
        assert "soaks until" in running.text  # what is missing, in words
        entry = last_entry(api, "third")
        assert entry.actor in ("operator:alice", "controller")

        # Who saw another wave, or none yet, must not open one more than they saw.
        for wave in (0, 16):
            unseen = operator.post(
                "/rollouts/third/promote", confirm="third", reason="so", wave=wave
            )
            assert (unseen.status, code_of(unseen)) == (409, "E-CONFLICT")
        untold = operator.post("/rollouts/third/promote", confirm="third", reason="so")
        assert code_of(untold) == "E-NOT-CONFIRMED"

        for verb, phase in (("pause", "paused"), ("resume", "running"), ("abort", "aborted")):
            assert f"/console/rollouts/third/{verb}" in operator.get("/rollouts/third").html
            answer = operator.post(f"/rollouts/third/{verb}", confirm="third", reason=f"to {verb}")
            assert answer.status == 303
            assert phase_of(api, "third") == phase
            with api.store.read() as tx:
                entry = audit.newest(tx, "third", f"rollout.{verb}")  # type: ignore[assignment]
            assert (entry.actor, entry.reason) == ("operator:alice", f"to {verb}")
        after = operator.get("/rollouts/third")
        assert "abort was ordered: third is aborted" in after.text  # the flash
        assert "to abort" in after.text

    def test_an_order_that_its_phase_does_not_have_is_a_conflict(self, operator: Browser) -> None:
        page = operator.post("/rollouts/first/pause", confirm="first", reason="why")

        assert (page.status, code_of(page)) == (409, "E-CONFLICT")
        assert "it cannot pause" in page.text


def _allowed(page: Page) -> list[int]:
    return [int(n) for n in re.findall(r'aria-label="\d+ of (\d+) exposed', page.html)]


class TestADevice:
    def test_explains_itself_with_the_first_no_marked(self, viewer: Browser) -> None:
        page = viewer.get(f"/devices/{FAILED}?model=vad&release=1.1.0")
        (row,) = re.findall(r"<tr class=\"[^\"]*first-no\">.*?</tr>", page.html, re.DOTALL)

        assert "no: the first" in row
        assert "1.1.0 asked" in page.text
        assert "Next it stays 1.0.0" in page.text

    def test_tells_its_state_with_ages_and_the_offset_of_its_clock(self, viewer: Browser) -> None:
        text = viewer.get(f"/devices/{FAILED}").text

        assert "online since" in text
        assert " min ahead measured" in text
        assert "does not answer the newest yet" in text

    def test_has_its_telemetry_as_a_table_that_the_plots_are_drawn_from(
        self, viewer: Browser
    ) -> None:
        page = viewer.get(f"/devices/{FAILED}")

        assert len(re.findall(r"<td data-x=\"\d+\"", page.html)) == 47
        assert page.html.count('data-table="windows"') == 3
        assert "No window of telemetry began in this time." in viewer.get("/devices/kiosk-8").text

    def test_says_what_its_site_ordered_and_that_it_is_stopped(self, viewer: Browser) -> None:
        text = viewer.get("/devices/kiosk-7").text

        assert "hold every model: the crane is at work" in text
        assert "rollback vad 1.0.0: noise" in text
        assert "By site harbour (foreman), no. 3; an order of the centre goes first." in text
        assert "1.0.0 is stopped: it is further behind than its policy allows" in text

    def test_tells_its_story(self, viewer: Browser) -> None:
        text = viewer.get(f"/devices/{FAILED}").text

        assert text.index("device: rolled back") < text.index("device: soak started")
        assert "rollout: halted" in text

    def test_is_held_pinned_and_let_go_again(self, operator: Browser, api: RunningApi) -> None:
        path, name = "/devices/kiosk-6", "kiosk-6"
        typed = {"confirm": name, "reason": "a trade fair"}
        assert operator.post(f"{path}/hold", model="", hours=5, **typed).status == 303
        pinned = operator.post(f"{path}/pin", model="vad", version="1.0.0", hours=5, **typed)
        assert pinned.status == 303

        page = operator.get(path)
        assert "has not confirmed it yet" in page.text
        assert "a trade fair by operator:alice" in page.text
        with api.store.read() as tx:
            assert {row.kind for row in overrides.of_device(tx, name)} == {"hold", "pin"}
        for verb, model in (("release-hold", ""), ("unpin", "vad")):
            assert operator.post(f"{path}/{verb}", model=model, **typed).status == 303
        assert "None stands." in operator.get(path).text

    def test_refuses_a_reason_that_it_could_not_show(self, operator: Browser) -> None:
        long = "x" * (OVERRIDE_REASON_CHARS_MAX + 1)
        page = operator.post("/devices/kiosk-6/hold", confirm="kiosk-6", reason=long)

        assert page.status == 400
        assert f"at most {OVERRIDE_REASON_CHARS_MAX}" in page.text

    def test_orders_are_not_for_viewers(self, viewer: Browser) -> None:
        for verb in ("hold", "release-hold", "unpin", "pin", "logs"):
            fields = {"confirm": "kiosk-6", "reason": "r", "model": "vad", "version": "1.0.0"}
            assert viewer.post(f"/devices/kiosk-6/{verb}", **fields).status == 403

    def test_is_asked_for_its_log(self, operator: Browser, viewer: Browser) -> None:
        typed = {"confirm": "kiosk-5", "reason": "strange noises"}
        answer = operator.post("/devices/kiosk-5/logs", **typed)
        path = answer.headers["location"].removeprefix("/console")

        page = operator.get(path)
        assert "waiting asked by operator:alice" in page.text
        assert "Nothing has come yet. The device answers when it is there." in page.text
        assert "strange noises" in operator.get("/devices/kiosk-5").text
        assert viewer.get(path).status == 403


class TestReleases:
    def test_say_who_signed_and_approved(self, viewer: Browser) -> None:
        text = viewer.get("/releases/vad/1.1.0").text

        assert "Signed by vad pipeline" in text
        assert "Approved by vad approver" in text
        assert "wave 1: pilots kiosk-1; passes with a good verdict of everybody" in text

    def test_show_the_model_card_as_text_without_marks_that_turn_it(self, viewer: Browser) -> None:
        page = viewer.get("/releases/vad/1.1.0")

        assert "Hears a voice." in page.text
        assert HOSTILE.replace("<script>", "&lt;script&gt;")[:20] in page.html
        assert "\u202e" not in page.html
        assert "\ufffdhidden" in page.html

    def test_differ_in_what_changed_alone_unless_all_is_asked_for(self, viewer: Browser) -> None:
        some = viewer.get("/releases/vad/1.1.0/diff?from=1.0.0").text
        every = viewer.get("/releases/vad/1.1.0/diff?from=1.0.0&every=1").text

        assert "latency p95 ms max kiosk-x86 10 11" in some
        assert "Interface" not in some
        assert "input x all 1: float32 [any, 4] the same" in every

    def test_are_compared_with_the_one_before_when_nothing_is_named(self, viewer: Browser) -> None:
        assert "From 1.1.0 to 1.2.0" in viewer.get("/releases/vad/1.2.0/diff").text

    def test_are_rejected_by_approvers_alone_with_a_reason(
        self, operator: Browser, approver: Browser, api: RunningApi
    ) -> None:
        typed = {"confirm": "vad@1.3.0", "reason": "too slow on gateways"}
        assert operator.post("/releases/vad/1.3.0/reject", **typed).status == 403
        assert approver.post("/releases/vad/1.3.0/reject", **typed).status == 303

        assert last_entry(api, "vad@1.3.0").action == "release.reject"
        page = approver.get("/releases/vad/1.3.0")
        assert "too slow on gateways" in page.text
        assert "mailboat release approve vad 1.3.0" in page.text
        approved = {"confirm": "vad@1.0.0", "reason": "no"}
        assert approver.post("/releases/vad/1.0.0/reject", **approved).status == 409


def test_a_site_says_that_its_cut_is_not_expected_and_since_when(viewer: Browser) -> None:
    text = viewer.get(f"/sites/{SITE}").text

    assert "cut since 2 h ago" in text
    assert "Its policy does not expect this" in text
    assert "cut not expected" in viewer.get("/sites").text


def test_trust_names_keys_expiries_and_what_waits_for_a_person(viewer: Browser) -> None:
    text = viewer.get("/trust").text

    assert "timestamp in 7 days" in text
    assert "1 of 1 vad approver" in text
    assert "vad 1.2.0 was signed by its pipeline" not in text


def test_the_audit_log_is_filtered_paged_and_verified(viewer: Browser, api: RunningApi) -> None:
    page = viewer.get("/audit?action=rollout.&subject=second")
    actions = set(re.findall(r"action=(rollout\.\w+)\"", page.html))
    assert {"rollout.wave", "rollout.halted"} <= actions
    assert "release.accept" not in page.text
    assert "from running" in page.text  # before and after, with the numbers it was decided on
    assert '"rule": "every"' in page.text

    assert "No entry is like that." in viewer.get("/audit?actor=operator:nobody").text
    first = viewer.get("/audit?before=3").html
    assert [int(n) for n in re.findall(r">(\d+)</a></td>", first)] == [2, 1]
    assert "holds" in viewer.get("/audit/chain").text


def test_kpis_are_counted_from_what_devices_told(viewer: Browser) -> None:
    page = viewer.get("/kpis")
    row = re.search(r"vad 1\.1\.0</a></th>(.*?)</tr>", page.html, re.DOTALL)
    assert row is not None

    assert re.findall(r"<td class=\"num\">(\d+)</td>", row[1])[:2] == ["1", "1"]
    assert "50 %" in row[1]
    assert "0.9 s" in row[1]  # nine of ten, within a bucket of 0.3 to 1 s
    assert 'aria-label="5 of 8 run it"' in page.html
    assert len(re.findall(r"<td data-x=\"\d+\"", page.html)) == 30


class TestBounds:
    """Of every list a page shows so many rows, and says where the others are."""

    @pytest.mark.parametrize(
        ("module", "name", "path", "link"),
        [
            (rollout_pages, "ROWS", "/rollouts?model=vad", "?model=vad&amp;page=2"),
            (release_pages, "ROWS", "/releases", "?page=2"),
            (audit_pages, "ROWS", "/audit?actor=ci:build", "?actor=ci%3Abuild&amp;before="),
            (rollout_pages, "ENTRIES", "/rollouts/second", "/console/rollouts/second?every=1"),
            (device_pages, "TIMELINE_ENTRIES", f"/devices/{FAILED}", "?before="),
        ],
    )
    def test_a_list_that_is_longer_leads_to_the_rest(
        self,
        viewer: Browser,
        monkeypatch: pytest.MonkeyPatch,
        module: ModuleType,
        name: str,
        path: str,
        link: str,
    ) -> None:
        assert f'href="{link}' not in viewer.get(path).html
        monkeypatch.setattr(module, name, 1)
        page = viewer.get(path)
        assert page.status == 200
        (found,) = set(re.findall(rf'href="({re.escape(link)}[^"]*)"', page.html))

        following = (
            found if found.startswith("/console") else path.split("?", maxsplit=1)[0] + found
        )
        shown = viewer.get(html.unescape(following).removeprefix("/console"))
        assert shown.status == 200
        assert shown.text != page.text

    def test_only_so_many_entries_are_counted_by_day(
        self, viewer: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "More happened than is counted here" not in viewer.get("/kpis").text
        monkeypatch.setattr(kpi_pages, "ENTRIES_MAX", 1)
        assert "More happened than is counted here" in viewer.get("/kpis").text

    def test_only_the_newest_releases_are_looked_at_for_who_waits(
        self, viewer: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trust_pages, "RELEASES_LOOKED_AT_MAX", 1)
        assert "1.2.0" not in viewer.get("/trust").text

    def test_only_so_many_enrolments_are_shown_and_that_there_are_more_is_said(
        self, api: RunningApi, viewer: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        grant = tokens.Grant(
            hardware_class=CLASS, site="-", labels={}, created_by="operator:alice", approval=True
        )
        names = ("waits-1", "waits-2")
        with api.store.transaction() as tx:
            for name in names:
                enrolment_requests.add(
                    tx, name, token_sha256=name, public_key=b"", grant=grant, at=api.now()
                )
        assert "More devices ask" not in viewer.get("/trust").text
        monkeypatch.setattr(trust_pages, "ENROLMENTS_MAX", 1)
        text = viewer.get("/trust").text
        with api.store.transaction() as tx:
            for name in names:
                enrolment_requests.forget(tx, name)

        assert sum(name in text for name in names) == 1
        assert "More devices ask to be let in" in text

    def test_a_log_is_shown_a_page_at_a_time(
        self, api: RunningApi, operator: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(action_pages, "LINES_PER_PAGE", 2)
        asked = operator.post(
            f"/devices/{FAILED}/logs", confirm=FAILED, reason="to see a page of it"
        )
        path = asked.headers["location"].removeprefix("/console")
        lines = [
            LogLine(number=n, at=n, level="info", logger="x", message=f"line {n}")
            for n in (1, 2, 3)
        ]
        with api.store.transaction() as tx:
            row = log_requests.get(tx, FAILED, path.rpartition("/")[2])
            log_requests.add_lines(tx, row, lines, last=True, withheld=0, now=api.now())

        first = operator.get(path)
        assert re.findall(r"line \d", first.text) == ["line 1", "line 2"]
        (following,) = re.findall(r'href="(\?after=\d+)"', first.html)
        second = operator.get(path + following)
        assert re.findall(r"line \d", second.text) == ["line 3"]
        assert "?after=3" not in second.html

    def test_only_so_many_versions_are_offered_to_compare_with(
        self, viewer: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(release_pages, "COMPARED_MAX", 1)
        page = viewer.get("/releases/vad/1.2.0")
        assert re.findall(r"<option>([\d.]+)</option>", page.html) == ["1.1.0"]
