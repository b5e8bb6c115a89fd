"""Making one delta: every way is built, one is chosen and applied, and only then it is a delta.

The only place that knows the portfolio. Runs in a process of its own (`build_process`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mailboat_controller.deltas import applying, portfolio
from mailboat_controller.deltas.portfolio import Candidate, Portfolio, Row, Selection
from mailboat_schemas.deltas import Delta
from mailboat_schemas.patch_formats import WITHOUT_BASE
from mailboat_schemas.tensor_program import MalformedPatch


@dataclass(frozen=True, slots=True)
class Made:
    """``delta`` and where its patch is, or None where nothing is worth it; and every way's row."""

    delta: Delta | None
    patch: Path | None
    rows: tuple[Row, ...]


def make(
    base: Path | None,
    target: Path,
    *,
    memory_bytes_max: int,
    scratch: Path,
    whole: Sequence[Mapping[str, Any]] = (),
) -> Made:
    """The best way from ``base``, or without one the best way to download all of it.

    ``whole`` are rows of the ways without a base, if they were built before: they come out the
    same from every base, and take most of the time.

    Raises:
        OSError: the disk. MemoryError
    """
    known = _known(whole, target, scratch) if base is not None else ()
    formats = portfolio.FORMATS - (WITHOUT_BASE if known else frozenset())
    built = portfolio.build(base, target, scratch, formats)
    built = replace(built, candidates=(*known, *built.candidates))
    while True:
        selection = portfolio.select(built, memory_bytes_max=memory_bytes_max)
        chosen = selection.delta if base is not None else selection.full
        if chosen is None:
            return Made(None, None, selection.rows)
        delta = portfolio.describe(chosen, base, target)
        problem = _problem(delta, chosen, base)
        if problem is None:
            return Made(delta, chosen.patch, selection.rows)
        built = _without(built, chosen, problem)


def explain(
    base: Path | None, target: Path, *, memory_bytes_max: int, scratch: Path
) -> tuple[Row, ...]:
    """As `make` for whoever only wants to see; nothing is applied."""
    built = portfolio.build(base, target, scratch)
    selection: Selection = portfolio.select(built, memory_bytes_max=memory_bytes_max)
    return selection.rows


def _problem(delta: Delta, chosen: Candidate, base: Path | None) -> str | None:
    """What is wrong with a patch, by applying it."""
    try:
        made = applying.outcome_sha256(chosen.format, base, chosen.patch, chosen.target_length)
    except (MalformedPatch, IndexError, ValueError) as error:
        return f"it was built wrong: {error}"
    if made != delta.target:
        return f"it was built wrong: it makes a file with sha256 {made}"
    return None


def _without(built: Portfolio, wrong: Candidate, problem: str) -> Portfolio:
    rest = tuple(each for each in built.candidates if each is not wrong)
    return replace(built, candidates=rest, unfit={**built.unfit, wrong.format: problem})


def _known(rows: Sequence[Mapping[str, Any]], target: Path, scratch: Path) -> tuple[Candidate, ...]:
    length = target.stat().st_size
    return tuple(
        Candidate(
            format=row["format"],
            patch=scratch / "not-built-here",  # never chosen: with a base, deltas are
            size_bytes=row["size_bytes"],
            memory_bytes=row["memory_bytes"],
            build_seconds=row["build_seconds"],
            target_length=length,
        )
        for row in rows
        if row["format"] in WITHOUT_BASE and row["size_bytes"] is not None
    )
