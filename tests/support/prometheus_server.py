"""A Prometheus of our own, on loopback, with what `controller/dashboards` writes for it."""

import json
import math
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from mailboat_controller.demo.fleet import until
from unused_port import unused_port

INSTALLED = shutil.which("prometheus") is not None and shutil.which("promtool") is not None
READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30


@dataclass(frozen=True)
class PrometheusServer:
    url: str

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """The samples that are numbers, now."""
        return [
            sample
            for sample in self._get("query", query=expr)["result"]
            if math.isfinite(float(sample["value"][1]))
        ]

    def ask_range(self, expr: str, seconds: float, step: float) -> list[dict[str, Any]]:
        end = time.time()
        found: list[dict[str, Any]] = self._get(
            "query_range", query=expr, start=end - seconds, end=end, step=step
        )["result"]
        return found

    def wait_for(self, expr: str, seconds: float = READY_SECONDS_MAX) -> list[dict[str, Any]]:
        """Its samples, as soon as there are any."""
        until(f"Prometheus answers {expr}", lambda: bool(self.ask(expr)), seconds)
        return self.ask(expr)

    def _get(self, what: str, **parameters: object) -> dict[str, Any]:
        url = f"{self.url}/api/v1/{what}?{urlencode(parameters)}"
        with urlopen(url, timeout=30) as answer:  # noqa: S310  ours
            content = json.load(answer)
        assert content["status"] == "success", content
        found: dict[str, Any] = content["data"]
        return found


@contextmanager
def prometheus_of(
    directory: Path, scrape: dict[str, Any], *, rules: Path | None = None
) -> Iterator[PrometheusServer]:
    """
    Args:
        scrape: a scrape configuration of the job ``mailboat``, each second.
    """
    directory.mkdir()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [] if rules is None else [str(rules)],
        "scrape_configs": [{"job_name": "mailboat", **scrape}],
    }
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{unused_port()}"
    words = [
        "prometheus",
        f"--config.file={path}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            server = PrometheusServer(f"http://{address}")
            until("Prometheus is ready", _ready(server), READY_SECONDS_MAX)
            yield server
        finally:
            process.terminate()
            process.wait(STOP_SECONDS_MAX)


def _ready(server: PrometheusServer) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            with urlopen(f"{server.url}/-/ready", timeout=5) as answer:  # noqa: S310  ours
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    return ready
