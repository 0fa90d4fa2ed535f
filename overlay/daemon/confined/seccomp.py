"""The system calls that a helper may make, and no others (seccomp(2), filter mode).

An allow-list: what is not on it fails with EPERM, as does memory that is to be executed. A call by another
architecture's numbers ends the process. The classic BPF program is written here, so no library is needed.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from overlay.linux import libc

_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_NOT_BELOW, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _THIRD_ARGUMENT = 0, 4, 32
"""Offsets in ``struct seccomp_data`` (linux/seccomp.h); the last one's lower half: both machines are little-endian."""
_PROT_EXEC = 4
_X32 = 0x40000000
"""``__X32_SYSCALL_BIT``: numbers of a second x86-64 ABI begin there."""

Numbers: TypeAlias = tuple[int | None, int | None]
"""Of one call, on x86-64 and on arm64."""

CALLS: Mapping[str, Numbers] = MappingProxyType(
    {
        # Packets and messages.
        "read": (0, 63),
        "write": (1, 64),
        "readv": (19, 65),
        "writev": (20, 66),
        "sendto": (44, 206),
        "recvfrom": (45, 207),
        "sendmsg": (46, 211),
        "recvmsg": (47, 212),
        "sendmmsg": (307, 269),
        "recvmmsg": (299, 243),
        "setsockopt": (54, 208),
        "getsockopt": (55, 209),
        "getsockname": (51, 204),
        "ioctl": (16, 29),
        "fcntl": (72, 25),
        "close": (3, 57),
        # Waiting, and what time it is.
        "epoll_create1": (291, 20),
        "epoll_ctl": (233, 21),
        "epoll_wait": (232, None),
        "epoll_pwait": (281, 22),
        "poll": (7, None),
        "ppoll": (271, 73),
        "clock_gettime": (228, 113),
        "clock_nanosleep": (230, 115),
        "nanosleep": (35, 101),
        "restart_syscall": (219, 128),
        "sched_yield": (24, 124),
        # Memory; mmap and mprotect without execution.
        "brk": (12, 214),
        "mmap": (9, 222),
        "mprotect": (10, 226),
        "munmap": (11, 215),
        "mremap": (25, 216),
        "madvise": (28, 233),
        "futex": (202, 98),
        "getrandom": (318, 278),
        # Signals, and the end.
        "rt_sigaction": (13, 134),
        "rt_sigprocmask": (14, 135),
        "rt_sigreturn": (15, 139),
        "sigaltstack": (131, 132),
        "getpid": (39, 172),
        "gettid": (186, 178),
        "exit": (60, 93),
        "exit_group": (231, 94),
    }
)
"""Numbers on x86-64 (asm/unistd_64.h) and on arm64 (asm-generic/unistd.h); None where there is no such call."""

_WITHOUT_EXECUTION = ("mmap", "mprotect")


@dataclass(frozen=True, slots=True)
class Machine:
    """How a processor's calls are told.

    Attributes:
        audit: its ``AUDIT_ARCH_…`` (linux/audit.h).
        column: of :data:`CALLS`.
    """

    audit: int
    column: int


MACHINES: Mapping[str, Machine] = MappingProxyType(
    {"x86_64": Machine(0xC000003E, 0), "aarch64": Machine(0xC00000B7, 1)}
)


def program(machine: Machine, calls: Mapping[str, Numbers] = CALLS) -> bytes:
    """The filter: ``struct sock_filter`` after ``struct sock_filter`` (linux/filter.h)."""
    numbers = {name: number for name, each in calls.items() if (number := each[machine.column]) is not None}
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in _instructions(machine.audit, numbers))


def _instructions(audit: int, numbers: Mapping[str, int]) -> Iterator[tuple[int, int, int, int]]:
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    yield (_LOAD, 0, 0, _ARCHITECTURE)
    yield (_JUMP_EQUAL, 1, 0, audit)
    yield (_RETURN, 0, 0, _KILL_PROCESS)
    yield (_LOAD, 0, 0, _NUMBER)
    yield (_JUMP_NOT_BELOW, 0, 1, _X32)
    yield (_RETURN, 0, 0, _KILL_PROCESS)
    for name, number in numbers.items():
        if name in _WITHOUT_EXECUTION:
            yield (_JUMP_EQUAL, 0, 4, number)
            yield (_LOAD, 0, 0, _THIRD_ARGUMENT)
            yield (_JUMP_SET, 0, 1, _PROT_EXEC)
            yield refuse
        else:
            yield (_JUMP_EQUAL, 0, 1, number)
        yield (_RETURN, 0, 0, _ALLOW)
    yield refuse


def restrict(calls: Mapping[str, Numbers] = CALLS) -> bool:
    """Leaves this process with ``calls``, for good; needs no_new_privs. False where it is not known how.

    Raises:
        OSError: the kernel refused.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None or struct.calcsize("P") != 8:
        return False
    try:
        libc.filter_system_calls(program(machine, calls))
    except OSError as error:
        if error.errno == errno.EINVAL:  # a kernel that was built without it
            return False
        raise OSError(error.errno, "cannot restrict its system calls") from error
    return True
