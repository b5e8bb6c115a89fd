"""A filter on system calls: what a model's process never needs is refused, not killed.

Two lists of refused calls, as classic BPF handed to seccomp(2). `REACHING_OUT` holds for every
worker: no sockets, no programs, no other process, no kernel doors. `FILES` comes on top when the
model's provider opens none. A refused call answers EPERM, so a library that merely tries goes on.
Numbers a kernel may learn later, and those of another calling convention, are refused as unknown.

Source: seccomp(2), linux/filter.h, the system call tables of x86-64 and of asm-generic.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_SECCOMP_SET_MODE_FILTER, _TSYNC = 1, 1
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_SET, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGUMENT_0 = 0, 4, 16
_CLONE_THREAD = 0x00010000
NEWEST_KNOWN = 462  # mseal, Linux 6.10; later ones answer ENOSYS, as an older kernel would


@dataclass(frozen=True, slots=True)
class _Machine:
    audit_arch: int  # linux/audit.h
    column: int  # of the tables below
    seccomp: int
    clone: int
    clone3: int
    tgkill: int
    prlimit: int


_MACHINES: Mapping[str, _Machine] = MappingProxyType(
    {
        "x86_64": _Machine(0xC000003E, 0, 317, 56, 435, 234, 302),
        "aarch64": _Machine(0xC00000B7, 1, 277, 220, 435, 131, 261),
    }
)

# name: number on x86-64, number on aarch64 (None: it has no such call)
_Table = Mapping[str, tuple[int | None, int | None]]
REACHING_OUT: _Table = MappingProxyType(
    {
        # the network, and any other door to a socket
        "socket": (41, 198),
        "socketpair": (53, 199),
        "bind": (49, 200),
        "listen": (50, 201),
        "connect": (42, 203),
        "accept": (43, 202),
        "accept4": (288, 242),
        "io_uring_setup": (425, 425),
        "io_uring_enter": (426, 426),
        "io_uring_register": (427, 427),
        # other programs and processes
        "execve": (59, 221),
        "execveat": (322, 281),
        "fork": (57, None),
        "vfork": (58, None),
        "ptrace": (101, 117),
        "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271),
        "process_madvise": (440, 440),
        "process_mrelease": (448, 448),
        "kcmp": (312, 272),
        "kill": (62, 129),
        "tkill": (200, 130),
        "rt_sigqueueinfo": (129, 138),
        "rt_tgsigqueueinfo": (297, 240),
        "pidfd_open": (434, 434),
        "pidfd_send_signal": (424, 424),
        "pidfd_getfd": (438, 438),
        "migrate_pages": (256, 238),
        "move_pages": (279, 239),
        "setpriority": (141, 140),
        "ioprio_set": (251, 30),
        "sched_setscheduler": (144, 119),
        "sched_setparam": (142, 118),
        "sched_setattr": (314, 274),
        # another user, another view of the machine
        "setuid": (105, 146),
        "setgid": (106, 144),
        "setreuid": (113, 145),
        "setregid": (114, 143),
        "setresuid": (117, 147),
        "setresgid": (119, 149),
        "setgroups": (116, 159),
        "unshare": (272, 97),
        "setns": (308, 268),
        "chroot": (161, 51),
        "pivot_root": (155, 41),
        "mount": (165, 40),
        "umount2": (166, 39),
        "open_tree": (428, 428),
        "move_mount": (429, 429),
        "fsopen": (430, 430),
        "fsconfig": (431, 431),
        "fsmount": (432, 432),
        "fspick": (433, 433),
        "mount_setattr": (442, 442),
        "name_to_handle_at": (303, 264),
        "open_by_handle_at": (304, 265),
        "personality": (135, 92),
        # the kernel's own doors
        "bpf": (321, 280),
        "perf_event_open": (298, 241),
        "userfaultfd": (323, 282),
        "keyctl": (250, 219),
        "add_key": (248, 217),
        "request_key": (249, 218),
        "kexec_load": (246, 104),
        "kexec_file_load": (320, 294),
        "init_module": (175, 105),
        "finit_module": (313, 273),
        "delete_module": (176, 106),
        "reboot": (169, 142),
        "swapon": (167, 224),
        "swapoff": (168, 225),
        "acct": (163, 89),
        "quotactl": (179, 60),
        "syslog": (103, 116),
        "settimeofday": (164, 170),
        "clock_settime": (227, 112),
        "clock_adjtime": (305, 266),
        "adjtimex": (159, 171),
        "sethostname": (170, 161),
        "setdomainname": (171, 162),
    }
)
# Landlock says nothing of modes, owners, times and attributes; a worker with the agent's own uid
# could open the agent's files to everybody.
FILES: _Table = MappingProxyType(
    {
        "open": (2, None),
        "creat": (85, None),
        "openat": (257, 56),
        "openat2": (437, 437),
        "memfd_create": (319, 279),
        "truncate": (76, 45),
        "chmod": (90, None),
        "fchmod": (91, 52),
        "fchmodat": (268, 53),
        "fchmodat2": (452, 452),
        "chown": (92, None),
        "lchown": (94, None),
        "fchown": (93, 55),
        "fchownat": (260, 54),
        "setxattr": (188, 5),
        "lsetxattr": (189, 6),
        "fsetxattr": (190, 7),
        "removexattr": (197, 14),
        "lremovexattr": (198, 15),
        "fremovexattr": (199, 16),
        "utime": (132, None),
        "utimes": (235, None),
        "futimesat": (261, None),
        "utimensat": (280, 88),
        "unlink": (87, None),
        "unlinkat": (263, 35),
        "rename": (82, None),
        "renameat": (264, 38),
        "renameat2": (316, 276),
        "link": (86, None),
        "linkat": (265, 37),
        "symlink": (88, None),
        "symlinkat": (266, 36),
        "mkdir": (83, None),
        "mkdirat": (258, 34),
        "rmdir": (84, None),
        "mknod": (133, None),
        "mknodat": (259, 33),
        "inotify_init": (253, None),
        "inotify_init1": (294, 26),
        "fanotify_init": (300, 262),
    }
)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse(calls: _Table) -> int:
    """Refuse these calls to every thread of this process, for good; returns how many calls.

    Needs ``no_new_privs``. Filters add up: a later one takes nothing back.

    Raises:
        OSError: no filter for this machine, or the kernel has none; nothing was refused.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None or struct.calcsize("P") != 8:
        raise OSError(f"no list of system calls for {platform.machine()}")
    numbers = [row[machine.column] for row in calls.values()]
    refused = [number for number in numbers if number is not None]
    code = program(refused, machine, pid=os.getpid())
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(
        ctypes.c_long(machine.seccomp),
        ctypes.c_long(_SECCOMP_SET_MODE_FILTER),
        ctypes.c_long(_TSYNC),
        ctypes.byref(_Program(len(code) // 8, code)),
    )
    if result != 0:
        error = ctypes.get_errno()
        reason = os.strerror(error) if result < 0 else f"thread {result} has a filter of its own"
        raise OSError(error, reason)
    return len(refused)


def program(refused: list[int], machine: _Machine, *, pid: int) -> bytes:
    """The filter. Every check falls through to the next; the last word is allow."""
    lines = [
        _line(_LOAD, 0, 0, _OFFSET_ARCH),
        _line(_JUMP_EQUAL, 1, 0, machine.audit_arch),
        _line(_RETURN, 0, 0, _KILL_PROCESS),
        _line(_LOAD, 0, 0, _OFFSET_NUMBER),
        _line(_JUMP_GREATER, 0, 1, NEWEST_KNOWN),
        _line(_RETURN, 0, 0, _ERRNO | _ENOSYS),
        # glibc takes the hint and starts its threads with clone, whose flags can be looked at.
        _line(_JUMP_EQUAL, 0, 1, machine.clone3),
        _line(_RETURN, 0, 0, _ERRNO | _ENOSYS),
    ]
    for number in refused:
        lines += [_line(_JUMP_EQUAL, 0, 1, number), _line(_RETURN, 0, 0, _ERRNO | _EPERM)]
    lines += [
        # A new thread, yes; a new process, no.
        _line(_JUMP_EQUAL, 0, 3, machine.clone),
        _line(_LOAD, 0, 0, _OFFSET_ARGUMENT_0),
        _line(_JUMP_SET, 5, 0, _CLONE_THREAD),
        _line(_RETURN, 0, 0, _ERRNO | _EPERM),
        # abort() sends itself a signal; nobody else gets one.
        _line(_JUMP_EQUAL, 0, 4, machine.tgkill),
        _line(_LOAD, 0, 0, _OFFSET_ARGUMENT_0),
        _line(_JUMP_EQUAL, 1, 0, pid),
        _line(_RETURN, 0, 0, _ERRNO | _EPERM),
        _line(_RETURN, 0, 0, _ALLOW),
        # Limits of this process, yes; those of another one, no.
        _line(_JUMP_EQUAL, 0, 3, machine.prlimit),
        _line(_LOAD, 0, 0, _OFFSET_ARGUMENT_0),
        _line(_JUMP_EQUAL, 1, 0, 0),
        _line(_RETURN, 0, 0, _ERRNO | _EPERM),
        _line(_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(lines)


def _line(code: int, if_true: int, if_false: int, constant: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, constant)
