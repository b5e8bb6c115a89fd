"""The table and the plot, in Markdown and SVG, from what was measured. Pure."""

import math
from collections.abc import Callable, Iterator, Sequence
from xml.sax.saxutils import escape

from bench.delta.bar import MEMORY_KIB_MAX, Row, judge
from bench.delta.ours import OURS
from bench.delta.peers import FULL, Outcome

PEERS = ("zstd --patch-from", "bsdiff4", "HDiffPatch", "xdelta3", "casync", "zchunk")
COLOURS = {
    OURS: "#c2410c",
    "zstd --patch-from": "#2563eb",
    "bsdiff4": "#15803d",
    "HDiffPatch": "#7e22ce",
    "xdelta3": "#0e7490",
    "casync": "#78716c",
    "zchunk": "#a8a29e",
}
WIDTH, LEFT, RIGHT, TOP, LINE, GAP = 960, 160, 30, 64, 22, 48
LINEAR_FROM, LINEAR_MAX = 0.05, 1.1  # ratios
DECADES = 6  # of the logarithmic scale, down from 1


def sizes(rows: Sequence[Row]) -> Iterator[str]:
    yield f"| update | target, bytes | zstd -19 | {OURS} | {' | '.join(PEERS)} | |"
    yield "|---" * (len(PEERS) + 5) + "|"
    for row in rows:
        ratios = {OURS: row.ratio(row.ours)}
        ratios |= {name: row.ratio(outcome) for name, outcome in row.peers.items()}
        best = min((ratio for name, ratio in ratios.items() if ratio is not None), default=0.0)
        cells = [_ratio(ratios.get(name), best) for name in (OURS, *PEERS)]
        whole = row.peers[FULL].patch_bytes if FULL in row.peers else None
        yield (
            f"| {row.name} | {row.target_bytes:,} | {whole or 0:,} | {' | '.join(cells)} "
            f"| {judge(row).words} |"
        )


def costs(rows: Sequence[Row]) -> Iterator[str]:
    """Bytes, and what applying takes: MiB of the whole process, seconds."""
    tools = (OURS, FULL, *PEERS)
    yield f"| update | format | above bare | {' | '.join(tools)} |"
    yield "|---" * (len(tools) + 3) + "|"
    for row in rows:
        above = "" if row.above_bare_kib is None else f"{row.above_bare_kib / 1024:.0f}"
        cells = [_cost(row.ours if tool == OURS else row.peers.get(tool)) for tool in tools]
        yield f"| {row.name} | {row.ours.detail} | {above} | {' | '.join(cells)} |"


def builds(rows: Sequence[Row]) -> Iterator[str]:
    tools = (OURS, FULL, *PEERS)
    yield f"| update | {' | '.join(tools)} |"
    yield "|---" * (len(tools) + 1) + "|"
    for row in rows:
        outcomes = [row.ours if tool == OURS else row.peers.get(tool) for tool in tools]
        cells = [_seconds(outcome.build_seconds if outcome else None) for outcome in outcomes]
        yield f"| {row.name} | {' | '.join(cells)} |"


def pairs(rows: Sequence[Row]) -> Iterator[str]:
    yield "| update | kind | what it is | base, bytes |"
    yield "|---|---|---|---|"
    for row in rows:
        yield f"| {row.name} | {row.kind} | {row.note} | {row.base_bytes:,} |"


def page(
    rows: Sequence[Row],
    *,
    tools: Sequence[str],
    missed: Sequence[str],
    gaps: Sequence[str],
    plot: str,
) -> str:
    """docs/delta-results.md."""
    level = sum(judge(row).words != "failed" and not judge(row).misses for row in rows)
    smallest = sum(judge(row).words == "smallest" for row in rows)
    lines = [
        "# What an update costs on the link",
        "",
        "Written by `.venv/bin/python -m bench.delta --full --write docs`. For every pair: the",
        "bytes that each tool would have a device fetch, as a part of `zstd -19` of the whole new",
        "file. What every tool made was compared with the new file byte for byte. Bold is the",
        f"smallest of its line. {OURS}'s column is what its selection rule ships.",
        "",
        f"{smallest} of {len(rows)} pairs: {OURS} is the smallest. {level} of {len(rows)} meet all",
        "of the bar: at most 2 % over the smallest; strictly smaller on fine-tuned weights; on",
        "float weights at least 10 % below bsdiff4 and 25 % below HDiffPatch, xdelta3 and zstd;",
        f"applied within {MEMORY_KIB_MAX >> 10} MiB above a bare process.",
        "",
        f"![Bytes to fetch as a part of zstd -19 of the whole, by tool]({plot})",
        "",
        "## Bytes",
        "",
        *sizes(rows),
        "",
        "## Where the bar is missed",
        "",
        *([f"* {miss}" for miss in missed] or ["Nowhere."]),
        *(f"* {gap}" for gap in gaps),
        "",
        "## Applying: peak memory in MiB / seconds",
        "",
        f"Memory is the whole process's high water mark; for {OURS}, bsdiff4 and HDiffPatch that",
        "holds a Python interpreter. *Above bare* is ours without it, in MiB. Ours also pays for",
        "its confinement and for writing the file durably, which the others do not do. Times are",
        "of one run each on two cores that had other work, too; those of the other tools may be of",
        "an earlier run on the same bytes (`--peers-from`).",
        "",
        *costs(rows),
        "",
        "## Building: seconds",
        "",
        "Ours is the patch that ships; the controller builds the other candidates, too, to choose.",
        "",
        *builds(rows),
        "",
        "## The pairs",
        "",
        *pairs(rows),
        "",
        "Fine-tunes are of magika's network (Apache-2.0), seeded, by real gradients on real files;",
        "retrained and re-exported ones are as their makers published them. A new training keeps",
        "hardly anything of the old weights, and no tool makes much of that: what is gained there",
        "is gained by compressing weights as numbers.",
        "",
        "## Tools",
        "",
        *[f"* {tool}" for tool in tools],
        "",
    ]
    return "\n".join(lines)


