"""Classic BPF for seccomp(2): which calls, and which of their arguments, answer EPERM.

Numbers that a kernel may learn later, and those of another calling convention, are refused as
unknown.

Source: linux/filter.h, linux/seccomp.h, linux/audit.h.
"""

import platform
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_LOAD, _AND, _JUMP_EQUAL, _JUMP_GREATER, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGUMENTS, _ARGUMENT_BYTES = 0, 4, 16, 8
NEWEST_KNOWN = 462  # mseal, Linux 6.10; later ones answer ENOSYS, as an older kernel would


@dataclass(frozen=True, slots=True)
class Machine:
    """``column`` is its place in tables of call numbers."""

    audit_arch: int
    column: int
    seccomp: int
    clone3: int


MACHINES: Mapping[str, Machine] = MappingProxyType(
    {
        "x86_64": Machine(audit_arch=0xC000003E, column=0, seccomp=317, clone3=435),
        "aarch64": Machine(audit_arch=0xC00000B7, column=1, seccomp=277, clone3=435),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A call whose argument, by the bits of ``mask``, is ``value``; ``unless``: is not.

    The lower 32 bits of it: what is looked at is an int to the kernel too, or flags among them.
    """

    argument: int
    value: int
    mask: int = 0xFFFFFFFF
    unless: bool = False


def machine_of_this_host() -> Machine:
    """
    Raises:
        OSError: there is no table for it.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None or struct.calcsize("P") != 8:
        raise OSError(f"no list of system calls for {platform.machine()}")
    return machine


def program(
    calls: Sequence[int], arguments: Sequence[tuple[int, Refused]], machine: Machine
) -> bytes:
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
    for number in calls:
        lines += [_line(_JUMP_EQUAL, 0, 1, number), _line(_RETURN, 0, 0, _ERRNO | _EPERM)]
    for number, refused in arguments:
        if_equal, if_other = (1, 0) if refused.unless else (0, 1)
        lines += [
            _line(_LOAD, 0, 0, _OFFSET_NUMBER),
            _line(_JUMP_EQUAL, 0, 4, number),
            _line(_LOAD, 0, 0, _OFFSET_ARGUMENTS + _ARGUMENT_BYTES * refused.argument),
            _line(_AND, 0, 0, refused.mask),
            _line(_JUMP_EQUAL, if_equal, if_other, refused.value),
            _line(_RETURN, 0, 0, _ERRNO | _EPERM),
        ]
    lines.append(_line(_RETURN, 0, 0, _ALLOW))
    return b"".join(lines)


def _line(code: int, if_true: int, if_false: int, constant: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, constant)
