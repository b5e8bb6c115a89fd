"""Files of gigabytes: what a patch takes to apply, and a file that installs over real TLS.

    .venv/bin/python bench/large_files.py            half an hour and 37 GB of disk

First, weights: every one of them is trained on a little, a patch is built within the memory that
the controller plans for it, and the agent's own decoder applies it. Second, a file of seeded bytes,
none of them zero, as long as a file may be: a device downloads it by digest, checks what is in its
store, and gets the next version as a patch that reads places beyond 2 and 4 GiB. Exit status 1
means that a process of the device held more than `MEMORY_MIB_MAX`, or that a digest differed; 2
that there is no room.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.delta import ours
from bench.large import contents
from bench.large.server import Served

from mailboat_schemas.documents.release import ARTIFACT_BYTES_MAX

MEMORY_MIB_MAX = 256  # of the decoder or of the agent, interpreter included
MARGIN_BYTES = 2 << 30  # of disk that is left alone
LONGER_BYTES_MAX = 108  # how much the next version of the bytes may be longer than the first
MIB, GIB = 1 << 20, 1 << 30
_spawn = multiprocessing.get_context(
    "spawn"
)  # a process of its own, with a high water mark of its own


def in_process(work: Callable[..., Any], *arguments: object) -> tuple[Any, int]:
    """What ``work`` returns, and the high water mark of the process that did it, in MiB."""
    here, there = _spawn.Pipe(duplex=False)
    process = _spawn.Process(target=_work, args=(there, work, arguments))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"{work.__name__} ended with {process.exitcode}") from None
    finally:
        process.join()


def _work(tell: Any, work: Callable[..., Any], arguments: Sequence[Any]) -> None:
    os.nice(5)
    found = work(*arguments)
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    tell.send((found, int(peak.split()[1]) >> 10))


# --- the controller ------------------------------------------------------------------------------


def build(base: Path, target: Path, scratch: Path) -> dict[str, Any]:
    """A tensor delta, in a process that may take no more than what is planned for it."""
    from mailboat_controller.deltas import portfolio
    from mailboat_schemas.patch_formats import TENSOR_DELTA

    room = portfolio.memory_to_build(base.stat().st_size, target.stat().st_size)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    built = portfolio.build(base, target, scratch, {TENSOR_DELTA}).candidates[0]
    delta = portfolio.describe(built, base, target)
    return {
        "patch": built.patch,
        "seconds": built.build_seconds,
        "delta": delta.model_dump(mode="json"),
    }


# --- the device ----------------------------------------------------------------------------------


def install(directory: Path, served: Served, digest: str, length: int) -> dict[str, Any]:
    """By digest over HTTPS into the store, and once more through sha256 as it is opened."""
    from mailboat_agent.artifacts.download import HttpsSource
    from mailboat_agent.artifacts.release_store import ReleaseStore

    store = ReleaseStore(directory)

    async def fetch() -> None:
        source = HttpsSource(served.url, served.trusted())
        try:
            hashed = await source.fetch_artifact(digest, length, store.staging_path(digest))
            store.admit(digest, length, hashed)
        finally:
            await source.close()

    began = time.monotonic()
    asyncio.run(fetch())
    fetched = time.monotonic()
    os.close(store.open_verified(digest))
    return {"seconds": fetched - began, "check_seconds": time.monotonic() - fetched}


def patch(directory: Path, served: Served, told: dict[str, Any], length: int) -> dict[str, Any]:
    """Brought by the agent's delta room; the decoder is its own, and tells its memory."""
    from mailboat_agent.artifacts.download import HttpsSource
    from mailboat_agent.artifacts.release_store import ReleaseStore
    from mailboat_agent.delta.choice import Offered
    from mailboat_agent.delta.decoding import Decoding
    from mailboat_agent.delta.delivery import Tally
    from mailboat_agent.delta.room import DeltaRoom
    from mailboat_schemas.deltas import Delta

    delta, tally, store = Delta.model_validate(told), Tally(), ReleaseStore(directory)

    async def bring() -> bool:
        source = HttpsSource(served.url, served.trusted())
        measured = partial(Decoding, program=(*ours.PROGRAM, str(directory / "memory")))
        room = DeltaRoom(
            store=store,
            source=lambda: source,
            memory_budget_bytes=MEMORY_MIB_MAX * MIB,
            decoding=measured,
        )
        try:
            offered = Offered("large", (delta,))
            return await room.bring(delta.target, length, offered, tally, lambda *_: None)
        finally:
            await source.close()

    began = time.monotonic()
    with ours.told(directory / "memory") as numbers:
        brought = asyncio.run(bring())
    seconds = time.monotonic() - began
    if not brought:
        raise SystemExit(f"the patch came to nothing: {tally.evidence()}")
    os.close(store.open_verified(delta.target))
    return {
        "seconds": seconds,
        "decoder_mib": numbers[1] >> 10,
        "above_bare_mib": (numbers[1] - numbers[0]) >> 10,
    }


