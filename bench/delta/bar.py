"""The bar of DESIGN section 13, as arithmetic on what was measured. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.delta.fixtures import Kind
from bench.delta.peers import FULL, Outcome

NEAR = 1.02  # within 2 % of the smallest counts as level
OVER_BSDIFF_MAX = 0.90  # of bsdiff4's bytes, on floats
OVER_GENERIC_MAX = 0.75  # of the others', on floats
GENERIC = ("HDiffPatch", "xdelta3", "zstd --patch-from")
MEMORY_KIB_MAX = 64 << 10  # of applying, above the bare process
BUILD_TIMES_FASTER = 5.0  # than bsdiff4
WEIGHTS = (Kind.FLOATS, Kind.WHOLE, Kind.FEW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One pair with what every tool made of it. ``ours`` is what the selection rule ships."""

    name: str
    kind: Kind
    note: str
    content: str  # sha256 over both files: the same pair, or one of the same name
    base_bytes: int
    target_bytes: int
    ours: Outcome
    peers: Mapping[str, Outcome]
    candidates: Sequence[Outcome] = ()
    above_bare_kib: int | None = None

    def ratio(self, outcome: Outcome) -> float | None:
        """To ``zstd -19`` of the whole target, or to the target where there is no zstd."""
        whole = self.peers[FULL].patch_bytes if FULL in self.peers else None
        if outcome.patch_bytes is None:
            return None
        return outcome.patch_bytes / (whole or self.target_bytes)


@dataclass(frozen=True, slots=True)
class Verdict:
    words: str
    misses: tuple[str, ...] = field(default=())


def judge(row: Row) -> Verdict:
    """How we stand on one pair, and what of the bar was missed."""
    mine = row.ours.patch_bytes
    if mine is None:
        return Verdict("failed", (f"nothing was made: {row.ours.problem}",))
    sizes = {
        name: outcome.patch_bytes
        for name, outcome in row.peers.items()
        if outcome.patch_bytes is not None
    }
    if not sizes:
        return Verdict("no peer", ("there was nothing to compare with",))
    best = min(sizes, key=lambda name: sizes[name])
    misses = list(_margins(row.kind, mine, sizes))
    if mine > NEAR * sizes[best]:
        misses.insert(0, f"{_percent(mine, sizes[best])} over {best}")
    elif row.kind in WEIGHTS and mine >= sizes[best]:
        misses.insert(0, f"not strictly smaller than {best}")
    if row.above_bare_kib is not None and row.above_bare_kib > MEMORY_KIB_MAX:
        misses.append(f"applying takes {row.above_bare_kib / 1024:.0f} MiB above a bare process")
    return Verdict(_words(mine, sizes[best], best), tuple(misses))


def _words(mine: int, smallest: int, best: str) -> str:
    if mine <= smallest:
        return "smallest"
    words = f"{_percent(mine, smallest)} over {best}"
    return f"within 2 % ({words})" if mine <= NEAR * smallest else words


def _margins(kind: Kind, mine: int, sizes: Mapping[str, int]) -> Sequence[str]:
    if kind is not Kind.FLOATS:
        return ()
    bounds = {"bsdiff4": OVER_BSDIFF_MAX, **dict.fromkeys(GENERIC, OVER_GENERIC_MAX)}
    return [
        f"{mine / sizes[name]:.3f} of {name}, the bar is {bound:.2f}"
        for name, bound in bounds.items()
        if name in sizes and mine > bound * sizes[name]
    ]


def _percent(mine: int, smallest: int) -> str:
    return f"{100 * (mine / smallest - 1):.1f} % ({mine - smallest:,} bytes)"


def overall(rows: Sequence[Row]) -> list[str]:
    """What of the bar is about time, over all pairs of float weights together."""
    both = [
        (row.ours, row.peers["bsdiff4"])
        for row in rows
        if row.kind is Kind.FLOATS
        and "bsdiff4" in row.peers
        and row.peers["bsdiff4"].patch_bytes is not None
        and row.ours.patch_bytes is not None
    ]
    if not both:
        return []
    misses = []
    build = [sum(each.build_seconds or 0 for each in side) for side in zip(*both, strict=True)]
    if build[1] < BUILD_TIMES_FASTER * build[0]:
        misses.append(
            f"building is {build[1] / build[0]:.1f} times as fast as bsdiff4's, "
            f"the bar is {BUILD_TIMES_FASTER:.0f}"
        )
    large = max(rows, key=lambda row: row.target_bytes)
    theirs = large.peers.get("bsdiff4")
    if large.target_bytes >= 64 << 20 and theirs and theirs.apply_seconds:
        mine = large.ours.apply_seconds or 0.0
        if mine > theirs.apply_seconds:
            misses.append(
                f"{large.name}: applying takes {mine:.1f} s, bsdiff4's {theirs.apply_seconds:.1f} s"
            )
    return misses
