"""A filter on system calls: what a model's process never needs is refused, not killed.

Lists of refused calls, and of arguments that are refused. `REACHING_OUT` holds for every worker: no
sockets, no programs, no other process, nothing that would outlive this one, no kernel doors.
`FILES` comes on top when the model's provider opens none. A refused call answers EPERM, so a
library that merely tries goes on.

Source: seccomp(2), the system call tables of x86-64 and of asm-generic.
"""

import ctypes
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mailboat_agent.serving.seccomp_program import Refused, machine_of_this_host, program

_SECCOMP_SET_MODE_FILTER, _TSYNC = 1, 1
_CLONE_THREAD = 0x00010000
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY = 8, 10, 15, 1024, 1026
_FIOSETOWN, _SIOCSPGRP = 0x8901, 0x8902
_PR_SET_PDEATHSIG = 1
_MAP_SHARED, _MAP_ANONYMOUS, _MAP_GROWSDOWN = 0x01, 0x20, 0x100
_WHOLE = 0xFFFFFFFF

_Numbers = tuple[int | None, int | None]  # on x86-64, on aarch64; None: it has no such call
_Table = Mapping[str, _Numbers]
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
        # what stays when this process is gone, and is counted against nobody
        "shmget": (29, 194),
        "shmat": (30, 196),
        "shmctl": (31, 195),
        "semget": (64, 190),
        "semop": (65, 193),
        "semtimedop": (220, 192),
        "semctl": (66, 191),
        "msgget": (68, 186),
        "msgsnd": (69, 189),
        "msgrcv": (70, 188),
        "msgctl": (71, 187),
        "mq_open": (240, 180),
        "mq_unlink": (241, 181),
        "sync": (162, 81),
        "syncfs": (306, 267),
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
        "memfd_secret": (447, 447),
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


# Every thread has a stack in the kernel that no limit of memory counts, and its share of the
# processor. A CPU session has all of its threads once it stands; the release's code gets none.
THREADS: _Table = MappingProxyType({"clone": (56, 220)})


def _refused(
    numbers: _Numbers, argument: int, value: int, mask: int = _WHOLE
) -> tuple[_Numbers, Refused]:
    return numbers, Refused(argument=argument, mask=mask, value=value)


_FCNTL, _IOCTL, _MMAP = (72, 25), (16, 29), (9, 222)
_OWNERS = (
    # A file may send a signal to whoever is named here, SIGKILL too, at the next byte that comes.
    *(_refused(_FCNTL, 1, command) for command in (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX)),
    *(_refused(_IOCTL, 1, command) for command in (_FIOSETOWN, _SIOCSPGRP)),
    # Whoever opens the file next waits, for as long as 45 s.
    *(_refused(_FCNTL, 1, command) for command in (_F_SETLEASE, _F_NOTIFY)),
)
# RLIMIT_DATA counts neither pages that could be shared nor stacks that grow downwards.
_UNCOUNTED_MEMORY = (
    _refused(_MMAP, 3, _MAP_SHARED | _MAP_ANONYMOUS, _MAP_SHARED | _MAP_ANONYMOUS),
    _refused(_MMAP, 3, _MAP_GROWSDOWN, _MAP_GROWSDOWN),
)
_LIVING_ON = (_refused((157, 167), 0, _PR_SET_PDEATHSIG),)
_F_SETFL, _FIOASYNC = 4, 0x5452


def _cutting(lifeline: int) -> tuple[tuple[_Numbers, Refused], ...]:
    """Every way to have a descriptor say no more that its other end has closed."""
    return (
        _refused((3, 57), 0, lifeline),  # close
        _refused((33, None), 1, lifeline),  # dup2, onto it
        _refused((292, 24), 1, lifeline),  # dup3
        _refused((436, 436), 0, 0, mask=0),  # close_range, whatever the range
        _refused(_FCNTL, 1, _F_SETFL),
        _refused(_IOCTL, 1, _FIOASYNC),
    )


def refuse_reaching_out() -> int:
    """No other process, no network. Signals and limits are for this process alone; a new thread,
    yes, a new process, no.

    Raises:
        OSError: as `_install`, and so for all of them.
    """
    own = (
        ((56, 220), Refused(argument=0, mask=_CLONE_THREAD, value=_CLONE_THREAD, unless=True)),
        ((234, 131), Refused(argument=0, value=os.getpid(), unless=True)),  # tgkill, for abort()
        ((302, 261), Refused(argument=0, value=0, unless=True)),  # prlimit
    )
    return _install(REACHING_OUT, (*own, *_OWNERS))


def refuse_files() -> int:
    """No file, and no memory that the limit of memory does not count."""
    return _install(FILES, _UNCOUNTED_MEMORY)


def refuse_living_on(lifeline: int | None) -> int:
    """It was arranged that this process dies with the agent, and that stays so."""
    return _install({}, (*_LIVING_ON, *(() if lifeline is None else _cutting(lifeline))))


def refuse_threads() -> int:
    return _install(THREADS, ())


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _install(calls: _Table, arguments: Sequence[tuple[_Numbers, Refused]]) -> int:
    """Refuse these to every thread of this process, for good; returns how many.

    Needs ``no_new_privs``. Filters add up: a later one takes nothing back.

    Raises:
        OSError: no filter for this machine, or the kernel has none; nothing was refused.
    """
    machine = machine_of_this_host()
    column = machine.column
    refused = [number for row in calls.values() if (number := row[column]) is not None]
    by_argument = [(number, what) for row, what in arguments if (number := row[column]) is not None]
    code = program(refused, by_argument, machine)
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
    return len(refused) + len(by_argument)
