"""The verdicts of ``bench/delta``: they decide whether a claim in the documentation stands."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from bench.delta import measured, peers
from bench.delta.bar import MEMORY_KIB_MAX, Row, judge, overall
from bench.delta.fixtures import Kind

WHOLE = 100_000


def outcome(patch_bytes: int, **more: float) -> peers.Outcome:
    return peers.Outcome(tool="any", patch_bytes=patch_bytes, **more)


def row(kind: Kind, ours: int, **theirs: int) -> Row:
    names = {"zstd": "zstd --patch-from", "bsdiff4": "bsdiff4", "hdiff": "HDiffPatch"}
    return Row(
        name="a pair",
        kind=kind,
        note="",
        content="",
        base_bytes=WHOLE,
        target_bytes=WHOLE,
        ours=outcome(ours),
        peers={peers.FULL: outcome(WHOLE)} | {names[key]: outcome(n) for key, n in theirs.items()},
        above_bare_kib=1024,
    )


def test_level_with_the_smallest_is_two_percent_and_no_more() -> None:
    assert judge(row(Kind.NONE, 1020, hdiff=1000)).misses == ()
    assert judge(row(Kind.NONE, 1021, hdiff=1000)).misses == ("2.1 % (21 bytes) over HDiffPatch",)


def test_on_trained_weights_level_is_not_enough() -> None:
    assert judge(row(Kind.WHOLE, 1000, hdiff=1000)).misses == (
        "not strictly smaller than HDiffPatch",
    )
    assert judge(row(Kind.WHOLE, 999, hdiff=1000)).misses == ()


@pytest.mark.parametrize(("peer", "enough"), [("bsdiff4", 900), ("hdiff", 750), ("zstd", 750)])
def test_on_floats_every_peer_has_its_own_distance(peer: str, enough: int) -> None:
    assert judge(row(Kind.FLOATS, enough, **{peer: 1000})).misses == ()
    assert len(judge(row(Kind.FLOATS, enough + 1, **{peer: 1000})).misses) == 1


def test_a_small_patch_that_takes_too_much_memory_misses_the_bar() -> None:
    small = row(Kind.NONE, 1, hdiff=1000)

    assert judge(replace(small, above_bare_kib=MEMORY_KIB_MAX)).misses == ()
    assert len(judge(replace(small, above_bare_kib=MEMORY_KIB_MAX + 1)).misses) == 1


def test_nothing_to_ship_and_nothing_to_compare_with_both_miss_the_bar() -> None:
    assert judge(replace(row(Kind.NONE, 1), ours=peers.Outcome(tool="any", problem="no"))).misses
    assert judge(replace(row(Kind.NONE, 1), peers={})).misses


def test_building_less_than_five_times_as_fast_as_bsdiff4_misses_the_bar() -> None:
    def built(seconds: float) -> Row:
        theirs: Mapping[str, peers.Outcome] = {"bsdiff4": outcome(1000, build_seconds=5.0)}
        return replace(row(Kind.FLOATS, 1), ours=outcome(1, build_seconds=seconds), peers=theirs)

    assert overall([built(1.0)]) == []
    assert len(overall([built(1.1)])) == 1


def test_a_tool_that_makes_another_file_has_no_size(tmp_path: Path) -> None:
    base, target = tmp_path / "base", tmp_path / "target"
    base.write_bytes(b"old")
    target.write_bytes(b"new")
    pair = peers.Pair(base, target, tmp_path)

    def copied(content: bytes) -> peers.Peer:
        def apply(at: peers.Pair) -> measured.Run:
            at.patch.write_bytes(b"patch")
            at.made.write_bytes(content)
            return measured.Run(0.0, None)

        return peers.Peer("copy", "none", "none", apply, apply)

    assert peers.measure(copied(b"new"), pair).patch_bytes == 5
    assert peers.measure(copied(b"nex"), pair).problem == "what it made is not the target"


def test_the_peak_memory_of_a_child_is_its_own_and_not_its_parents() -> None:
    held = bytearray(b"x" * (200 << 20))  # a fork of this process would count it

    small = measured.run([sys.executable, "-S", "-c", "pass"])
    large = measured.run([sys.executable, "-S", "-c", "held = b'x' * (50 << 20)"])

    assert len(held) == 200 << 20
    assert small.peak_kib is not None
    assert large.peak_kib is not None
    assert small.peak_kib < 40 << 10
    assert 50 << 10 < large.peak_kib - small.peak_kib + (2 << 10) < 60 << 10


def test_a_program_that_fails_says_so_with_its_own_words() -> None:
    with pytest.raises(measured.Failed, match="ended with 3: no such luck"):
        measured.run(
            [
                sys.executable,
                "-S",
                "-c",
                "import sys; print('no such luck', file=sys.stderr); sys.exit(3)",
            ]
        )
    with pytest.raises(measured.Failed, match="No such file"):
        measured.run(["/no/such/program"])
