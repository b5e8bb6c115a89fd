"""A worker that loads makes way for those that answer; once it answers itself, it is their equal.

Only where the agent can take it back: to give a process its priority again needs CAP_SYS_NICE.
Source: setpriority(2), "C library/kernel differences": a number is of one thread.
"""

import os
from contextlib import suppress
from pathlib import Path

LOADING_NICE = 10  # a ninth of the processor time of one that answers, if both want it
_CAP_SYS_NICE = 1 << 23


def can_be_given_back() -> bool:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    effective = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) & _CAP_SYS_NICE)


def make_way(pid: int) -> None:
    """From its start on; threads that it makes do as it does."""
    if pid > 0 and can_be_given_back():
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, LOADING_NICE)


def be_equal(pid: int) -> None:
    """All of its threads again as the agent's own."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(OSError):
        for thread in list(Path(f"/proc/{pid}/task").iterdir()):
            with suppress(OSError):
                if os.getpriority(os.PRIO_PROCESS, int(thread.name)) > own:
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), own)
