"""The figures of a run as a table, and whether they keep what was promised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mailboat_controller.rollout import binomial

ERROR = 0.005  # on each side: 99 % bounds
HOURS_OF_A_DAY = 24.0
PROMOTED_BAD_MAX = 0.01
PROMOTED_GOOD_MIN = 0.95
HALTED_MIN = 0.99
HALTED_HOURS_MAX = 3.0
FALSE_HALTS_MAX = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One rule on one trace at one share of broken devices."""

    rule: str
    trace: str
    devices: int
    broken: float
    runs: int
    promoted: int
    promoted_in_a_day: int
    halted: int
    halted_hours: float | None  # median of those that halted
    proofs: int = 0  # runs that were also decided by `decide` alone, with the same end


def bounds(count: int, runs: int) -> tuple[float, float]:
    return binomial.lower_bound(count, runs, ERROR), binomial.upper_bound(count, runs, ERROR)


def missed(cells: Sequence[Cell]) -> list[str]:
    """What of the promise the bounds do not keep, in words."""
    found = []
    for cell in cells:
        if not cell.rule.startswith("mailboat") or cell.devices != 200:
            continue
        where = f"{cell.rule}, {cell.trace}, {cell.broken:.1%} broken"
        if cell.broken == 0.1 and bounds(cell.promoted, cell.runs)[1] > PROMOTED_BAD_MAX:
            found.append(f"{where}: promotes {_share(cell.promoted, cell.runs)}, at most 1 %")
        if cell.broken <= 0.01 and bounds(cell.halted, cell.runs)[1] > FALSE_HALTS_MAX:
            found.append(f"{where}: halts {_share(cell.halted, cell.runs)}, at most 1 %")
        if cell.trace != "reference" or cell.rule != "mailboat":
            continue
        good = bounds(cell.promoted_in_a_day, cell.runs)[0]
        if cell.broken == 0.005 and good < PROMOTED_GOOD_MIN:
            share = _share(cell.promoted_in_a_day, cell.runs)
            found.append(f"{where}: promotes {share} within a day, at least 95 %")
        if cell.broken == 0.4:
            if bounds(cell.halted, cell.runs)[0] < HALTED_MIN:
                found.append(f"{where}: halts {_share(cell.halted, cell.runs)}, at least 99 %")
            if cell.halted_hours is None or cell.halted_hours >= HALTED_HOURS_MAX:
                found.append(f"{where}: halts after {cell.halted_hours} h, below 3 h")
    return found


def table(cells: Sequence[Cell], stories: Mapping[str, str]) -> str:
    lines = []
    for trace, story in stories.items():
        of_trace = [cell for cell in cells if cell.trace == trace]
        if not of_trace:
            continue
        lines += [f"## {trace}", "", story, ""]
        lines += [
            "| rule | devices | broken | promoted | within a day | halted | median h to halt |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        lines += [_row(cell) for cell in of_trace]
        lines.append("")
    return "\n".join(lines)


def _row(cell: Cell) -> str:
    hours = "–" if cell.halted_hours is None else f"{cell.halted_hours:.1f}"
    shares = " | ".join(
        _share(count, cell.runs) for count in (cell.promoted, cell.promoted_in_a_day, cell.halted)
    )
    return f"| {cell.rule} | {cell.devices} | {cell.broken:.1%} | {shares} | {hours} |"


def _share(count: int, runs: int) -> str:
    low, high = bounds(count, runs)
    return f"{100 * count / runs:.2f} % ({100 * low:.2f}–{100 * high:.2f})"
