"""What was measured, as a table, and as the page in docs."""

from collections.abc import Sequence
from dataclasses import dataclass

PAGE = "serving-results.md"


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


def bars(lines: Sequence[Line]) -> str:
    """Rows per second beside the bare loop, in characters: it can be read where it stands."""
    width = 40
    drawn = []
    for line in lines:
        filled = round(min(1.0, line.ratio) * width)
        label = f"{line.what}, {line.server}"[:44]
        drawn.append(f"{label:44} {'#' * filled:{width}} {line.ratio:.2f}")
    return "\n".join(drawn)
