"""Memory that the start has taken and nothing needs any more, given back to the machine.

What Python and its libraries allocate while they are imported and set up is mostly free again, and
stays with the C library, which gives back only what lies at its end. An arena for each thread would
keep as much again. And of the libraries' code more is mapped than is used after the start: those
pages are let go, and the few that are needed after all come back from the page cache.

Where the C library or the kernel does not know a call, nothing is done.

Source: malloc_trim(3), mallopt(3), madvise(2), smaps in proc_pid_smaps(5).
"""

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

_M_ARENA_MAX = -8  # malloc.h
ARENAS_MAX = 2  # threads here wait for each other anyway, for the interpreter's lock
_MADV_DONTNEED = 4  # linux/mman.h, all machines but alpha and parisc


def share_arenas() -> None:
    """Before there is a second thread."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS_MAX)


def give_back() -> None:
    """Some ten milliseconds; whatever is in use stays."""
    gc.collect()
    libc = ctypes.CDLL(None)
    malloc_trim = getattr(libc, "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))
    try:
        smaps = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for address, size in unaltered(smaps):
        libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), _MADV_DONTNEED)


def unaltered(smaps: str) -> Iterator[tuple[int, int]]:
    """Address and bytes of mapped code and constants that are in memory exactly as in their file.

    Of libraries. Only that can be let go: what was altered, such as by relocation, is nowhere else.
    """
    address = size = 0
    for line in smaps.splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            begin, end = (int(number, 16) for number in first.split("-"))
            # Libraries stay where they are; another file might be gone by now, and something else
            # in its place.
            is_library = len(rest) > 4 and ".so" in rest[-1].rpartition("/")[2]
            is_read = rest[0] in ("r-xp", "r--p")
            address, size = begin, end - begin if is_library and is_read else 0
        elif first == "Anonymous:" and size and rest[0] == "0":
            yield address, size
