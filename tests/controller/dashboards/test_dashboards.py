"""Dashboards and alerts as they are committed: fresh, whole, and about metrics that there are."""

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from mailboat_controller.metrics import described

DASHBOARDS = Path(__file__).parents[3] / "controller" / "dashboards"
BOARDS = sorted((DASHBOARDS / "grafana" / "dashboards").glob("*.json"))
PLUGINS = {"prometheus", "grafana-postgresql-datasource", "grafana-mqtt-datasource"}
UNITS = {
    "bool_on_off",
    "bytes",
    "cps",
    "ms",
    "none",
    "percentunit",
    "reqps",
    "s",
    "short",
}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)


def written() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard_writer", DASHBOARDS / "write.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def boards() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in BOARDS:
        yield path.stem, json.loads(path.read_text())


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, board in boards():
        for panel in board["panels"]:
            yield f"{name}: {panel['title']}", panel


def named_metrics(expr: str) -> set[str]:
    return set(re.findall(r"\bmailboat_\w+", expr))


def test_every_generated_file_is_what_the_code_would_write_now() -> None:
    for path, content in written().pages():
        assert path.read_text() == content, f"run controller/dashboards/write.py: {path}"
    there = {path for path, _ in written().pages()}
    assert set(BOARDS) <= there


def test_every_panel_has_a_title_a_unit_and_a_description() -> None:
    for name, panel in panels():
        assert len(panel["description"]) > 10, name
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, name
        assert panel["title"], name
        assert panel["targets"], name


def test_every_source_is_chosen_by_the_reader() -> None:
    for name, board in boards():
        variables = {each["name"]: each for each in board["templating"]["list"]}
        for panel in board["panels"]:
            for source in (panel["datasource"], *(t["datasource"] for t in panel["targets"])):
                found = re.fullmatch(r"\$\{(\w+)\}", source["uid"])
                assert found, f"{name}: {panel['title']}: {source['uid']}"
                assert variables[found[1]]["query"] == source["type"]
                assert source["type"] in PLUGINS


def test_ids_and_places_are_no_ones_twice() -> None:
    assert len({board["uid"] for _, board in boards()}) == len(BOARDS)
    for name, board in boards():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids), name
        for one, other in combinations((panel["gridPos"] for panel in board["panels"]), 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert beside or above, f"{name}: {one} {other}"


def test_a_variable_that_a_query_names_is_one_of_the_boards() -> None:
    for name, board in boards():
        known = {each["name"] for each in board["templating"]["list"]}
        used = set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"])))
        assert used - known <= {"__rate_interval"}, name


def test_what_a_topic_names_is_one_name_that_prometheus_knows() -> None:
    """The fleet's own as well: a default that is written down is somebody else's."""
    live = dict(boards())["mailboat-live"]
    variables = {each["name"]: each for each in live["templating"]["list"]}
    topics = [target["topic"] for panel in live["panels"] for target in panel["targets"]]
    named = set(re.findall(r"\$\{(\w+)\}", " ".join(topics)))

    assert named == {"fleet", "hardware_class", "model", "rollout", "site"}
    for name in named:
        assert variables[name]["type"] == "query", name
        assert not variables[name]["multi"], "mb/1/{a,b}/stats is no topic"
        assert "includeAll" not in variables[name], ".* is no topic"


def test_every_metric_that_is_drawn_or_alerted_on_is_described() -> None:
    known = described.shown_names().keys()
    for name, panel in panels():
        for target in panel["targets"]:
            assert named_metrics(target.get("expr", "")) <= known, name
    for alert in written().ALERTS:
        assert named_metrics(alert.expr) <= known, alert.name
        assert alert.summary.endswith(".")
        assert alert.next_step.endswith(".")
    for _, board in boards():
        for variable in board["templating"]["list"]:
            definition = variable.get("definition", "")
            assert named_metrics(definition) <= known


def test_every_label_that_a_query_names_is_one_of_the_metric() -> None:
    shown = described.shown_names()
    for name, panel in panels():
        for target in panel["targets"]:
            for metric, selector in re.findall(
                r"\b(mailboat_\w+)\{([^}]*)\}", target.get("expr", "")
            ):
                labels = set(re.findall(r"(\w+)(?==|!=|=~|!~)", re.sub(r'"[^"]*"', "", selector)))
                of_prometheus = {"job", "instance"}
                assert labels - of_prometheus <= set(shown[metric].labels), f"{name}: {metric}"


def test_provisioning_names_the_plugins_that_the_dashboards_ask_for() -> None:
    provisioning = DASHBOARDS / "grafana" / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "mailboat.yaml").read_text())
    uids = [each["uid"] for each in sources["datasources"]]

    assert {each["type"] for each in sources["datasources"]} == PLUGINS
    assert len(set(uids)) == len(uids)
    for each in sources["datasources"]:
        for secret in each.get("secureJsonData", {}).values():
            assert secret.startswith("$__file{"), "no secret in the repository"
    broker = next(each for each in sources["datasources"] if "mqtt" in each["type"])
    assert broker["jsonData"]["clientID"]  # else each restart leaves a session at the broker


@needs_promtool
def test_prometheus_takes_the_rules_and_the_settings() -> None:
    directory = DASHBOARDS / "prometheus"
    for words in (
        ("check", "rules", directory / "alerts.yml"),
        ("check", "config", "--syntax-only", directory / "prometheus.yml"),
    ):
        done = subprocess.run(
            ["promtool", *map(str, words)], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
