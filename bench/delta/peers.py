"""The tools we are compared with, each run as its users run it, at the setting that makes it small.

A tool is built with, then applied; what it made is compared with the target byte for byte. What is
not installed is named with the way to get it, and the bench goes on without.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.delta import measured

FULL = "zstd -19"  # of the whole target: what every ratio is to
HERE = Path(__file__).parent
CHUNK_BYTES = 8192  # casync's default of 64 KiB is a full download of a model of a few megabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one tool did with one pair. ``problem`` says why there is nothing."""

    tool: str
    patch_bytes: int | None = None
    build_seconds: float | None = None
    apply_seconds: float | None = None
    apply_peak_kib: int | None = None
    problem: str | None = None
    detail: str = ""  # such as the format that was chosen


@dataclass(frozen=True, slots=True)
class Pair:
    """Two files and an empty directory to work in."""

    base: Path
    target: Path
    scratch: Path

    @property
    def patch(self) -> Path:
        return self.scratch / "patch"

    @property
    def made(self) -> Path:
        return self.scratch / "made"


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    package: str  # what to install if it is not there
    settings: str  # for the reader
    build: Callable[[Pair], measured.Run]
    apply: Callable[[Pair], measured.Run]
    size: Callable[[Pair], int] = lambda pair: pair.patch.stat().st_size
    program: str | None = None  # None is a Python library

    def missing(self, libraries: Path) -> str | None:
        if self.program is None:
            found = (libraries / self.name.lower()).is_dir()
        else:
            found = shutil.which(self.program) is not None
        return None if found else f"not installed ({self.package})"

    def version(self, libraries: Path) -> str:
        if self.program is None:
            found = next(libraries.glob(f"{self.name.lower()}-*.dist-info"), None)
            return found.name.split("-")[1].removesuffix(".dist") if found else "?"
        flag = "-V" if self.program == "xdelta3" else "--version"
        command = [self.program, flag]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        # Each has its name before the number, with digits in some: "xdelta3", "(64-bit)".
        found = re.search(
            r"(?:version|v|casync|zchunk)\W*(\d[\d.]*)", f"{done.stdout} {done.stderr}", re.I
        )
        return found.group(1).rstrip(".") if found else "?"


def measure(peer: Peer, pair: Pair) -> Outcome:
    try:
        built = peer.build(pair)
        size = peer.size(pair)
        applied = peer.apply(pair)
    except (measured.Failed, OSError) as error:
        return Outcome(tool=peer.name, problem=str(error))
    if not same_bytes(pair.made, pair.target):
        return Outcome(tool=peer.name, problem="what it made is not the target")
    return Outcome(
        tool=peer.name,
        patch_bytes=size,
        build_seconds=built.seconds,
        apply_seconds=applied.seconds,
        apply_peak_kib=applied.peak_kib,
    )


def same_bytes(left: Path, right: Path) -> bool:
    if left.stat().st_size != right.stat().st_size:
        return False
    with left.open("rb") as one, right.open("rb") as other:
        while chunk := one.read(1 << 20):
            if chunk != other.read(1 << 20):
                return False
    return True


def all_peers(libraries: Path) -> Iterator[Peer]:
    """``libraries`` is where `fetch_libraries` put the Python ones."""
    yield Peer(
        name=FULL,
        settings="of the whole target, one file",
        build=_full_build,
        apply=_full_apply,
        program="zstd",
        package="apt: zstd",
    )
    yield Peer(
        name="zstd --patch-from",
        settings="-19 --long=31",
        build=_patch_from_build,
        apply=_patch_from_apply,
        program="zstd",
        package="apt: zstd",
    )
    settings = {"bsdiff4": "file_diff", "HDiffPatch": "diff, Lzma2Config.best_compression()"}
    for name, setting in settings.items():
        build, apply = _library(name.lower(), libraries)
        yield Peer(name, f"PyPI: {name.lower()}", setting, build, apply)
    yield Peer(
        name="xdelta3",
        settings="-9 -S lzma -B (size of the base)",
        build=_xdelta_build,
        apply=_xdelta_apply,
        program="xdelta3",
        package="apt: xdelta3",
    )
    yield Peer(
        name="casync",
        settings=f"--chunk-size={CHUNK_BYTES}; chunks that the base lacks, and the index",
        build=_casync_build,
        apply=_casync_apply,
        size=_casync_size,
        program="casync",
        package="apt: casync",
    )
    yield Peer(
        name="zchunk",
        settings="automatic chunks; what zck_delta_size says; applying is unzck alone",
        build=_zchunk_build,
        apply=_zchunk_apply,
        size=_zchunk_size,
        program="zck",
        package="apt: zchunk",
    )


