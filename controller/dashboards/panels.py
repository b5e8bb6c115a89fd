"""Panels and dashboards as Grafana reads them: every one with a unit, a description, a templated
source. Values go into a grid of 24 columns from left to right."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

COLUMNS = 24
Source = Literal["prometheus", "sql", "mqtt"]
_PLUGIN: dict[Source, str] = {
    "prometheus": "prometheus",
    "sql": "grafana-postgresql-datasource",
    "mqtt": "grafana-mqtt-datasource",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One of: PromQL with a legend, portable SQL, or a topic below the fleet's stats/."""

    expr: str = ""
    legend: str = ""
    sql: str = ""
    topic: str = ""
    fields: tuple[str, ...] = ()  # of the topic's JSON, that the panel shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    source: Source = "prometheus"
    kind: Literal["timeseries", "stat", "table", "bargauge"] = "timeseries"
    width: int = 8
    height: int = 7
    most: float | None = None
    stacked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """What a reader chooses: a label's values, or a word they type."""

    name: str
    of: str = ""  # label_values(metric, label)
    one: bool = False  # not several and not all, as in a topic
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    uid: str
    title: str
    text: str
    panels: tuple[Panel, ...]
    variables: tuple[Variable, ...] = ()
    since: str = "now-6h"
    refresh: str = "30s"
    tags: tuple[str, ...] = field(default=("mailboat",))


def prom(expr: str, legend: str = "") -> Query:
    return Query(expr=expr, legend=legend)


def stat(
    title: str,
    text: str,
    unit: str,
    *queries: Query,
    width: int = 4,
    height: int = 4,
    most: float | None = None,
) -> Panel:
    """The newest value, large."""
    return Panel(
        title=title,
        text=text,
        unit=unit,
        queries=queries,
        kind="stat",
        width=width,
        height=height,
        most=most,
    )


def chart(
    title: str,
    text: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    most: float | None = None,
    stacked: bool = False,
) -> Panel:
    """Lines over time."""
    return Panel(
        title=title,
        text=text,
        unit=unit,
        queries=queries,
        width=width,
        most=most,
        stacked=stacked,
    )


def bars(
    title: str, text: str, unit: str, *queries: Query, width: int = 8, most: float | None = None
) -> Panel:
    """The newest values, side by side."""
    return Panel(
        title=title,
        text=text,
        unit=unit,
        queries=queries,
        kind="bargauge",
        width=width,
        most=most,
    )


def table(title: str, text: str, query: Query, width: int = 12) -> Panel:
    return Panel(title=title, text=text, unit="short", queries=(query,), kind="table", width=width)


def sql_table(title: str, text: str, sql: str, width: int = 12) -> Panel:
    return Panel(
        title=title,
        text=text,
        unit="none",
        queries=(Query(sql=sql),),
        source="sql",
        kind="table",
        width=width,
    )


def live(title: str, text: str, topic: str, *fields: str, unit: str = "short") -> Panel:
    """Fields of one retained message, as it changes."""
    query = Query(topic=topic, fields=fields)
    return Panel(
        title=title, text=text, unit=unit, queries=(query,), source="mqtt", kind="stat", width=12
    )


def rendered(board: Board) -> dict[str, Any]:
    """The dashboard's JSON."""
    asked: set[Source] = {panel.source for panel in board.panels}
    if any(each.of for each in board.variables):
        asked.add("prometheus")
    sources = sorted(asked)
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.text,
        "tags": list(board.tags),
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": board.refresh,
        "time": {"from": board.since, "to": "now"},
        "templating": {
            "list": [
                *(_source_variable(source) for source in sources),
                *(_variable(each) for each in board.variables),
            ]
        },
        "annotations": {"list": []},
        "links": [
            {
                "title": "Mailboat",
                "type": "dashboards",
                "tags": ["mailboat"],
                "asDropdown": True,
                "keepTime": True,
            }
        ],
        "panels": list(_placed(board.panels)),
    }


def _source_variable(source: Source) -> dict[str, Any]:
    return {
        "name": source,
        "label": {"prometheus": "Prometheus", "sql": "Database", "mqtt": "Broker"}[source],
        "type": "datasource",
        "query": _PLUGIN[source],
        "hide": 0,
    }


def _variable(each: Variable) -> dict[str, Any]:
    label = each.label or each.name.replace("_", " ").capitalize()
    if not each.of:
        return {
            "name": each.name,
            "label": label,
            "type": "textbox",
            "query": "",
            "current": {"text": "", "value": ""},
        }
    every = {"includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return {
        "name": each.name,
        "label": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${prometheus}"},
        "query": {"query": each.of, "refId": "variable"},
        "definition": each.of,
        "refresh": 2,
        "multi": not each.one,
        "sort": 1,
        # Without a current value Grafana takes the first that there is.
        **({} if each.one else every),
    }


def _placed(panels: Sequence[Panel]) -> Sequence[dict[str, Any]]:
    placed, x, y, row_height = [], 0, 0, 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
        placed.append(_panel(panel, number, place))
        x, row_height = x + panel.width, max(row_height, panel.height)
    return placed


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": _PLUGIN[panel.source], "uid": f"${{{panel.source}}}"}
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.most is not None:
        defaults |= {"min": 0, "max": panel.most}
    if panel.kind == "timeseries":
        custom: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never"}
        if panel.stacked:
            custom["stacking"] = {"mode": "normal", "group": "A"}
        defaults["custom"] = custom
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [
            _target(panel, query, chr(ord("A") + index), source)
            for index, query in enumerate(panel.queries)
        ],
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if panel.kind == "table":
        return {"showHeader": True, "cellHeight": "sm"}
    fields = [name for query in panel.queries for name in query.fields]
    shown = f"/^({'|'.join(fields)})$/" if fields else ""
    return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": shown, "values": False}}


def _target(panel: Panel, query: Query, ref: str, source: dict[str, str]) -> dict[str, Any]:
    target: dict[str, Any] = {"refId": ref, "datasource": source}
    if panel.source == "sql":
        return target | {"rawSql": query.sql, "format": "table", "rawQuery": True}
    if panel.source == "mqtt":
        return target | {"topic": f"mb/1/${{fleet}}/stats/{query.topic}"}
    instant = panel.kind != "timeseries"
    return target | {
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": instant,
        "range": not instant,
    }
