"""Draw every dashboard's panels from what a running Prometheus answers, one SVG each.

``python docs/dashboards/render.py http://127.0.0.1:9090 [directory]``. It needs no Grafana: the
queries are those of ``controller/dashboards/grafana/dashboards``, for all values of every variable.
"""

import json
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
BOARDS = HERE.parents[1] / "controller" / "dashboards" / "grafana" / "dashboards"
SECONDS, STEP_SECONDS = 120, 2
COLUMN, ROW, GAP, TITLE = 50, 26, 8, 40
INK, FRAME, FAINT = "#1f2933", "#c3cad2", "#66727f"
LINES = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#4b5563", "#be185d")
LEGEND_MAX = 6
Series = list[tuple[str, list[tuple[float, float]]]]


def main(url: str, directory: Path) -> None:
    for path in sorted(BOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        panels = [p for p in board["panels"] if p["datasource"]["type"] == "prometheus"]
        if panels:
            name = path.stem.removeprefix("mailboat-")
            (directory / f"{name}.svg").write_text(_drawn(url, board["title"], panels))


def _drawn(url: str, title: str, panels: Sequence[dict[str, Any]]) -> str:
    height = TITLE + max((p["gridPos"]["y"] + p["gridPos"]["h"]) * ROW for p in panels)
    width = 24 * COLUMN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{GAP}" y="26" font-size="18" fill="{INK}">{escape(title)}</text>',
    ]
    for panel in panels:
        parts += _panel(panel, _series(url, panel))
    return "\n".join([*parts, "</svg>", ""])


def _series(url: str, panel: dict[str, Any]) -> Series:
    found: Series = []
    end = time.time()
    for target in panel["targets"]:
        expr = re.sub(r"\$__rate_interval", "60s", target["expr"])
        expr = re.sub(r"\$\{?\w+\}?", ".*", expr)
        query = {"query": expr, "start": end - SECONDS, "end": end, "step": STEP_SECONDS}
        with urlopen(f"{url}/api/v1/query_range?{urlencode(query)}", timeout=30) as answer:  # noqa: S310
            samples = json.load(answer)["data"]["result"]
        for sample in samples:
            points = [(at, float(value)) for at, value in sample["values"]]
            points = [point for point in points if math.isfinite(point[1])]
            if points:
                found.append((_legend(target.get("legendFormat", ""), sample["metric"]), points))
    return found


def _legend(pattern: str, labels: dict[str, str]) -> str:
    if pattern in ("", "__auto"):
        own = (value for name, value in labels.items() if name not in ("__name__", "instance"))
        return " ".join(value for value in own if value != "mailboat")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), pattern)


