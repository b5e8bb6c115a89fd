"""What a process has taken of the machine, by the kernel's word."""

from pathlib import Path


def peak_memory_bytes(pid: int) -> int:
    """Largest resident size so far (VmHWM); 0 if it is gone. Source: proc_pid_status(5)."""
    return _status_bytes(pid, "VmHWM:")


def memory_bytes(pid: int) -> int:
    """What it holds now of its own (RssAnon); 0 if it is gone. Source: proc_pid_status(5)."""
    return _status_bytes(pid, "RssAnon:")


def _status_bytes(pid: int, name: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0  # a zombie has none


def available_memory_bytes() -> int | None:
    """What the machine can still give without swapping; None where the kernel does not say."""
    return _meminfo("MemAvailable:")


def total_memory_bytes() -> int | None:
    """Of the machine; None where the kernel does not say."""
    return _meminfo("MemTotal:")


def _meminfo(name: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(name)), None)
    return None if found is None else int(found.split()[1]) * 1024
