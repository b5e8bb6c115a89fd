"""Latencies as an SVG, and for a terminal: a row for each batch size, p50 to p99, and the limit.

Written by hand: a picture of a dozen lines needs no plotting library. Pure.
"""

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from mailboat_controller.bundles.gates import figure
from mailboat_controller.bundles.latencies import Latency

ROWS_MAX = 64  # the first so many trials and batch sizes; more are no picture
WIDTH, LEFT, RIGHT, TOP, ROW, BOTTOM = 860, 190, 40, 70, 30, 44
TICKS = 5
COLUMNS = 48  # of a bar in a terminal
INK, PALE, BAR, LIMIT = "#292524", "#d6d3d1", "#2563eb", "#c2410c"
STYLE = 'font-family="sans-serif" font-size="12" role="img"'
_ROOM = 1.08  # beyond the largest value


def latency_plot(title: str, rows: Sequence[Latency], limit_ms: float | None) -> str:
    """Milliseconds on a linear scale from 0. The limit is drawn, or if it is far off, named."""
    shown = rows[:ROWS_MAX]
    largest = max((row.p99 for row in shown), default=1.0) or 1.0
    # A limit of a hundred times what was measured would press the bars to nothing.
    near = limit_ms is not None and limit_ms <= 4 * largest
    end = _ROOM * max(largest, limit_ms if near and limit_ms is not None else 0.0)
    height = TOP + ROW * max(1, len(shown)) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {STYLE}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="14" fill="{INK}">{escape(title)}</text>',
        *_legend(limit_ms, near),
        *_axis(end, TOP + ROW * max(1, len(shown))),
    ]
    for number, row in enumerate(shown):
        parts += _row(row, TOP + ROW * number + ROW // 2, end)
    if near and limit_ms is not None:
        x = _place(limit_ms, end)
        parts.append(
            f'<path d="M{x:.1f} {TOP}V{TOP + ROW * len(shown)}" stroke="{LIMIT}"'
            ' stroke-width="2" stroke-dasharray="5 3"/>'
        )
    return "\n".join([*parts, "</svg>", ""])


def text_plot(rows: Sequence[Latency], limit_ms: float | None) -> str:
    """The same for a terminal: a bar to p50, a lighter one to p95, a line to p99."""
    shown = rows[:ROWS_MAX]
    largest = max((row.p99 for row in shown), default=0.0) or 1.0
    near = limit_ms is not None and limit_ms <= 4 * largest
    end = max(largest, limit_ms) if near and limit_ms is not None else largest
    width = max(len(row.label) for row in shown)
    lines = [_text_row(row, width, end, limit_ms if near else None) for row in shown]
    words = f"{'':<{width}}  █ p50  ▒ p95  ─ p99"
    if limit_ms is not None:
        words += f"  │ p95 may be {figure(limit_ms)} ms{'' if near else ', far right of this'}"
    return "\n".join([*lines, words])


def _text_row(row: Latency, width: int, end: float, limit_ms: float | None) -> str:
    cells = [" "] * COLUMNS
    for sign, ms in (("─", row.p99), ("▒", row.p95), ("█", row.p50)):
        until = max(1, round(ms / end * COLUMNS))
        cells[:until] = [sign] * until
    if limit_ms is not None:
        cells[min(COLUMNS - 1, int(limit_ms / end * COLUMNS))] = "│"
    return f"{row.label:<{width}}  {''.join(cells).rstrip()}"


def _place(ms: float, end: float) -> float:
    return LEFT + ms / end * (WIDTH - LEFT - RIGHT)


def _axis(end: float, bottom: int) -> Iterator[str]:
    for tick in range(TICKS + 1):
        ms = end * tick / TICKS
        x = _place(ms, end)
        yield f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="{PALE}"/>'
        label = f"{figure(ms)} ms" if tick == TICKS else figure(ms)
        yield _text(x, bottom + 16, label, "middle")


def _row(row: Latency, y: int, end: float) -> Iterator[str]:
    p50, p95, p99 = (_place(ms, end) for ms in (row.p50, row.p95, row.p99))
    yield _text(LEFT - 12, y + 4, row.label, "end")
    box = f'x="{LEFT}" y="{y - 8}" width="{max(1.0, p95 - LEFT):.1f}" height="16"'
    yield f'<rect {box} fill="{BAR}" fill-opacity=".35"/>'
    yield f'<path d="M{p95:.1f} {y}H{p99:.1f}M{p99:.1f} {y - 6}v12" stroke="{BAR}" fill="none"/>'
    yield f'<path d="M{p50:.1f} {y - 9}v18" stroke="{BAR}" stroke-width="3"/>'


def _legend(limit_ms: float | None, near: bool) -> Iterator[str]:
    words = "thick line p50, bar to p95, whisker to p99"
    if limit_ms is not None:
        words += f"; {'dashed: ' if near else ''}p95 may be {figure(limit_ms)} ms"
    yield f'<text x="{LEFT}" y="46" fill="#57534e">{escape(words)}</text>'


def _text(x: float, y: int, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" fill="{INK}">{escape(words)}</text>'
