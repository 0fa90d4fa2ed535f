"""Giving up everything that the worker does not need, once it holds its descriptors.

What remains: a process of a user that nothing else runs as, with no capability in any set and no way to get one, with
some forty system calls, no core dumps, no files to write, no processes to start, that dies with the agent.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal

from overlay.daemon.confined import seccomp
from overlay.linux import libc

OWN_USER = 82850
"""uid and gid of workers alone. Between what services get (up to 65,535) and the ranges of containers and their users
(from 100,000 in /etc/subuid, from 524,288 in systemd), so it is nobody's and needs no entry in /etc/passwd."""
NOBODY = 65534
"""uid and gid of nobody and nogroup on Debian, and the kernel's overflow id; other daemons run as it, too."""

NICENESS = -10
"""About ten times the weight of an ordinary process: halfway to what the kernel allows."""

LAST_CAP_FILE = "/proc/sys/kernel/cap_last_cap"


def raise_priority() -> None:
    """Puts the process before ordinary ones, as packets in the kernel are; quietly not so without privileges.

    It takes CAP_SYS_NICE, or a RLIMIT_NICE that allows it, as the unit has.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def drop(parent: int) -> None:
    """Gives up root, all capabilities and the right to outlive ``parent``, for good.

    Without root there is nothing to give up but the last two; the same calls are made as far as they apply.

    Raises:
        OSError: the kernel refused a step; the caller must not go on.
    """
    if os.geteuid() == 0:
        _empty_bounding_set()
        os.setgroups([])
        _change_user()
    libc.drop_capabilities()
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NICE):
        resource.setrlimit(limit, (0, 0))
    # Changing the user cleared it, so it comes last; a parent that died before is noticed by its number.
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError("the agent is gone")
    seccomp.restrict()


def _change_user() -> None:
    for identity in (OWN_USER, NOBODY):
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