def _panel(panel: dict[str, Any], series: Series) -> Iterator[str]:
    place = panel["gridPos"]
    x, y = place["x"] * COLUMN + GAP / 2, TITLE + place["y"] * ROW
    width, height = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
    yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="none" stroke="{FRAME}"/>'
    yield f'<text x="{x + 8}" y="{y + 18}" fill="{INK}">{escape(panel["title"])}</text>'
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if not series:
        yield f'<text x="{x + 8}" y="{y + 44}" fill="{FAINT}">no data</text>'
    elif panel["type"] == "timeseries":
        defaults = panel["fieldConfig"]["defaults"]
        shown = _stacked(series) if "stacking" in defaults["custom"] else series
        top = defaults.get("max", 0.0)
        yield from _chart(shown, unit, top, x + 8, y + 36, width - 16, height - 44)
    elif panel["type"] == "table":
        for number, (name, _) in enumerate(series[: int((height - 46) // 18)]):
            yield f'<text x="{x + 8}" y="{y + 46 + 18 * number}" fill="{INK}">{escape(name)}</text>'
    else:
        yield from _values(series, unit, x + 8, y + 46, width - 16, height - 46)


def _stacked(series: Series) -> Series:
    """Each above those before it."""
    below: dict[float, float] = {}
    found: Series = []
    for name, points in series:
        for at, value in points:
            below[at] = below.get(at, 0.0) + value
        found.append((name, [(at, below[at]) for at, _ in points]))
    return found


def _values(
    series: Series, unit: str, x: float, y: float, width: float, height: float
) -> Iterator[str]:
    if len(series) == 1 and not series[0][0]:
        value = _said(series[0][1][-1][1], unit)
        yield f'<text x="{x}" y="{y + 34}" font-size="28" fill="{LINES[0]}">{value}</text>'
        return
    most = max(abs(points[-1][1]) for _, points in series) or 1.0
    for number, (name, points) in enumerate(series[: int(height // 18)]):
        top, value = y + 18 * number - 12, points[-1][1]
        length = max(1.0, (width - 90) * abs(value) / most)
        colour = LINES[number % len(LINES)]
        yield (
            f'<rect x="{x}" y="{top}" width="{length:.1f}" height="14" fill="{colour}" '
            'fill-opacity="0.25"/>'
        )
        yield f'<text x="{x + 4}" y="{top + 11}" fill="{INK}">{escape(name)}</text>'
        yield (
            f'<text x="{x + width}" y="{top + 11}" text-anchor="end" fill="{INK}">'
            f"{_said(value, unit)}</text>"
        )


def _chart(
    series: Series, unit: str, top: float, x: float, y: float, width: float, height: float
) -> Iterator[str]:
    """Args: top: how far the axis goes at least."""
    shown = series[:LEGEND_MAX]
    if len(series) > LEGEND_MAX:
        shown = [*series[: LEGEND_MAX - 1], (f"and {len(series) - LEGEND_MAX + 1} more", [])]
    plot = height - 15 * ((len(shown) + 1) // 2) - 6
    first = min(points[0][0] for _, points in series)
    last = max(points[-1][0] for _, points in series)
    most = max(top, *(max(value for _, value in points) for _, points in series))
    least = min(0.0, *(min(value for _, value in points) for _, points in series))
    if most == least:
        most = least + 1.0
    span_x, span_y = max(last - first, 1.0), most - least
    for value in (least, (least + most) / 2, most):
        at = y + plot - plot * (value - least) / span_y
        yield f'<path d="M{x + 60} {at:.1f}H{x + width}" stroke="{FRAME}" stroke-width="0.5"/>'
        yield (
            f'<text x="{x + 54}" y="{at + 4:.1f}" text-anchor="end" font-size="10" '
            f'fill="{FAINT}">{_said(value, unit)}</text>'
        )
    for number, (_, points) in enumerate(series):
        path = " ".join(
            f"{x + 60 + (width - 60) * (at - first) / span_x:.1f},"
            f"{y + plot - plot * (value - least) / span_y:.1f}"
            for at, value in points
        )
        colour = LINES[number % len(LINES)]
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for number, (name, points) in enumerate(shown):
        at_x, at_y = x + (number % 2) * width / 2, y + plot + 18 + 15 * (number // 2)
        colour = LINES[number % len(LINES)] if points else "none"
        yield f'<rect x="{at_x}" y="{at_y - 8}" width="8" height="8" fill="{colour}"/>'
        yield (
            f'<text x="{at_x + 12}" y="{at_y}" font-size="10" fill="{INK}">'
            f"{escape(name[: int(width / 12)])}</text>"
        )


def _said(value: float, unit: str) -> str:
    match unit:
        case "percentunit":
            return f"{100 * value:.1f} %"
        case "s" if abs(value) < 1:
            return f"{1000 * value:.3g} ms"
        case "s" if abs(value) > 172_800:
            return f"{value / 86_400:.0f} d"
        case "s":
            return f"{value:.3g} s"
        case "bool_on_off":
            return "on" if value else "off"
        case "bytes":
            return _bytes(value)
        case "reqps" | "cps":
            return f"{value:.3g}/s"
        case _:
            return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
