"""docs/runbook.md: a section for every alert, each with what to see, to do and whom to wake."""

import re
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs"
RULES = DOCS.parent / "controller" / "dashboards" / "prometheus" / "alerts.yml"
MORNING = "In the morning"


def sections() -> dict[str, str]:
    """By heading."""
    parts = re.split(r"^## (.+)$", (DOCS / "runbook.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def alerts() -> list[dict[str, object]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def test_every_alert_has_its_section() -> None:
    by_anchor = {f"docs/runbook.md#{anchor(each)}": text for each, text in sections().items()}
    for rule in alerts():
        annotations = rule["annotations"]
        assert isinstance(annotations, dict)
        place = annotations["runbook_url"]
        assert place in by_anchor, rule["alert"]
        assert f"`{rule['alert']}`" in by_anchor[place], rule["alert"]


def test_metrics_md_links_each_alert_to_its_section() -> None:
    told = dict(
        re.findall(
            r"^\| \[`(\w+)`\]\((runbook\.md#[\w-]+)\)", (DOCS / "metrics.md").read_text(), re.M
        )
    )
    assert told == {
        str(rule["alert"]): str(rule["annotations"]["runbook_url"]).removeprefix("docs/")  # type: ignore[index]
        for rule in alerts()
    }


def test_nobody_is_woken_by_what_waits_until_the_morning() -> None:
    for rule in alerts():
        page = rule["labels"] == {"severity": "page"}
        if f"`{rule['alert']}`" in sections()[MORNING]:
            assert not page, rule["alert"]


@pytest.mark.parametrize("heading", [each for each in sections() if each != MORNING])
def test_each_night_says_what_it_means_what_to_do_and_whom_to_wake(heading: str) -> None:
    text = sections()[heading]
    places = [text.find(f"**{word}**") for word in ("You see", "It means", "Wake")]
    assert -1 not in places, heading
    assert places == sorted(places)
    assert "`mailboat " in text or "\n   mailboat " in text, "no command"


def test_the_first_table_leads_to_every_night() -> None:
    head = (DOCS / "runbook.md").read_text().split("\n## ", 1)[0]
    assert re.findall(r"\]\(#([\w-]+)\) \|$", head, re.MULTILINE) == [
        anchor(each) for each in sections() if each != MORNING
    ]
