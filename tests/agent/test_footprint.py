import subprocess
import sys
from pathlib import Path

from mailboat_agent.footprint import unaltered

SMAPS = """\
55d0c8a00000-55d0c8b00000 r--p 00000000 fe:01 1 /usr/lib/libpython3.11.so.1.0
Rss:                 500 kB
Anonymous:             0 kB
55d0c8b00000-55d0c8c00000 r-xp 00100000 fe:01 1 /usr/lib/libpython3.11.so.1.0
Rss:                 900 kB
Anonymous:             0 kB
7f0000000000-7f0000001000 r-xp 00000000 fe:01 2 /lib/with text relocations.so
Rss:                   4 kB
Anonymous:             4 kB
7f0000002000-7f0000003000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
7f0000004000-7f0000005000 rwxp 00000000 00:00 0
Anonymous:             0 kB
7f0000005000-7f0000006000 r--p 00000000 fe:01 4 /usr/lib/locale/archive
Anonymous:             0 kB
7f0000006000-7f0000007000 rw-p 00000000 fe:01 3 /lib/data.so
Anonymous:             0 kB
"""

IN_A_PROCESS = """
import ssl, sqlite3, threading
from mailboat_agent.footprint import give_back, share_arenas

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1])

share_arenas()
kept = [bytes(1000) for _ in range(20_000)]
taken = [bytes(1000) for _ in range(40_000)]
last = bytes(1000)  # lies at the end: without being asked, nothing before it is given back
del taken
before = resident()
give_back()
print(before - resident())
assert set(kept) == {bytes(1000)}
sqlite3.connect(":memory:").execute("select 1").fetchone()
ssl.create_default_context()
"""


def test_only_what_is_as_in_its_file_is_let_go() -> None:
    assert list(unaltered(SMAPS)) == [
        (0x55D0C8A00000, 0x100000),
        (0x55D0C8B00000, 0x100000),
    ]


def test_what_is_free_goes_back_and_what_is_used_still_works() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS], check=True, capture_output=True, text=True
    )

    assert int(done.stdout) > 20_000  # KiB, of the 40,000 that were let go
    assert Path("/proc/self/smaps").exists()