def plot(rows: Sequence[Row]) -> str:
    """One line a pair, one mark a tool: new weights on a linear scale, the rest on a logarithmic
    one, because they are hundreds of times apart."""
    linear = [row for row in rows if _smallest(row) >= LINEAR_FROM]
    logarithmic = [row for row in rows if _smallest(row) < LINEAR_FROM]
    second = TOP + LINE * len(linear) + GAP
    height = second + LINE * len(logarithmic) + GAP // 2
    ticks = [number / 5 for number in range(6)]
    decades = [10.0**power for power in range(-DECADES, 1)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="12" role="img">',
        "<title>Bytes to fetch as a part of zstd -19 of the whole file, by tool</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_legend(),
        *_panel(linear, TOP, ticks, lambda ratio: ratio / LINEAR_MAX),
        *_panel(logarithmic, second, decades, lambda ratio: 1 + math.log10(ratio) / DECADES),
    ]
    return "\n".join([*parts, "</svg>", ""])


def _smallest(row: Row) -> float:
    ratios = [row.ratio(outcome) for outcome in (row.ours, *row.peers.values())]
    return min((ratio for ratio in ratios if ratio is not None), default=1.0)


def _panel(
    rows: Sequence[Row], top: int, ticks: Sequence[float], scale: Callable[[float], float]
) -> Iterator[str]:
    """``scale`` takes a ratio to a part of the width; what falls outside is drawn at the edge."""

    def place(ratio: float) -> float:
        return LEFT + min(1.0, max(0.0, scale(ratio))) * (WIDTH - LEFT - RIGHT)

    bottom = top + LINE * len(rows)
    for tick in ticks:
        x = place(tick)
        yield f'<path d="M{x:.1f} {top}V{bottom}" stroke="#d6d3d1"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
    for number, row in enumerate(rows):
        yield from _line(row, top + LINE * number + LINE // 2, place)


def _line(row: Row, y: int, place: Callable[[float], float]) -> Iterator[str]:
    yield f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(row.name)}</text>'
    for name in PEERS:
        outcome = row.peers.get(name)
        ratio = row.ratio(outcome) if outcome else None
        if ratio is not None:
            x, colour = place(ratio), COLOURS[name]
            yield f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{colour}" fill-opacity=".75"/>'
    ratio = row.ratio(row.ours)
    if ratio is not None:
        yield f'<path d="M{place(ratio):.1f} {y - 7}l6 7l-6 7l-6 -7z" fill="{COLOURS[OURS]}"/>'


def _legend() -> Iterator[str]:
    x = LEFT
    for name, colour in COLOURS.items():
        yield f'<circle cx="{x}" cy="24" r="5" fill="{colour}"/>'
        yield f'<text x="{x + 10}" y="28">{escape(name)}</text>'
        x += 32 + 7 * len(name)
    note = (
        "part of zstd -19 of the whole file: above on a linear, below on a logarithmic scale; "
        "further left is better"
    )
    yield f'<text x="{LEFT}" y="50" fill="#57534e">{note}</text>'


def _ratio(ratio: float | None, best: float) -> str:
    if ratio is None:
        return "–"
    text = f"{ratio:.3f}" if ratio >= 0.1 else f"{ratio:.5f}" if ratio >= 0.001 else f"{ratio:.1e}"
    return f"**{text}**" if ratio == best else text


def _cost(outcome: Outcome | None) -> str:
    if outcome is None or outcome.patch_bytes is None:
        return "–"
    memory = "?" if outcome.apply_peak_kib is None else f"{outcome.apply_peak_kib / 1024:.0f}"
    return f"{memory} / {_seconds(outcome.apply_seconds)}"


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}"
