"""What a device downloads for an update: our portfolio against every tool, pair by pair.

    .venv/bin/python -m bench.delta            a table of the quick pairs, under three minutes
    .venv/bin/python -m bench.delta --full     all pairs, 90 MB of weights too
    .venv/bin/python -m bench.delta --full --write docs

Exit status 1 means that the bar was missed somewhere, 2 that nothing could be measured.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from bench.delta import ours, peers, report, wheels
from bench.delta.bar import Row, judge, overall
from bench.delta.fixtures import Fixture, all_fixtures, written

CACHE = Path(__file__).parents[2] / ".cache" / "delta"
PLOT = "delta-results.svg"


Earlier = Mapping[str, Mapping[str, peers.Outcome]]  # what peers made of a pair, by its content
NOTHING: Earlier = MappingProxyType({})


def compare(
    fixture: Fixture, tools: Sequence[peers.Peer], cache: Path, earlier: Earlier = NOTHING
) -> Row:
    base, target = written(cache, fixture)
    content = content_of(base, target)
    found = {tool.name: earlier.get(content, {}).get(tool.name) for tool in tools}
    for tool in tools:
        if found[tool.name] is not None:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            found[tool.name] = peers.measure(tool, peers.Pair(base, target, Path(scratch)))
    with tempfile.TemporaryDirectory() as scratch:
        shipped, applied = ours.measure(peers.Pair(base, target, Path(scratch)))
    # Nothing ships where nothing saves a tenth: the device fetches the file as it is.
    whole = peers.Outcome(
        tool=ours.OURS, patch_bytes=target.stat().st_size, detail="the file as it is"
    )
    return Row(
        name=fixture.name,
        kind=fixture.kind,
        note=fixture.note,
        content=content,
        base_bytes=base.stat().st_size,
        target_bytes=target.stat().st_size,
        ours=shipped.outcome if shipped else whole,
        peers={name: outcome for name, outcome in found.items() if outcome is not None},
        candidates=[each.outcome for each in applied],
        above_bare_kib=shipped.above_bare_kib if shipped else None,
    )


def content_of(*files: Path) -> str:
    digests = b""
    for path in files:
        with path.open("rb") as stream:
            digests += hashlib.file_digest(stream, "sha256").digest()
    return hashlib.sha256(digests).hexdigest()


def peers_of(run: Path) -> Earlier:
    """What an earlier run's ``--json`` says of the peers."""
    return {
        row["content"]: {name: peers.Outcome(**told) for name, told in row["peers"].items()}
        for row in json.loads(run.read_text())["rows"]
    }


def misses(rows: Sequence[Row]) -> list[str]:
    by_pair = [f"{row.name}: {miss}" for row in rows for miss in judge(row).misses]
    broken = [
        f"{row.name}: {each.detail} could not be applied: {each.problem}"
        for row in rows
        for each in row.candidates
        if each.problem is not None
    ]
    return [*by_pair, *broken, *overall(rows)]


def gaps(rows: Sequence[Row], tools: Sequence[peers.Peer]) -> list[str]:
    """Where we were compared with less than all tools, and why."""
    there = {tool.name for tool in tools}
    absent = [name for name in (peers.FULL, *report.PEERS) if name not in there]
    return [
        *(f"{name} is not installed: nothing was compared with it" for name in absent),
        *(
            f"{row.name}: {name} came to nothing: {outcome.problem}"
            for row in rows
            for name, outcome in row.peers.items()
            if outcome.problem is not None
        ),
    ]


def tools_there(cache: Path) -> tuple[list[peers.Peer], list[str]]:
    """The tools that can run, and a sentence on each, also on those that cannot."""
    libraries = cache / "peers"
    problem = peers.fetch_libraries(libraries)
    there, said = [], []
    for peer in peers.all_peers(libraries):
        missing = peer.missing(libraries)
        if missing is None:
            there.append(peer)
            said.append(f"{peer.name} {peer.version(libraries)} ({peer.package}): {peer.settings}")
        else:
            said.append(f"{peer.name}: {missing}{f': {problem}' if problem else ''}")
    return there, said


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measured(
    chosen: Sequence[Fixture], tools: Sequence[peers.Peer], cache: Path, earlier: Earlier
) -> list[Row]:
    rows = []
    for fixture in chosen:
        began = time.monotonic()
        try:
            row = compare(fixture, tools, cache, earlier)
        except wheels.Unavailable as error:
            say(f"{fixture.name}: left out, {error}")
            continue
        rows.append(row)
        ratio = row.ratio(row.ours)
        words = "–" if ratio is None else f"{ratio:.5f}"
        say(f"{row.name:22} {words}  {judge(row).words}  ({time.monotonic() - began:.0f} s)")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--full", action="store_true", help="the large pairs, too")
    parser.add_argument("--only", default="", help="pairs with this in their name")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--write", type=Path, help="write the page and the plot here")
    parser.add_argument(
        "--peers-from", type=Path, help="take the other tools' figures from this run's --json"
    )
    options = parser.parse_args(arguments)
    earlier = peers_of(options.peers_from) if options.peers_from else NOTHING
    os.nice(5)  # a bench that stops everybody else measures them too
    options.cache.mkdir(parents=True, exist_ok=True)
    tools, said = tools_there(options.cache)
    chosen = [each for each in all_fixtures() if each.quick or options.full or options.only]
    chosen = [each for each in chosen if options.only in each.name]
    rows = measured(chosen, tools, options.cache, earlier)
    if not rows:
        say("No pair could be had: look at the network and at pip's configuration.")
        return 2
    missed, lacking = misses(rows), gaps(rows, tools)
    if options.write is not None:
        page = report.page(rows, tools=said, missed=missed, gaps=lacking, plot=PLOT)
        (options.write / "delta-results.md").write_text(page)
        (options.write / PLOT).write_text(report.plot(rows))
    if options.json:
        found = {"missed": missed, "not_compared": lacking, "tools": said}
        print(json.dumps({"rows": [asdict(row) for row in rows], **found}))
    else:
        print("\n".join(report.sizes(rows)))
        print("\n".join(["", *said, "", *lacking, *(missed or ["The bar is met on every pair."])]))
    return 1 if missed else 0


if __name__ == "__main__":
    shutil.rmtree(CACHE / "peers.part", ignore_errors=True)
    sys.exit(main())
