"""A large file goes in, out and through a copy in a few megabytes of memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mailboat_controller.artifacts.settings import ArtifactSettings

# The S3 of the tests keeps every part in files of its own, twice: less shows the same there.
FILE_MIB = {"directory": 1024, "s3": 128}
# Above a bare process that has the modules loaded; an upload in parts holds three of 8 MiB.
MEMORY_MIB_MAX = 64

PROGRAM = """
import hashlib, resource, sys
from pathlib import Path
from mailboat_controller.artifacts.opening import open_store
from mailboat_controller.artifacts.settings import ArtifactSettings

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

settings = ArtifactSettings.model_validate_json(sys.argv[1])
artifacts = open_store(settings, Path(sys.argv[2]))
MIB, file_mib = 1 << 20, int(sys.argv[3])

def chunks():
    seed = hashlib.sha256(b"seed").digest()
    for number in range(file_mib):
        yield hashlib.shake_128(seed + number.to_bytes(4, "big")).digest(4096) * 256

seen = hashlib.sha256()
for chunk in chunks():
    seen.update(chunk)
digest = seen.hexdigest()
bare = peak_mib()
assert artifacts.put(digest, chunks(), file_mib * MIB)
stored = peak_mib()
again = hashlib.sha256()
for chunk in artifacts.read(digest):
    again.update(chunk)
assert again.hexdigest() == digest
with artifacts.local_file(digest) as path:
    assert path.stat().st_size == file_mib * MIB
tail = b"".join(artifacts.read(digest, (file_mib - 1) * MIB))
assert tail == list(chunks())[-1] if file_mib < 8 else len(tail) == MIB
print(bare, stored, peak_mib())
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_is_bounded_however_large_the_file(
    settings: ArtifactSettings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"request_seconds": 60})
    words = [settings.model_dump_json(), str(tmp_path / "artifacts"), str(FILE_MIB[settings.store])]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )

    assert done.returncode == 0, done.stderr
    bare, stored, peak = map(int, done.stdout.split())
    assert peak - bare < MEMORY_MIB_MAX, f"bare {bare}, after put {stored}, after all {peak} MiB"
