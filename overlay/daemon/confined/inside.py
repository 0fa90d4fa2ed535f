"""A helper's own side: what it was given, and how it gives up everything else. The first thing that it imports."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overlay.daemon.confined import privileges
from overlay.daemon.confined.seccomp import Numbers


@dataclass(frozen=True, slots=True)
class Given:
    """What :class:`overlay.daemon.confined.process.Command` handed over.

    Attributes:
        control: the control socket; its end is the end of the helper.
        parent: the daemon's process id.
        descriptors: in the order of the command's.
        arguments: the command's.
    """

    control: socket.socket
    parent: int
    descriptors: tuple[int, ...]
    arguments: tuple[str, ...]


def given(arguments: Sequence[str], descriptors: int) -> Given:
    """``sys.argv[1:]``, of which so many are descriptors; from here on the daemon alone ends this process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a service manager or a terminal tells them to all; the daemon decides
    control, parent, *handed_over = map(int, arguments[: 2 + descriptors])
    rest = tuple(arguments[2 + descriptors :])
    return Given(socket.socket(fileno=control), parent, tuple(handed_over), rest)


def confine(name: str, parent: int, user: int, also: Mapping[str, Numbers] = privileges.NOTHING) -> bool:
    """Gives up every right that ``name`` has; False, and a line of why, where the kernel refuses: it must end then.

    Args:
        user: as whom it goes on; no other helper runs as that.
        also: system calls besides those that every helper may make.
    """
    try:
        privileges.drop(parent, user, also)
    except OSError as failure:
        print(
            f"{name}: cannot give up its privileges: {failure.strerror}; "
            "the daemon needs CAP_SETUID, CAP_SETGID and CAP_SETPCAP for that",
            file=sys.stderr,
        )
        return False
    return True
