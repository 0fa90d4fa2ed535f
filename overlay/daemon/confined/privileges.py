"""Giving up everything that a helper does not need, once it holds its descriptors.

What remains: a process of a user that nothing else runs as, with no capability in any set and no way to get one, with
some forty system calls, no core dumps, no files to write, no processes to start, that dies with the daemon.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Mapping
from types import MappingProxyType

from overlay.daemon.confined import seccomp
from overlay.linux import libc

FIRST_USER = 82850
"""uids and gids from here on are helpers', one each: the first is the userspace worker's. Between what services get (up
to 65,535) and the ranges of containers and their users (from 100,000 in /etc/subuid, from 524,288 in systemd), so they
are nobody's and need no entry in /etc/passwd."""
NOBODY = 65534
"""uid and gid of nobody and nogroup on Debian, and the kernel's overflow id; other daemons run as it, too."""

NICENESS = -10
"""About ten times the weight of an ordinary process: halfway to what the kernel allows."""

NOTHING: Mapping[str, seccomp.Numbers] = MappingProxyType({})

LAST_CAP_FILE = "/proc/sys/kernel/cap_last_cap"


def raise_priority() -> None:
    """Puts the process before ordinary ones, as packets in the kernel are; quietly not so without privileges.

    It takes CAP_SYS_NICE, or a RLIMIT_NICE that allows it, as the unit has.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def drop(parent: int, user: int, also: Mapping[str, seccomp.Numbers] = NOTHING) -> None:
    """Gives up root, all capabilities and the right to outlive ``parent``, for good.

    Without root there is nothing to give up but the last two; the same calls are made as far as they apply.

    Args:
        user: as whom to go on, from :data:`FIRST_USER` on.
        also: system calls besides :data:`seccomp.CALLS`.

    Raises:
        OSError: the kernel refused a step; the caller must not go on.
    """
    if os.geteuid() == 0:
        _empty_bounding_set()
        os.setgroups([])
        _change_user(user)
    libc.drop_capabilities()
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NICE):
        resource.setrlimit(limit, (0, 0))
    # Changing the user cleared it, so it comes last; a parent that died before is noticed by its number.
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError("the daemon is gone")
    seccomp.restrict({**seccomp.CALLS, **also})


def _change_user(user: int) -> None:
    for identity in (user, NOBODY):
        try:
            os.setresgid(identity, identity, identity)
            os.setresuid(identity, identity, identity)
        except OSError as failure:
            if failure.errno != errno.EINVAL or identity == NOBODY:  # EINVAL: this user namespace has no such id
                raise
        else:
            return


def _empty_bounding_set() -> None:
    with open(LAST_CAP_FILE, encoding="ascii") as file:
        last = int(file.read())
    for capability in range(last + 1):
        libc.prctl(libc.PR_CAPBSET_DROP, capability)
    libc.prctl(libc.PR_CAP_AMBIENT, libc.PR_CAP_AMBIENT_CLEAR_ALL)
