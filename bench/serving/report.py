"""What was measured, as a table and a plot. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

OURS = "mailboat"
PAGE, PLOT = "serving-results.md", "serving-results.svg"
COLOURS = ("#c2410c", "#2563eb")  # of ours, of the peer
WIDTH, LEFT, RIGHT, TOP, LINE, BAR, BOTTOM = 900, 330, 60, 44, 24, 14, 34
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the bare loop's rows a second


@dataclass(frozen=True, slots=True)
class Line:
    """One setting. ``per_second`` counts rows; ratios are to the bare loop at the same batch."""

    what: str
    clients: int
    rows: int  # of a request
    batch: int  # rows that run as one at most
    server: str
    per_second: float
    p50_ms: float
    p99_ms: float
    bare_per_second: float
    failed: int = 0

    @property
    def ours(self) -> bool:
        return self.server == OURS

    @property
    def ratio(self) -> float:
        return self.per_second / self.bare_per_second


def table(lines: Sequence[Line]) -> str:
    head = "| | clients | rows | batch | server | rows/s | of bare | p50 | p99 |\n"
    head += "|---|--:|--:|--:|---|--:|--:|--:|--:|\n"
    return head + "".join(
        f"| {line.what} | {line.clients} | {line.rows} | {line.batch} | {line.server} "
        f"| {line.per_second:.0f} | {line.ratio:.2f} | {line.p50_ms:.2f} ms | {line.p99_ms:.2f} ms"
        f"{f' ({line.failed} failed)' if line.failed else ''} |\n"
        for line in lines
    )


def plot(lines: Sequence[Line]) -> str:
    """Rows per second beside the bare loop's, one bar a line of the table."""
    title = "Rows per second, as a part of what a bare onnxruntime loop does at the same batch size"
    height = TOP + LINE * len(lines) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="12" role="img">',
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" fill="#57534e">{title}; further right is better</text>',
        *_axis(TOP + LINE * len(lines)),
        *(part for number, line in enumerate(lines) for part in _bar(line, TOP + LINE * number)),
    ]
    return "\n".join([*parts, "</svg>", ""])


def _axis(bottom: int) -> Iterator[str]:
    for tick in TICKS:
        x = LEFT + _width(tick)
        yield f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#d6d3d1"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>'


def _bar(line: Line, top: int) -> Iterator[str]:
    label, width = escape(f"{line.what}: {line.server}"), _width(line.ratio)
    colour = COLOURS[0 if line.ours else 1]
    y = top + (LINE + BAR) // 2 - 2
    yield f'<text x="{LEFT - 10}" y="{y}" text-anchor="end">{label}</text>'
    yield (
        f'<rect x="{LEFT}" y="{top + (LINE - BAR) // 2}" width="{max(1.0, width):.1f}"'
        f' height="{BAR}" fill="{colour}"/>'
    )
    yield f'<text x="{LEFT + width + 6:.1f}" y="{y}">{line.ratio:.2f}</text>'


def _width(ratio: float) -> float:
    return min(1.1, max(0.0, ratio)) * (WIDTH - LEFT - RIGHT) / 1.1