# --- both parts ----------------------------------------------------------------------------------


def measured_weights(directory: Path, gib: float) -> dict[str, Any]:
    """All weights of one file are trained on."""
    base, target = directory / "base", directory / "target"
    in_process(contents.write_weights, base, target, int(gib * GIB))
    return _updated(directory, base, target, "weights")


def measured_bytes(directory: Path, gib: float) -> dict[str, Any]:
    """A few places change, and what stands behind one of them moves by seven bytes."""
    base, target = directory / "base", directory / "target"
    length = min(int(gib * GIB), ARTIFACT_BYTES_MAX - LONGER_BYTES_MAX)
    places, _ = in_process(contents.write_bytes, base, target, length)
    return {**_updated(directory, base, target, "bytes"), "changed_at": places}


def _updated(directory: Path, base: Path, target: Path, what: str) -> dict[str, Any]:
    length = target.stat().st_size
    built, build_mib = in_process(build, base, target, directory)
    target.unlink()  # all that is known of it from here on is its digest
    device = directory / "device"
    delta = built["delta"]
    files = {delta["base"]: base, delta["patch"]: built["patch"]}
    with Served(directory, files) as served:
        installed, install_mib = in_process(
            install, device, served, delta["base"], base.stat().st_size
        )
        base.unlink()
        patched, patch_mib = in_process(patch, device, served, delta, length)
    return {
        "what": what,
        "bytes": length,
        "patch_bytes": delta["patch_length"],
        "declared_mib": delta["memory_bytes"] >> 20,
        "build_seconds": built["seconds"],
        "build_mib_with_mapped_files": build_mib,
        "install_seconds": installed["seconds"],
        "check_seconds": installed["check_seconds"],
        "install_mib": install_mib,
        "patch_seconds": patched["seconds"],
        "decoder_mib": patched["decoder_mib"],
        "decoder_above_bare_mib": patched["above_bare_mib"],
        "agent_mib": patch_mib,
        "ok": max(patched["decoder_mib"], patch_mib, install_mib) < MEMORY_MIB_MAX,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=2, help="of weights, to be patched")
    parser.add_argument("--install-gib", type=float, default=8, help="of bytes, to be installed")
    parser.add_argument("--directory", type=Path, help="where there is room; the default is TMPDIR")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    parts = ((measured_weights, options.gib), (measured_bytes, options.install_gib))
    found = []
    for measure, gib in parts:
        if not gib:
            continue
        with tempfile.TemporaryDirectory(dir=options.directory, prefix="large-") as name:
            needed = int(4 * gib * GIB) + MARGIN_BYTES
            if shutil.disk_usage(name).free < needed:
                print(f"{needed >> 30} GiB of disk are needed in {name}", file=sys.stderr)
                return 2
            found.append(measure(Path(name), gib))
        if not options.json:
            print("\n".join(contents.lines(found[-1])), flush=True)
    if options.json:
        print(json.dumps(found))
    return 0 if all(each["ok"] for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
