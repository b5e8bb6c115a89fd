"""Every panel's query returns data: of a real Prometheus that scraped a controller which was told
everything that devices can tell."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from dashboard_panels import panel_queries
from mailboat_controller import stats
from mailboat_controller.metrics import described
from mailboat_controller.store.engine import Store
from metrics_story import CLASS, FLEET, ROLLOUT, SITE, MetricsStory, scrapeable
from prometheus_server import INSTALLED, prometheus_of

NAMES = {
    "fleet": FLEET,
    "hardware_class": CLASS,
    "model": "vad",
    "rollout": ROLLOUT,
    "site": SITE,
    "name": "dev-1",
}


@pytest.fixture
def story(tmp_path: Path) -> Iterator[MetricsStory]:
    story = MetricsStory(tmp_path / "controller")
    yield story
    story.close()


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="Prometheus (Debian: prometheus) is not installed")
def test_every_query_of_every_panel_returns_numbers(story: MetricsStory, tmp_path: Path) -> None:
    with scrapeable(story) as address:
        scrape = {"static_configs": [{"targets": [address]}]}
        with prometheus_of(tmp_path / "prometheus", scrape) as prometheus:
            prometheus.wait_for("changes(mailboat_requests_total[30s]) > 1")
            empty = [
                f"{query.name}: {query.text}"
                for query in panel_queries({})
                if query.kind == "prometheus" and not prometheus.ask(query.text)
            ]

    assert empty == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say_of_what_is_shown(story: MetricsStory) -> None:
    shown = story.scraped()

    done = subprocess.run(
        ["promtool", "check", "metrics"], input=shown, check=False, capture_output=True
    )

    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    assert done.stderr == b""


def test_what_is_shown_is_what_is_described(story: MetricsStory) -> None:
    lines = story.scraped().decode().splitlines()
    shown = {line.split()[2].removesuffix("_total") for line in lines if line.startswith("# TYPE")}

    assert {name for name in shown if not name.endswith("_created")} <= described.METRICS.keys()
    assert f'mailboat_controller_info{{fleet="{FLEET}"}} 1.0' in lines
    # All but what a controller without an artifact store, deltas or a site's certificate knows.
    assert len(shown) > 0.8 * len(described.METRICS)


def test_every_field_of_a_live_panel_is_in_the_json_of_its_topic(story: MetricsStory) -> None:
    story.scraped()
    publisher = stats.Publisher(FLEET)
    published = dict(publisher.news(story.latest, story.core.now))

    topics = {query.text for query in panel_queries(NAMES) if query.kind == "mqtt"}

    assert topics <= published.keys()
    lately = {"requests_per_second", "errors_per_second"}
    lately |= {f"latency_{quantile}_ms" for quantile in ("p50", "p95", "p99")}
    for query in panel_queries(NAMES):
        if query.kind == "mqtt":
            fields = json.loads(published[query.text])
            assert set(query.fields) - lately <= fields.keys(), query.name
            assert len(query.text) <= 60, "Grafana's channel ids end there"


def test_every_view_answers_the_queries_of_the_dashboards(database_url: str) -> None:
    store = Store(database_url)
    asked = [query for query in panel_queries(NAMES) if query.kind == "sql"]
    with store.read() as tx:
        for query in asked:
            tx.execute(text(query.text)).fetchall()
        for view in ("v_releases", "v_rollouts", "v_outcomes", "v_deliveries", "v_audit"):
            tx.execute(text(f"SELECT * FROM {view}")).fetchall()  # noqa: S608  names of ours
    store.close()

    assert len(asked) == 3
