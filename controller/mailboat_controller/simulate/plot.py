"""Exposure against allowance, as an SVG written by hand. Pure.

Devices are on a logarithmic scale: a wave of five and one of all are both to be seen.
"""

import math
from collections.abc import Callable, Sequence
from textwrap import shorten
from xml.sax.saxutils import escape

from mailboat_controller.simulate.exposure import Point, thinned
from mailboat_controller.simulate.report import duration
from mailboat_controller.simulate.running import Ran

POINTS_MAX = 600
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 420, 80, 30, 60, 50
TICKS = 6
TITLE_CHARACTERS_MAX = 110
INK, PALE = "#292524", "#d6d3d1"
STYLE = 'font-family="sans-serif" font-size="12" role="img"'
_LINES: Sequence[tuple[str, str, Callable[[Point], int]]] = (
    ("allowed", "#a8a29e", lambda point: point.allowed),
    ("exposed", "#2563eb", lambda point: point.exposed),
    ("good", "#15803d", lambda point: point.good),
    ("bad", "#c2410c", lambda point: point.bad),
)


def exposure_plot(ran: Ran) -> str:
    points = thinned(ran.exposure.points, POINTS_MAX)
    ends = max(ran.seconds, 1.0)
    most = max([10, *(max(point.allowed, point.exposed) for point in points)])
    title = f"{ran.scenario.metadata.name}: {ran.rollout.phase}, {ran.rollout.because}"
    shown = shorten(title, TITLE_CHARACTERS_MAX, placeholder=" …")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {STYLE}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="14" fill="{INK}">{escape(shown)}</text>',
        *_grid(ends, most),
    ]
    for number, (name, colour, value) in enumerate(_LINES):
        x = LEFT + 120 * number
        parts.append(f'<rect x="{x}" y="36" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20}" y="43" fill="{INK}">{name}</text>')
        path = _steps([(_x(p.seconds, ends), _y(value(p), most)) for p in points], _x(ends, ends))
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return "\n".join([*parts, "</svg>", ""])


def _grid(ends: float, most: int) -> list[str]:
    parts = []
    for power in range(math.floor(math.log10(most)) + 1):
        y = _y(10**power, most)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{PALE}"/>')
        label = f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{INK}">'
        parts.append(f"{label}{10**power}</text>")
    for tick in range(TICKS + 1):
        seconds = ends * tick / TICKS
        label = f'<text x="{_x(seconds, ends):.1f}" y="{HEIGHT - 24}" text-anchor="middle"'
        parts.append(f'{label} fill="{INK}">{duration(seconds)}</text>')
    return parts


def _steps(places: Sequence[tuple[float, float]], right: float) -> str:
    """A line that holds its height until the next point."""
    if not places:
        return f"M{LEFT} {HEIGHT - BOTTOM}"
    x, y = places[0]
    path = [f"M{x:.1f} {y:.1f}"]
    path += [f"H{x:.1f}V{y:.1f}" for x, y in places[1:]]
    return "".join([*path, f"H{right:.1f}"])


def _x(seconds: float, ends: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, seconds / ends)


def _y(devices: int, most: int) -> float:
    """0 and 1 stand on the ground line."""
    share = math.log10(max(1, devices)) / math.log10(max(10, most))
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