def fetch_libraries(into: Path) -> str | None:
    """bsdiff4 and HDiffPatch, pinned by hash, out of the way of our own environment.

    Returns why not, if they could not be had.
    """
    if into.is_dir():
        return None
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"]
    fresh = into.with_suffix(".part")
    shutil.rmtree(fresh, ignore_errors=True)
    command += ["--target", str(fresh), "-r", str(HERE / "peers.txt")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return errors[-1] if errors else f"pip ended with {done.returncode}"
    fresh.rename(into)
    return None


# --- zstd ----------------------------------------------------------------------------------------


def _full_build(pair: Pair) -> measured.Run:
    return measured.run(["zstd", "-q", "-f", "-19", str(pair.target), "-o", str(pair.patch)])


def _full_apply(pair: Pair) -> measured.Run:
    return measured.run(["zstd", "-q", "-f", "-d", str(pair.patch), "-o", str(pair.made)])


def _patch_from_build(pair: Pair) -> measured.Run:
    command = ["zstd", "-q", "-f", "-19", "--long=31", f"--patch-from={pair.base}"]
    return measured.run([*command, str(pair.target), "-o", str(pair.patch)])


def _patch_from_apply(pair: Pair) -> measured.Run:
    command = ["zstd", "-q", "-f", "-d", "--long=31", f"--patch-from={pair.base}"]
    return measured.run([*command, str(pair.patch), "-o", str(pair.made)])


# --- Python libraries ----------------------------------------------------------------------------


def _library(
    tool: str, libraries: Path
) -> tuple[Callable[[Pair], measured.Run], Callable[[Pair], measured.Run]]:
    # No site: an interpreter with these two libraries and nothing else.
    program = [
        "env",
        f"PYTHONPATH={libraries}",
        sys.executable,
        "-S",
        str(HERE / "library.py"),
        tool,
    ]

    def build(pair: Pair) -> measured.Run:
        return measured.run([*program, "diff", *map(str, (pair.base, pair.target, pair.patch))])

    def apply(pair: Pair) -> measured.Run:
        return measured.run([*program, "apply", *map(str, (pair.base, pair.patch, pair.made))])

    return build, apply


# --- xdelta3 -------------------------------------------------------------------------------------


def _xdelta_build(pair: Pair) -> measured.Run:
    window = str(max(1 << 19, pair.base.stat().st_size))  # else it forgets the base
    command = ["xdelta3", "-e", "-f", "-9", "-S", "lzma", "-B", window, "-s", str(pair.base)]
    return measured.run([*command, str(pair.target), str(pair.patch)])


def _xdelta_apply(pair: Pair) -> measured.Run:
    window = str(max(1 << 19, pair.base.stat().st_size))
    command = ["xdelta3", "-d", "-f", "-B", window, "-s", str(pair.base)]
    return measured.run([*command, str(pair.patch), str(pair.made)])


# --- chunk stores: a device fetches the chunks it lacks, and the index ---------------------------


def _casync(pair: Pair, verb: str, which: str, *more: str) -> list[str]:
    store, index = pair.scratch / f"{which}.castr", pair.scratch / f"{which}.caibx"
    return ["casync", verb, f"--store={store}", *more, str(index)]


def _casync_build(pair: Pair) -> measured.Run:
    chunks = f"--chunk-size={CHUNK_BYTES}"
    measured.run([*_casync(pair, "make", "base", chunks), str(pair.base)])
    return measured.run([*_casync(pair, "make", "target", chunks), str(pair.target)])


def _casync_apply(pair: Pair) -> measured.Run:
    return measured.run(
        [*_casync(pair, "extract", "target", f"--seed={pair.base}"), str(pair.made)]
    )


def _casync_size(pair: Pair) -> int:
    held = {path.name for path in (pair.scratch / "base.castr").rglob("*.cacnk")}
    lacking = (
        path.stat().st_size
        for path in (pair.scratch / "target.castr").rglob("*.cacnk")
        if path.name not in held
    )
    return sum(lacking) + (pair.scratch / "target.caibx").stat().st_size


def _zchunk_build(pair: Pair) -> measured.Run:
    measured.run(["zck", "-o", str(pair.scratch / "base.zck"), str(pair.base)])
    return measured.run(["zck", "-o", str(pair.patch), str(pair.target)])


def _zchunk_apply(pair: Pair) -> measured.Run:
    """Unpacking alone: its downloader wants a web server, which is not what is measured here."""
    return measured.run(["unzck", "-c", str(pair.patch)], stdout=pair.made)


def _zchunk_size(pair: Pair) -> int:
    command = ["zck_delta_size", str(pair.scratch / "base.zck"), str(pair.patch)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"Would download (\d+) of", said)
    if found is None:
        raise measured.Failed(f"zck_delta_size said {said.strip()[:200]}")
    return int(found.group(1))
