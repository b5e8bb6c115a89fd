"""Which of the deltas that the director names this device can use. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mailboat_schemas.deltas import Delta
from mailboat_schemas.patch_formats import (
    TENSOR_DELTA,
    WITHOUT_BASE,
    ZSTD_PATCH,
    ZSTD_PATCH_BASE_BYTES_MAX,
)

FORMATS = WITHOUT_BASE | {TENSOR_DELTA, ZSTD_PATCH}


@dataclass(frozen=True, slots=True)
class Offered:
    """What the director offers; ``desired`` tells one desired state from another."""

    desired: str = ""
    deltas: tuple[Delta, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is there for one file that is lacking. Sizes in bytes."""

    target: str
    target_length: int  # of the release document, not of the delta
    staged_bytes: int  # of the target, from an interrupted download of the whole
    free_bytes: int
    memory_budget_bytes: int


def choose(
    deltas: Iterable[Delta], at: Circumstances, held_bytes: Callable[[str], int | None]
) -> Delta | None:
    """The first usable one, in the director's order; None is a download of the whole file.

    ``held_bytes`` is the size of a file in the store, by digest. Whether it is whole is only known
    when it is opened.
    """
    return next((each for each in deltas if _is_usable(each, at, held_bytes)), None)


def _is_usable(delta: Delta, at: Circumstances, held_bytes: Callable[[str], int | None]) -> bool:
    return (
        delta.target == at.target
        and delta.format in FORMATS
        and (delta.base is None) == (delta.format in WITHOUT_BASE)
        and (delta.format != ZSTD_PATCH or delta.base_length <= ZSTD_PATCH_BASE_BYTES_MAX)
        and delta.memory_bytes <= at.memory_budget_bytes
        # What an earlier download has brought already counts for the whole file.
        and delta.patch_length < at.target_length - at.staged_bytes
        and delta.patch_length + at.target_length <= at.free_bytes
        and (delta.base is None or held_bytes(delta.base) == delta.base_length)
    )
