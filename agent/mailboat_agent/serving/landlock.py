"""Landlock: this process, and whatever it becomes, reaches no path at all.

A ruleset that handles every right and grants none. It needs no privilege but ``no_new_privs`` and
cannot be undone. Source: landlock(7), include/uapi/linux/landlock.h.
"""

import ctypes
import os
from pathlib import Path

_SYS_CREATE_RULESET, _SYS_RESTRICT_SELF = 444, 446  # the same numbers on every architecture
_CREATE_RULESET_VERSION = 1

# Rights by the ABI that brought them: older kernels refuse a ruleset with bits they do not know.
_FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # …, refer, truncate, ioctl
_NETWORK = {4: 0b11}  # binding and connecting TCP sockets
_SCOPES = {6: 0b11}  # abstract unix sockets and signals beyond this domain


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


_SIZE_OF_ABI = {1: 8, 4: 16, 6: 24}


def abi() -> int:
    """The kernel's Landlock version.

    Raises:
        OSError: built without it (ENOSYS), or not switched on at boot (EOPNOTSUPP).
    """
    return _syscall(_SYS_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)


def reach_no_path() -> int:
    """Restrict the calling thread and those it starts; returns the ABI. Ask for a single thread.

    Descriptors that are open stay as they are. ``no_new_privs`` must be set.

    Raises:
        OSError: nothing was restricted.
    """
    if (threads := threads_of_this_process()) != 1:
        raise OSError(f"{threads} threads run already, and it would bind one of them")
    version = abi()
    ruleset = _Ruleset(
        handled_access_fs=_up_to(version, _FILES),
        handled_access_net=_up_to(version, _NETWORK),
        scoped=_up_to(version, _SCOPES),
    )
    size = max(size for since, size in _SIZE_OF_ABI.items() if since <= version)
    descriptor = _syscall(_SYS_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    try:
        _syscall(_SYS_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)
    return version


def threads_of_this_process() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _up_to(version: int, rights: dict[int, int]) -> int:
    return sum(bits for since, bits in rights.items() if since <= version)


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
