"""What encryption costs: sealing, opening and a cold start, beside plain sha256 and copying.

    python bench/sealing.py [--mebibytes 50] [--rounds 5]

Everything is measured in one run on one machine and printed with its ratio to the plain way:
the ratio says more about another machine than the figure does.
"""

import argparse
import hashlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mailboat_agent.sealed_memory import verified_memory
from mailboat_schemas.sealing import (
    HEADER_BYTES,
    SEGMENT_BYTES,
    TAG_BYTES,
    open_sealed,
    salt_of,
    seal,
)

MIB = 1 << 20
KEY = secrets.token_bytes(32)


def chunks(path: Path, size: int = MIB) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(size):
            yield chunk


def sealed_chunks(path: Path) -> Iterator[bytes]:
    """As the agent reads them: the header, then whole segments."""
    with path.open("rb", buffering=0) as file:
        yield file.read(HEADER_BYTES)
        while chunk := file.read(16 * (SEGMENT_BYTES + TAG_BYTES)):
            yield chunk


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    for chunk in chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def copy_hashed(source: Path, target: Path) -> str:
    """The plain way into a build: one pass, hashed while it is copied."""
    digest = hashlib.sha256()
    with target.open("wb") as writer:
        for chunk in chunks(source):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def seal_file(source: Path, target: Path) -> None:
    """The encrypted way into a build: a pass for the digest, another to encrypt and hash."""
    salt = salt_of(KEY, hash_file(source), source.stat().st_size)
    digest = hashlib.sha256()
    with target.open("wb") as writer:
        for piece in seal(chunks(source), KEY, salt):
            digest.update(piece)
            writer.write(piece)


def load_plain(path: Path, digest: str) -> None:
    os.close(verified_memory(chunks(path), digest))


def load_sealed(path: Path, digest: str) -> None:
    os.close(verified_memory(open_sealed(sealed_chunks(path), KEY), digest))


def best_seconds(work: Callable[[], object], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def peak_mib(way: str, path: Path, digest: str, key: str) -> float:
    """Of a fresh process, above what it needs to start; without the memory of the plaintext."""
    code = (
        "import sys, hashlib, resource; sys.path.insert(0, sys.argv[1]);"
        "import sealing as b; from pathlib import Path; b.KEY = bytes.fromhex(sys.argv[4]);"
        "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "p = Path(sys.argv[3]); d = hashlib.sha256();"
        "[d.update(c) for c in (b.chunks(p) if sys.argv[2] == 'plain' else"
        " b.open_sealed(b.sealed_chunks(p), b.KEY))];"
        "assert d.hexdigest() == sys.argv[5];"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)"
    )
    words = [sys.executable, "-c", code, str(Path(__file__).parent), way, str(path), key, digest]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    size, rounds = options.mebibytes * MIB, options.rounds
    with tempfile.TemporaryDirectory() as directory:
        plain, copied, sealed = (Path(directory) / name for name in ("plain", "copied", "sealed"))
        plain.write_bytes(os.urandom(size))
        digest = hash_file(plain)
        rows = [
            ("into a build", lambda: copy_hashed(plain, copied), lambda: seal_file(plain, sealed)),
            ("cold start", lambda: load_plain(plain, digest), lambda: load_sealed(sealed, digest)),
        ]
        print(f"{options.mebibytes} MiB, best of {rounds}, {os.cpu_count()} cores")
        print(f"{'':14}{'plain':>20}{'encrypted':>20}{'ratio':>8}")
        for name, one, other in rows:
            other()  # makes the file that the next row reads, and warms the cache
            a, b = best_seconds(one, rounds), best_seconds(other, rounds)
            left, right = (f"{t * 1000:.0f} ms {size / t / MIB:.0f} MiB/s" for t in (a, b))
            print(f"{name:14}{left:>20}{right:>20}{b / a:>8.2f}")
        left, right = (
            peak_mib(way, path, digest, KEY.hex())
            for way, path in (("plain", plain), ("sealed", sealed))
        )
        print(f"{'above start':14}{left:>16.1f} MiB{right:>16.1f} MiB")
        overhead = sealed.stat().st_size / size - 1
        print(f"{'on disk':14}{'':20}{f'+{overhead:.4%}':>20}")


if __name__ == "__main__":
    main()
