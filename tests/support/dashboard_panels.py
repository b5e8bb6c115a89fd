"""The panels of the committed dashboards, their queries ready to be asked."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

DASHBOARDS = Path(__file__).parents[2] / "controller" / "dashboards" / "grafana" / "dashboards"


@dataclass(frozen=True)
class PanelQuery:
    board: str
    panel: str
    kind: str  # prometheus | sql | mqtt, by the data source's plugin
    text: str  # PromQL, SQL, or a topic
    fields: tuple[str, ...]
    unit: str

    @property
    def name(self) -> str:
        return f"{self.board}: {self.panel}"


def panel_queries(values: Mapping[str, str], *, every: str = ".*") -> Iterator[PanelQuery]:
    """
    Args:
        values: of the variables, by name; what is not there is ``every``.
    """
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            plugin = panel["datasource"]["type"]
            kind = {"prometheus": "prometheus", "grafana-mqtt-datasource": "mqtt"}.get(
                plugin, "sql"
            )
            shown = panel.get("options", {}).get("reduceOptions", {}).get("fields", "")
            for target in panel["targets"]:
                text = target.get("expr") or target.get("rawSql") or target["topic"]
                yield PanelQuery(
                    board=path.stem,
                    panel=panel["title"],
                    kind=kind,
                    text=_filled(text, values, every),
                    fields=tuple(re.findall(r"[a-z]\w+", shown)),
                    unit=panel["fieldConfig"]["defaults"]["unit"],
                )


def _filled(text: str, values: Mapping[str, str], every: str) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return values.get(name, "30s" if name == "__rate_interval" else every)

    return re.sub(r"\$\{(\w+)\}|\$(\w+)", value, text)
